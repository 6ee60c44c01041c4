"""Where a release can be pinned, and how that is written on a command line.

    kubo                                   the Kubo of this user
    kubo=/ip4/10.0.0.5/tcp/5001            another one, by its RPC
    service=https://pin.example.com/psa    a Pinning Service API endpoint; its token from $MODELNET_PIN_TOKEN
    cluster=http://10.0.0.7:9094           an IPFS Cluster; $MODELNET_CLUSTER_AUTH: bearer:TOKEN or basic:USER:PASSWORD

    …,weight=2          gets twice as many models as others
    …,token=VARIABLE    another environment variable for the secret (service, cluster)
    …,gateway=URL       where audits ask for blocks (service, cluster: they have no other way to read)
    …,min=2,max=3       replication factors (cluster)

Secrets are in the environment, never in these words: the words are written down beside the pins.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from modelnet.core.cid import Cid
from modelnet.errors import ModelnetError, UnavailableError, UsageError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.kubo import Kubo
from modelnet.ipfs.push import push
from modelnet.ipfs.rest import Rest, token_from
from modelnet.ipfs.services import ClusterTarget, Remote, ServiceTarget, wait
from modelnet.progress import SILENT, Progress
from modelnet.stores.http import Connection, HttpSource
from modelnet.stores.local import LocalStore

__all__ = ["KuboPins", "PinJob", "PinTarget", "Pinned", "RemotePins", "Target", "connector"]

KINDS = {
    "kubo": frozenset(["weight"]),
    "service": frozenset(["weight", "token", "gateway"]),
    "cluster": frozenset(["weight", "token", "gateway", "min", "max"]),
}
TOKENS = {"service": "MODELNET_PIN_TOKEN", "cluster": "MODELNET_CLUSTER_AUTH"}
MAX_WEIGHT = 1e6
_HINT = "kubo, kubo=ADDRESS, service=URL or cluster=URL, then ,weight=2 and the like: see `modelnet pin add --help`"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FACTOR = re.compile(r"-1|[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class PinJob:
    """A release to pin: its root, the pin's name, addresses that have it, and the pin that it supersedes there.

    `begun` is told the request's id at a service as soon as there is one, long before the pin stands.
    """

    root: Cid
    name: str
    origins: Sequence[str] = ()
    replaces: Cid | None = None
    replaces_request: str | None = None
    begun: Callable[[str | None], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin that stands: the request's id at a service, and the bytes that were sent for it."""

    request: str | None = None
    sent: int = 0


class PinTarget(Protocol):
    """Something that keeps a release pinned."""

    def pin(self, job: PinJob, progress: Progress = SILENT) -> Pinned:
        """Return when the pin stands; raise `ModelnetError` when it does not. What it replaces may be there still."""

    def look(self, root: Cid, request: str | None = None) -> Remote:
        """Return what the target says about the pin: queued, pinning, pinned, failed or absent."""

    def unpin(self, root: Cid, request: str | None = None) -> bool:
        """Remove the pin; tell whether there was one."""

    def block(self, cid: Cid) -> bytes:
        """Return a verified block that the target itself has, or raise `ModelnetError`."""

    def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target as somebody wrote it."""

    kind: str
    address: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`; raise `UsageError` with the forms there are."""
        place, *rest = text.split(",")
        kind, equals, address = place.partition("=")
        options: dict[str, str] = {}
        for item in rest:
            name, given, value = item.partition("=")
            if not given or name in options or name not in KINDS.get(kind, ()):
                raise _wrong(text, f"the option {name!r}")
            options[name] = value
        target = cls(kind, address, options)
        if kind not in KINDS or (not address and (equals or kind != "kubo")):
            raise _wrong(text, "no such target" if kind not in KINDS else "its address is missing")
        if not 0 < target.weight <= MAX_WEIGHT:
            raise _wrong(text, "the weight")
        if not _VARIABLE.fullmatch(options.get("token", "X")):
            raise _wrong(text, "the name of the token's variable")
        if not all(_FACTOR.fullmatch(options[name]) for name in ("min", "max") if name in options):
            raise _wrong(text, "a replication factor")
        for name, url in (("address", address if kind != "kubo" else None), ("gateway", options.get("gateway"))):
            try:
                if url is not None:
                    HttpSource.parse(url)
            except UsageError as error:
                raise _wrong(text, f"its {name} is no URL such as https://host/path") from error
        return target

    @property
    def weight(self) -> float:
        """How much of the models it gets, relative to others."""
        try:
            return float(self.options.get("weight", "1"))
        except ValueError:
            return 0.0

    @property
    def name(self) -> str:
        """The target without its options: what it is known by."""
        return f"{self.kind}={self.address}" if self.address else self.kind

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{name}={value}" for name, value in self.options.items())])

    def open(self, store: LocalStore, connect: Callable[[Sequence[str]], None] = lambda _: None) -> PinTarget:
        """Return the target itself; releases come from `store`, `connect` is told whom a service wants to hear from.

        Raises `ModelnetError` when it is not to be reached.
        """
        if self.kind == "kubo":
            return KuboPins(store, Kubo.connect(KuboAddress.parse(self.address)))
        variable = self.options.get("token", TOKENS[self.kind])
        secret = token_from(variable)
        gateway = self.options.get("gateway")
        if self.kind == "service":
            rest = Rest(self.address.rstrip("/"), f"Bearer {secret}" if secret else None)
            return RemotePins(ServiceTarget(rest, {"application": "modelnet"}), gateway, connect)
        least, most = (int(self.options[name]) if name in self.options else None for name in ("min", "max"))
        rest = Rest(self.address.rstrip("/"), _authorization(variable, secret))
        return RemotePins(ClusterTarget(rest, least, most), gateway, connect)


