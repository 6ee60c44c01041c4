"""The gate: the one decision whether a release may be pulled, served or loaded.

    gate = Gate.open(store)
    trusted = gate.resolve(parse_reference("acme/tiny-llama"))     # what pull and load begin with
    gate.check_files(trusted, manifest)                            # once the manifest is here

What comes out is what the publisher signed, in the log as this machine knows it, and still stands by. A refusal is a
`TrustError` whose rule says why: `unknown-publisher`, `unlogged`, `pin`, `floor`, `strict`, `revoked`, `yanked`,
`ancestor-revoked`, `quarantined`, `dead`, `stale`, `expired`. Policy (`modelnet.policies`) relaxes named rules; nothing
lets a revoked release through.

A row of the index means nothing by itself: it says where files are. What they must be, the log says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from modelnet.core.adoption import ancestor_publishers, revoked_ancestors
from modelnet.core.events import Digests
from modelnet.core.freshness import RULES, Operation, Rule, Status
from modelnet.core.manifest import Manifest
from modelnet.core.names import Floor, Locator, Reference, parse_reference
from modelnet.core.release import Release
from modelnet.core.resolution import Logged, View, newest, offered
from modelnet.core.revocations import Revocation
from modelnet.errors import ModelnetError, TrustError, UnavailableError
from modelnet.policies import Policies, Terms, load_policies
from modelnet.replica import Replicas, Standing
from modelnet.signed import check_floor, check_pin, logged_of, resolve_publisher
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore
from modelnet.stores.petnames import Petnames
from modelnet.wording import age_text

__all__ = ["Gate", "Knowledge", "Trusted"]

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How much is known about revocations: complete up to `until` (unix seconds), as `by` says.

    `state` is fresh, stale, expired or quarantined; `by` is witnesses, publisher or this store (its own publisher).
    """

    state: str = "unknown"
    until: float | None = None
    age_s: float | None = None
    by: str | None = None

    @classmethod
    def of(cls, standing: Standing) -> Knowledge:
        """Return what a log's standing tells a person."""
        state, age = standing.status.value, float(standing.freshness.age)
        if standing.own:
            return cls(state, time.time(), 0.0, "this store")
        known = standing.knowledge
        if known is None:
            return cls(state)
        return cls(state, float(known.time), age, "witnesses" if known.witnessed else "publisher")


@dataclass(frozen=True, slots=True)
class Trusted:
    """A release that may be used, with its place in the log and what is known about that log."""

    release: Release
    logged: Logged
    standing: Standing
    warnings: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        """The index of its entry in the log."""
        return self.logged.index

    @property
    def knowledge(self) -> Knowledge:
        """How old what is known about revocations is."""
        return Knowledge.of(self.standing)

    @property
    def locator(self) -> Locator:
        """The locator that pins the release and the log's head that was known here."""
        return replace(self.release.locator, floor=Floor(self.standing.size, self.standing.root))


