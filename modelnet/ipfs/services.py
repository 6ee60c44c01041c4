"""Targets that are other people's machines: a Pinning Service API endpoint, and an IPFS Cluster.

Both are told a CID and fetch it themselves; we ask until they say that they have it. What they say is only a claim:
`modelnet.ipfs.audit` asks for blocks.

    service  POST /pins {cid, name, origins, meta} → queued|pinning|pinned|failed     Bearer token
             POST /pins/{requestid}                 replaces a pin and keeps the blocks that both have
    cluster  POST /pins/{cid}?name=&replication-min=&replication-max=&pin-update=     Basic or Bearer
             GET  /pins/{cid}                       the state at each peer

Sources: ipfs/pinning-services-api-spec 1.0.0; ipfs-cluster REST API (api/rest/restapi.go, api/types.go, v1.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelnet.core.cid import Cid
from modelnet.errors import MalformedError, UnavailableError
from modelnet.ipfs.rest import Rest, RestRefusedError
from modelnet.wording import printable

__all__ = ["ClusterTarget", "Remote", "ServiceTarget", "is_request", "wait"]

MAX_ORIGINS = 20  # pinning service: Origins and Delegates, maxItems
MAX_NAME = 255
MAX_TEXT = 200
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 10.0
PATIENCE_S = 600.0  # without any change of state; a large model takes hours, but then its state is `pinning`
LONGEST_S = 24 * 3600.0
OTHER_CID = "pin-cid"
STATES = ("queued", "pinning", "pinned", "failed")

# The specification allows any text; an id becomes part of a URL and of a file, and those in use are of letters.
_REQUEST = re.compile(r"[!-~]{1,255}")

PINNED_AT = frozenset(["pinned"])
BUSY_AT = frozenset(["pinning", "pin_queued", "unpinning", "unpin_queued"])
FAILED_AT = frozenset(["pin_error", "cluster_error", "unpin_error", "unexpectedly_unpinned"])


def is_request(text: object) -> bool:
    """Tell whether `text` can be the id of a request."""
    return isinstance(text, str) and _REQUEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Remote:
    """A pin at a service: its state, the request's id there, and whom the service asks us to connect to."""

    state: str
    request: str | None = None
    delegates: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A Pinning Service API endpoint."""

    rest: Rest
    meta: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.rest.url

    def begin(self, root: Cid, name: str, origins: Sequence[str] = (), *, replaces: str | None = None) -> Remote:
        """Ask for a pin, in place of the request `replaces` where one is given."""
        body: dict[str, Any] = {"cid": str(root), "name": name[:MAX_NAME]}
        if origins:
            body["origins"] = list(dict.fromkeys(origins))[:MAX_ORIGINS]
        if self.meta:
            body["meta"] = dict(self.meta)
        if replaces is not None:
            try:
                return self._parse(self.rest.ask("POST", "pins", replaces, body=body), root)
            except RestRefusedError as error:
                if error.status != 404:
                    raise
                # It is gone there already: then there is nothing to replace.
        return self._parse(self.rest.ask("POST", "pins", body=body), root)

    def look(self, root: Cid, request: str | None) -> Remote:
        """Return the state of a request, or of the newest one for `root` where its id is not known."""
        if request is not None:
            try:
                return self._parse(self.rest.ask("GET", "pins", request), root)
            except RestRefusedError as error:
                if error.status == 404:
                    return Remote("absent")
                raise
        # Without a filter only pinned ones are listed.
        told = self.rest.ask("GET", "pins", query={"cid": str(root), "status": ",".join(STATES), "limit": "1"})
        results = told.get("results") if isinstance(told, dict) else None
        if not isinstance(results, list):
            raise MalformedError("not a list of pins", rule="pinning-service", source=self.rest.url)
        return self._parse(results[0], root) if results else Remote("absent")

    def remove(self, root: Cid, request: str | None) -> bool:
        """Remove a pin; tell whether there was one.

        A service may keep the id of a request whose pin was replaced by another: that one is left alone.
        """
        try:
            request = self.look(root, request).request
        except MalformedError as error:
            if error.rule == OTHER_CID and request is not None:
                return False
            raise
        if request is None:
            return False
        try:
            self.rest.ask("DELETE", "pins", request)
        except RestRefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _parse(self, told: Any, root: Cid) -> Remote:
        if not isinstance(told, dict):
            raise MalformedError("not a pin", rule="pinning-service", source=self.rest.url)
        request, state, pin = told.get("requestid"), told.get("status"), told.get("pin")
        delegates, extra = told.get("delegates"), told.get("info")
        if not isinstance(request, str) or not is_request(request) or state not in STATES:
            raise MalformedError("a pin without id or state", rule="pinning-service", source=self.rest.url)
        if not isinstance(pin, dict) or pin.get("cid") != str(root):
            raise MalformedError(
                "the service speaks of another CID", rule=OTHER_CID, wanted=root,
                got=printable(str(pin.get("cid") if isinstance(pin, dict) else pin)[:MAX_TEXT]), source=self.rest.url,
            )  # fmt: skip
        detail = extra.get("status_details") if isinstance(extra, dict) else None
        named = delegates if isinstance(delegates, list) else []
        return Remote(
            state, request, tuple(item for item in named[:MAX_ORIGINS] if isinstance(item, str)),
            printable(detail[:MAX_TEXT]) if isinstance(detail, str) else "",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """An IPFS Cluster's REST API; `least` and `most` are its replication factors (-1: every peer; None: its own)."""

    rest: Rest
    least: int | None = None
    most: int | None = None

    def __str__(self) -> str:
        return self.rest.url

    def begin(self, root: Cid, name: str, origins: Sequence[str] = (), *, replaces: str | None = None) -> Remote:
        """Ask for a pin; `replaces` is the CID of the version before, from whose pin the peers start."""
        query = {"name": name[:MAX_NAME], "mode": "recursive"}
        for key, value in (("replication-min", self.least), ("replication-max", self.most)):
            if value is not None:
                query[key] = str(value)
        if origins:
            query["origins"] = ",".join(dict.fromkeys(origins))
        if replaces is not None and replaces != str(root):
            query["pin-update"] = replaces
        self.rest.ask("POST", "pins", str(root), query=query)
        return self.look(root, None)

    def look(self, root: Cid, request: str | None) -> Remote:
        """Return what the peers say together; `request` means nothing here."""
        del request
        try:
            told = self.rest.ask("GET", "pins", str(root))
        except RestRefusedError as error:
            if error.status == 404:
                return Remote("absent")
            raise
        peers = told.get("peer_map") if isinstance(told, dict) else None
        if not isinstance(peers, dict):
            raise MalformedError("not the state of a pin", rule="cluster", source=self.rest.url)
        told_cid = told.get("cid")
        if isinstance(told_cid, dict):
            told_cid = told_cid.get("/")
        if told_cid != str(root):
            raise MalformedError("the cluster speaks of another CID", rule="cluster", wanted=root, source=self.rest.url)
        states = [str(peer.get("status")) for peer in peers.values() if isinstance(peer, dict)]
        return Remote(self._together(states), str(root), (), _tally(states))

    def _together(self, states: Sequence[str]) -> str:
        """Pinned once as many peers as were asked for have it; failed when none is at work and some could not."""
        pinned = sum(state in PINNED_AT for state in states)
        busy = any(state in BUSY_AT for state in states)
        failed = any(state in FAILED_AT for state in states)
        if not pinned and not busy:
            return "failed" if failed else "absent"
        wanted = self.least if self.least is not None and self.least > 0 else 1
        if self.least == -1 or self.least is None:
            # All that were allocated: nobody may still be at work or have failed.
            return "pinning" if busy else "failed" if failed else "pinned"
        return "pinned" if pinned >= wanted else "pinning" if busy else "failed"

    def remove(self, root: Cid, request: str | None) -> bool:
        """Remove a pin; tell whether there was one."""
        del request
        try:
            self.rest.ask("DELETE", "pins", str(root))
        except RestRefusedError as error:
            if error.status == 404:
                return False
            raise
        return True