def _wrong(text: str, what: str) -> UsageError:
    return UsageError(f"not a target to pin at: {text[:200]!r}, {what}", rule="pin-target", hint=_HINT)


def _authorization(variable: str, secret: str | None) -> str | None:
    if secret is None:
        return None
    kind, _, rest = secret.partition(":")
    if kind == "bearer" and rest:
        return f"Bearer {rest}"
    if kind == "basic" and ":" in rest:
        return f"Basic {base64.b64encode(rest.encode()).decode()}"
    raise UsageError(f"${variable} is not understood", rule="token", hint="bearer:TOKEN or basic:USER:PASSWORD")


class KuboPins:
    """A Kubo that we can talk to: content is pushed into it."""

    def __init__(self, store: LocalStore, kubo: Kubo) -> None:
        """Push from `store` into `kubo`."""
        self.store = store
        self.kubo = kubo

    def pin(self, job: PinJob, progress: Progress = SILENT) -> Pinned:
        """See `PinTarget.pin`."""
        if not self.kubo.is_tried:
            progress.note(f"{self.kubo} is of version {self.kubo.version}, which modelnet was never tried with")
        pushed = push(self.store, self.kubo, job.root, job.name, progress=progress)
        return Pinned(None, pushed.sent)

    def look(self, root: Cid, request: str | None = None) -> Remote:
        """See `PinTarget.look`."""
        name = self.kubo.pinned(root)
        return Remote("absent", request) if name is None else Remote("pinned", request, (), name)

    def unpin(self, root: Cid, request: str | None = None) -> bool:
        """See `PinTarget.unpin`."""
        del request
        return self.kubo.unpin(root)

    def block(self, cid: Cid) -> bytes:
        """See `PinTarget.block`: from the repository alone, not from whom it could ask."""
        return self.kubo.block(cid, offline=True)

    def close(self) -> None:
        """See `PinTarget.close`."""
        self.kubo.close()


class RemotePins:
    """A service that fetches by itself."""

    def __init__(
        self,
        service: ServiceTarget | ClusterTarget,
        gateway: str | None,
        connect: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Pin at `service`; audit through `gateway`; `connect` is given the addresses that the service named."""
        self.service = service
        self._connection: Connection | None = None if gateway is None else HttpSource.parse(gateway).connect()
        self._connect = connect

    def pin(self, job: PinJob, progress: Progress = SILENT) -> Pinned:
        """See `PinTarget.pin`; a superseded pin is replaced in one step where the service can do that."""
        now = self.service.look(job.root, None)
        if now.state not in {"queued", "pinning", "pinned"}:
            cluster = isinstance(self.service, ClusterTarget)
            before = (str(job.replaces) if job.replaces else None) if cluster else job.replaces_request
            now = self.service.begin(job.root, job.name, job.origins, replaces=before)
        job.begun(now.request)
        if now.delegates and now.state != "pinned":
            self._connect(now.delegates)

        def told(remote: Remote) -> None:
            progress.note(f"{self.service}: {remote.state}{f', {remote.detail}' if remote.detail else ''}")

        return Pinned(wait(self.service, job.root, now, told=told).request)

    def look(self, root: Cid, request: str | None = None) -> Remote:
        """See `PinTarget.look`."""
        return self.service.look(root, request)

    def unpin(self, root: Cid, request: str | None = None) -> bool:
        """See `PinTarget.unpin`."""
        return self.service.remove(root, request)

    def block(self, cid: Cid) -> bytes:
        """See `PinTarget.block`."""
        if self._connection is None:
            raise UnavailableError(
                "no gateway of this service is known, so nobody can look", rule="audit", source=str(self.service),
                hint="give one: …,gateway=https://…",
            )  # fmt: skip
        return self._connection.block(cid)

    def close(self) -> None:
        """See `PinTarget.close`."""
        if self._connection is not None:
            self._connection.close()


def connector(kubo: Kubo, note: Callable[[str], None]) -> Callable[[Sequence[str]], None]:
    """Return a function that lets `kubo` connect to the peers that a service asks for; it must not fail the pin."""

    def connect(addresses: Sequence[str]) -> None:
        for address in addresses:
            try:
                kubo.connect_to(address)
            except ModelnetError as error:
                note(f"{kubo} cannot reach {address}, whom the service names: {error.got or error.message}")

    return connect