@dataclass(slots=True)
class Gate:
    """Decides for one store; `eased` is what a person asked for beside the policy file."""

    store: LocalStore
    replicas: Replicas
    policies: Policies
    eased: Callable[[Terms], Terms] = lambda terms: terms

    @classmethod
    def open(
        cls, store: LocalStore, *, accept_stale: bool = False, offline_pinned: bool = False, strict: bool = False,
        replicas: Replicas | None = None,
    ) -> Gate:  # fmt: skip
        """Return the gate of `store` with its policy file; raise `MalformedError` when that cannot be read."""

        def eased(terms: Terms) -> Terms:
            return terms.eased(accept_stale=accept_stale, offline_pinned=offline_pinned, strict=strict)

        policies = load_policies(store.home)
        return cls(store, replicas or Replicas(store, hard_max=policies.general.hard_max_s), policies, eased)

    def terms(self, pid: str) -> Terms:
        """Return the terms that hold for a publisher."""
        return self.eased(self.policies.of(pid, Petnames(self.store.home).aliases().get(pid)))

    def resolve(self, reference: Reference | str) -> Trusted:
        """Return the release that `reference` means in its publisher's log, once it may be loaded.

        An exact version or a pinned manifest is a pin; a channel or no version at all asks what the publisher offers
        now, which old knowledge cannot answer. Raises `TrustError`, or `UnavailableError` when it is not known here.
        """
        if isinstance(reference, str):
            reference = parse_reference(reference)
        pid = resolve_publisher(self.store, reference.publisher)
        self._check_vouched(pid, reference)
        standing = self._standing(pid)
        if reference.floor is not None:
            check_floor(self.replicas, pid, reference.floor)
        view = self.replicas.view(pid)
        logged, pinned = _choose(view, reference, standing)
        check_pin(logged.event.release, reference)
        return self._admit(view, standing, logged, pinned=pinned)

    def ancestors(self, reference: Reference) -> set[str]:
        """Return the publishers of what the release that `reference` means was made from, known here or not.

        Empty where it cannot be told which release is meant: whoever wants to use it learns why from `resolve`.
        """
        try:
            pid = resolve_publisher(self.store, reference.publisher)
            logged, _ = _choose(self.replicas.view(pid), reference, self._standing(pid))
        except ModelnetError:
            return set()
        return ancestor_publishers(logged, _Views(self.replicas)) - {pid}

    def row(self, trusted: Trusted) -> ReleaseRow:
        """Return where the files of a release are in this store; raise `UnavailableError` when they are not here."""
        release = trusted.release
        rows = self.store.index.releases(release.pid, release.name)
        found = next((row for row in rows if (row.version, row.manifest) == (release.version, release.manifest)), None)
        if found is None:
            raise UnavailableError(
                f"{_name(release)} is not in this store", rule="missing", hint="pull it first",
                got=", ".join(row.version for row in rows) or None,
            )  # fmt: skip
        return found

    def is_logged(self, row: ReleaseRow) -> bool:
        """Tell whether the log of its publisher, as it is known here, has the release of a row."""
        if not self.replicas.known(row.pid):
            return False
        logged = self.replicas.view(row.pid).find(row.name, row.version)
        return logged is not None and logged.event.release.manifest == row.manifest

    def admit(self, row: ReleaseRow) -> Trusted:
        """Return the release that a row of the index says is here, once it may be loaded; it counts as pinned."""
        standing = self._standing(row.pid)
        view = self.replicas.view(row.pid)
        return self._admit(view, standing, logged_of(self.store, view, row), pinned=True)

    def check_files(self, trusted: Trusted, manifest: Manifest) -> None:
        """Raise `TrustError` when a file of the release was revoked by its digest, whatever release it is in."""
        view = self.replicas.view(trusted.release.pid)
        for path, revocation in _revoked_files(view, manifest):
            raise _revoked(f"{path} of {_name(trusted.release)}", revocation)

    def recheck(self, trusted: Trusted, manifest: Manifest) -> None:
        """Raise `TrustError` when what was let through has been revoked, or its publisher caught, since then."""
        standing = self._standing(trusted.release.pid)
        view = self.replicas.view(standing.pid)
        self._admit(view, standing, trusted.logged, pinned=True)
        self.check_files(trusted, manifest)

    def locator(self, release: Release) -> Locator:
        """Return the locator that pins a release and the head of its log that is known here."""
        standing = self._standing(release.pid)
        return replace(release.locator, floor=Floor(standing.size, standing.root))

    def refusal_to_serve(self, row: ReleaseRow) -> str | None:
        """Return why a release may not be given to others; None when it may, however old what is known is."""
        try:
            state, reason = self.standing_of(logged_of(self.store, self.replicas.view(row.pid), row))
        except ModelnetError as error:
            if error.rule in ("store", "index"):
                raise  # that says nothing about the release
            if error.rule == "unlogged" and row.in_place:
                # Being published: its rows come before its entry in the log. Nobody is offered it yet.
                found = self.replicas.view(row.pid).revocations_of(Digests(blake3=row.manifest.digest.hex()))
                return _why(found[0]) if found else None
            return error.message
        if RULES[(Operation.SERVE, _SERVED.get(state, Status.FRESH))] is Rule.ALLOW:
            return None
        return f"{row.name}@{row.version} is {state}: {reason}"

    def revoked_files(self, row: ReleaseRow) -> dict[str, str]:
        """Return the files of a release in this store that were revoked by their digests, and the reason of each.

        Its manifest may be given to others all the same: from it they learn that they must refuse.
        """
        view = self.replicas.view(row.pid)
        block = self.store.block(row.manifest) if view.has_revocations else None
        found = () if block is None else _revoked_files(view, Manifest.parse(block))
        return {path: _why(revocation) for path, revocation in found}

    def state(self, row: ReleaseRow) -> tuple[str, str | None]:
        """Return where a release in this store stands, in a word, and the reason; for looking, not for using."""
        state, reason = self.standing_of(logged_of(self.store, self.replicas.view(row.pid), row))
        if state != "revoked":
            for path, why in self.revoked_files(row).items():
                return "revoked", f"{path}: {why}"
        return state, reason

    def standing_of(self, logged: Logged) -> tuple[str, str | None]:
        """Return where a release stands: ok, superseded, yanked, revoked, quarantined, …, and the reason."""
        view = self.replicas.view(logged.event.release.pid)
        standing = self._standing(view.pid)
        if found := view.revocations_of(logged.digests):
            return "revoked", _why(found[0])
        if standing.dead or standing.status is Status.QUARANTINED:
            return "dead" if standing.dead else "quarantined", _EQUIVOCATED
        if (yank := view.yank(logged.digests)) is not None:
            return "yanked", yank.reason or None
        if (step := view.supersession(logged.digests)) is not None:
            newer = view.manifest(step.new)
            return "superseded", f"by {newer.event.release.version}" if newer else step.reason or None
        if logged.event.derived_from and (found := revoked_ancestors(logged, _Views(self.replicas))):
            return "ancestor-revoked", f"made from a release that was revoked as {_why(found[0])}"
        return "ok", None

    def _standing(self, pid: str) -> Standing:
        """Return what is known of a publisher, on the terms that hold for it."""
        standing = self.replicas.standing(pid)
        age, status = standing.freshness.age, standing.status
        if standing.knowledge is None or standing.quarantined or standing.own:
            return standing
        if age > self.terms(pid).hard_max_s:
            status = Status.EXPIRED
        elif status is Status.EXPIRED:
            status = Status.STALE
        return replace(standing, freshness=replace(standing.freshness, status=status))

    def _check_vouched(self, pid: str, reference: Reference) -> None:
        """With `strict`, refuse a publisher that only its own id speaks for."""
        if reference.floor is not None or reference.manifest_sha256 is not None or not self.terms(pid).strict:
            return
        if pid not in Petnames(self.store.home).aliases():
            raise TrustError(
                "nothing vouches for this publisher", rule="strict", got=pid,
                hint="give it a name with `modelnet trust add NAME ID`, or use a locator that its owner published",
            )  # fmt: skip

    def _admit(self, view: View, standing: Standing, logged: Logged, *, pinned: bool) -> Trusted:
        release = logged.event.release
        digests = Digests.of(release)
        if found := view.revocations_of(digests):  # before all else: no policy and no pin outweighs it
            raise _revoked(_name(release), found[0])
        if standing.dead:
            raise TrustError(
                "two histories of this publisher were both taken over by its recovery keys", rule="dead",
                got=standing.pid, hint="ask the publisher for a new identity, and compare it by other means",
            )  # fmt: skip
        warnings: list[str] = []
        self._check_age(standing, release, warnings, pinned=pinned)
        if (yank := view.yank(digests)) is not None:
            why = f": {yank.reason}" if yank.reason else ""
            if not pinned:
                raise TrustError(f"{_name(release)} was yanked{why}", rule="yanked", hint="name the version to use it")
            warnings.append(f"{_name(release)} was yanked by its publisher{why}")
        if (step := view.supersession(digests)) is not None:
            newer = view.manifest(step.new)
            warnings.append(
                f"{_name(release)} was superseded" + (f" by {newer.event.release.version}" if newer else "")
            )
        self._check_ancestors(logged, standing.pid, warnings)
        return Trusted(release, logged, standing, tuple(warnings))

    def _check_age(self, standing: Standing, release: Release, warnings: list[str], *, pinned: bool) -> None:
        """Apply the table of provenance: what age, or two histories, mean for this operation."""
        terms = self.terms(standing.pid)
        operation = Operation.LOAD if pinned else Operation.RESOLVE
        rule = RULES[(operation, standing.status)]
        if rule is Rule.ALLOW:
            return
        knowledge = Knowledge.of(standing)
        name = _name(release)
        if standing.status is Status.QUARANTINED:
            if rule is Rule.COMMON_PREFIX and terms.quarantined == "pinned":
                warnings.append(f"{name}: {_EQUIVOCATED}")
                return
            raise TrustError(
                f"{name} is in quarantine: {_EQUIVOCATED}", rule="quarantined", got=standing.pid,
                hint="`modelnet log` shows the evidence; the publisher has to recover its log",
            )  # fmt: skip
        if standing.freshness.doubt:
            # The age would be that of a clock that is wrong, or of a witness's.
            age = (
                f"how old what is known about {name} is cannot be told: the clock here and what was vouched for differ"
            )
        else:
            age = f"what is known about {name} is {age_text(knowledge.age_s)} old"
        eased = (
            rule is Rule.WARN
            or (rule is Rule.ACCEPT_STALE and terms.accept_stale)
            or (rule is Rule.OFFLINE_PINNED and terms.offline_pinned)
        )
        if not eased:
            stale = rule is Rule.ACCEPT_STALE
            raise TrustError(
                age, rule=standing.status.value, wanted=f"at most {age_text(standing.max_age)}"
                if standing.status is Status.STALE else f"at most {age_text(terms.hard_max_s)}",
                hint=(
                    "set this machine's clock; else a witness's is wrong" if standing.freshness.doubt
                    else "ask a peer that has news with --peer URL"
                )
                + ("; --accept-stale takes it as it is" if stale else "")
                + ("; --offline-pinned takes it as it is" if rule is Rule.OFFLINE_PINNED else ""),
            )  # fmt: skip
        warnings.append(age)

    def _check_ancestors(self, logged: Logged, pid: str, warnings: list[str]) -> None:
        """Warn about, or refuse, what was made from a release that was revoked since."""
        strictness = self.terms(pid).revoked_ancestor
        if not logged.event.derived_from:
            return
        for found in revoked_ancestors(logged, _Views(self.replicas)):
            text = f"{_name(logged.event.release)} was made from a release that was revoked as {_why(found)}"
            if strictness == "deny" or (strictness == "deny-malicious" and found.event.severity == "malicious"):
                raise TrustError(
                    text, rule="ancestor-revoked", got=found.event.pid,
                    hint="`modelnet show --lineage` draws what it was made from",
                )  # fmt: skip
            warnings.append(text)
        warnings += [
            f"{_name(logged.event.release)} was made from a release of {unknown}, whose log is not known here: "
            "whether that release was revoked is not known either"
            for unknown in sorted(ancestor_publishers(logged, _Views(self.replicas)))
            if not self.replicas.known(unknown)
        ]