def _tally(states: Sequence[str]) -> str:
    counted = {state: states.count(state) for state in dict.fromkeys(states) if state not in {"remote", "unpinned"}}
    return ", ".join(f"{count} {printable(state[:40])}" for state, count in counted.items())


def wait(
    target: ServiceTarget | ClusterTarget,
    root: Cid,
    remote: Remote,
    *,
    patience_s: float = PATIENCE_S,
    longest_s: float = LONGEST_S,
    told: Callable[[Remote], None] = lambda _: None,
) -> Remote:
    """Ask until the pin stands; raise `UnavailableError` when it failed, vanished or nothing changes any more.

    `patience_s` is for a state that stays the same and is not `pinning`.
    """
    started = changed = time.monotonic()
    pause = FIRST_WAIT_S
    while remote.state != "pinned":
        now = time.monotonic()
        if remote.state in {"failed", "absent"}:
            raise UnavailableError(
                f"the pin {'failed' if remote.state == 'failed' else 'is not there'}", rule="pin-failed", wanted=root,
                got=remote.detail or None, source=str(target), hint="can it reach a node that has the release?",
            )  # fmt: skip
        if now - started > longest_s or (remote.state != "pinning" and now - changed > patience_s):
            raise UnavailableError(
                f"the pin is still {remote.state}", rule="pin-waiting", wanted=root, got=remote.detail or None,
                source=str(target), hint="ask later with `modelnet pin status`",
            )  # fmt: skip
        time.sleep(min(pause, LONGEST_WAIT_S))
        pause *= 1.5
        before, remote = remote, target.look(root, remote.request)
        if remote != before:
            changed = time.monotonic()
            told(remote)
    return remote