class _Views(dict[str, View]):
    """The logs that are known, looked up when they are asked for."""

    def __init__(self, replicas: Replicas) -> None:
        super().__init__()
        self._replicas = replicas

    def get(self, pid: str, default: Any = None) -> Any:
        """Return the view of a publisher's log, or None."""
        return self._replicas.view(pid) if self._replicas.known(pid) else default


_SERVED = {"revoked": Status.REVOKED, "quarantined": Status.QUARANTINED, "dead": Status.QUARANTINED}
_EQUIVOCATED = "its publisher signed two histories that exclude each other"


def _choose(view: View, reference: Reference, standing: Standing) -> tuple[Logged, bool]:
    """Return the release that `reference` means, and whether it is pinned: an exact version beats a channel."""
    version = reference.version
    if version is not None and (exact := view.find(reference.name, version)) is not None:
        return exact, True
    channel = None if version in (None, LATEST) else version
    found = newest(view, reference.name, channel)
    if found is None and version == LATEST:
        found = newest(view, reference.name, LATEST)
    if found is None and (taken := _taken_back(view, reference.name, channel)) is not None:
        return taken, False  # whoever asked for it learns what became of it
    if found is None:
        offered = "no release that is offered" if version is None else "no such version or channel"
        raise UnavailableError(
            f"{offered} of {reference} in its publisher's log", rule="missing", got=f"a log of {standing.size} entries",
            hint="`modelnet log` lists its releases; a peer may know more: --peer URL",
        )  # fmt: skip
    return found, reference.manifest_sha256 is not None


def _taken_back(view: View, name: str, channel: str | None) -> Logged | None:
    """Return the newest release that was revoked or yanked, of a name or channel of which none is offered."""
    for listed in view.listed(name):
        if (channel is None or channel in listed.channels) and not offered(view, listed):
            return view.logged(listed)
    return None


def _name(release: Release) -> str:
    return f"{release.name}@{release.version}"


def _revoked_files(view: View, manifest: Manifest) -> Iterator[tuple[str, Revocation]]:
    """Yield the files of a release that were revoked by their digests, whatever release they are in."""
    for entry in manifest.files if view.has_revocations else ():
        if found := view.revocations_of(Digests(entry.sha256.hex(), entry.blake3.hex())):
            yield entry.path, found[0]


def _why(revocation: Revocation) -> str:
    event = revocation.event
    ids = f" ({', '.join(event.ids)})" if event.ids else ""
    return f"{event.severity}{': ' + event.text if event.text else ''}{ids}"


def _revoked(what: str, revocation: Revocation) -> TrustError:
    return TrustError(
        f"{what} was revoked as {_why(revocation)}", rule="revoked", got=revocation.event.pid,
        hint="use another version; nothing lets a revoked one through",
    )  # fmt: skip
