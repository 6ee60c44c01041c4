"""One answer, two places: the view in the index says what the folded log says, whatever happened in the log."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from modelnet.core import events
from modelnet.core.fold import PublisherState
from modelnet.core.merkle import leaf_hash
from modelnet.core.resolution import View
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from modelnet.stores.logindex import LogView
from tests.core.logs import T0, Log, digests, following, role

NAMES = ("llama", "vision/clip")
VERSIONS = ("1", "2", "3")
CHANNELS = ("stable", "nightly")
FILE = events.Digests("ab" * 32)

names, versions = st.sampled_from(NAMES), st.sampled_from(VERSIONS)
manifests = st.tuples(names, versions)
part = st.sampled_from(["both", "sha256", "blake3"])
ACTIONS = st.one_of(
    st.tuples(st.just("release"), manifests, st.sampled_from([(), ("stable",), CHANNELS]), st.sampled_from("ab")),
    st.tuples(st.just("delegated"), versions),
    st.tuples(st.just("yank"), manifests, part),
    st.tuples(st.just("supersede"), manifests, manifests, part, part),
    st.tuples(st.just("revoke"), manifests, part, st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("outside"), manifests, st.integers(0, 2)),
    st.tuples(st.just("reinstate"), st.integers(0, 5)),
    st.tuples(st.just("delegate")),
    st.tuples(st.just("keys")),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("recover")),
    st.tuples(st.just("junk"), st.sampled_from([b"{}", b"\xff", b""])),
    st.tuples(st.just("forged"), manifests),
)


def cut(which: events.Digests, part: str) -> events.Digests:
    """Return both digests or one."""
    return {"both": which, "sha256": events.Digests(which.sha256), "blake3": events.Digests(None, which.blake3)}[part]


class Story:
    """A log that random actions happen to; revocations that were heard beside it are kept."""

    def __init__(self) -> None:
        self.log = Log()
        self.heard: list[bytes] = []  # revocations beside the log
        self.revokes: list[bytes] = []
        self.takeovers = 0
        self.serial = 0

    def do(self, action: tuple[Any, ...]) -> None:
        """Let one action happen."""
        kind, *rest = action
        getattr(self, f"_{kind}")(*rest)

    def _release(self, which: tuple[str, str], channels: tuple[str, ...], lineage: str) -> None:
        # Channels make another statement of the same manifest; lineage another manifest, which a version refuses.
        more = [{"relation": "finetune", "sha256": "cd" * 32}] if lineage == "b" and which[1] == "3" else []
        self.log.release(*which, channels=channels, lineage=more)

    def _delegated(self, version: str) -> None:
        self.log.release("vision/clip", version, keys=("deputy",))

    def _delegate(self) -> None:
        self.serial += 1
        self.log.add(events.Delegate(self.log.pid, "vision/", role("deputy"), serial=self.serial), self._root)

    def _keys(self) -> None:
        self.serial += 1
        self.log.add(events.Keys(self.log.pid, log=role("log", "log 2"), serial=self.serial), self._root)

    def _yank(self, which: tuple[str, str], part: str) -> None:
        self.log.add(events.Yank(self.log.pid, (cut(digests(*which), part),), "too large"), "release")

    def _supersede(self, old: tuple[str, str], new: tuple[str, str], one: str, two: str) -> None:
        event = events.Supersede(
            self.log.pid, cut(digests(*old), one), cut(digests(*new), two), f"better than {old[1]}"
        )
        self.log.add(event, "release")

    def _revoke(self, which: tuple[str, str], part: str, file: bool, number: int) -> None:  # noqa: FBT001
        subjects = (cut(digests(*which), part),)
        event = events.Revoke(self.log.pid, subjects, "broken", f"no. {number}", files=(FILE,) if file else ())
        self.revokes.append(self.log.add(event, "release"))

    def _outside(self, which: tuple[str, str], number: int) -> None:
        event = events.Revoke(self.log.pid, (digests(*which),), "malicious", f"outside {number}", ("CVE-1",))
        envelope = self.log.fork(1).add(event, "release")
        self.heard.append(envelope)
        self.revokes.append(envelope)

    def _reinstate(self, number: int) -> None:
        if number < len(self.revokes):
            self.log.add(events.Reinstate(self.log.pid, leaf_hash(self.revokes[number])), self._root)

    def _rotate(self) -> None:
        self._take_over(events.Rotate)

    def _recover(self) -> None:
        state = self.log.state
        self._take_over(lambda *fields: events.Recover(*fields, state.size, state.tree_root))

    def _junk(self, entry: bytes) -> None:
        self.log.add(entry)

    def _forged(self, which: tuple[str, str]) -> None:
        self.log.release(*which, keys=("log",))

    @property
    def _root(self) -> str:
        return self._next(self.takeovers - 1) if self.takeovers else "root"

    @staticmethod
    def _next(number: int) -> str:
        return f"next {number + 1}" if number else "next"

    def _take_over(self, event: Callable[..., events.Event]) -> None:
        mine, then = self._next(self.takeovers), self._next(self.takeovers + 1)
        self.takeovers += 1
        self.log.add(event(self.log.pid, self.takeovers + 1, role(mine), following(then)), mine)


def told(view: View) -> dict[str, Any]:
    """Return all that a view answers."""
    asked = [digests(name, version) for name in NAMES for version in VERSIONS]
    asked += [cut(one, "sha256") for one in asked] + [cut(one, "blake3") for one in asked] + [FILE]
    return {
        "log": (view.pid, view.size, view.epoch),
        "names": view.names(),
        "listed": {name: [(one.index, one.digests, one.channels) for one in view.listed(name)] for name in NAMES},
        "found": {(name, version): view.find(name, version) for name in NAMES for version in (*VERSIONS, "4")},
        "manifests": [view.manifest(one) for one in asked],
        "superseded": [view.supersession(one) for one in asked],
        "yanked": [(yank := view.yank(one)) and yank.reason for one in asked],
        "revoked": [sorted(view.revocations_of(one), key=lambda one: one.statement) for one in asked],
    }


def picked(view: PublisherState | LogView) -> dict[Any, Any]:
    """Return what resolution picks."""
    return {(name, channel): view.newest(name, channel) for name in NAMES for channel in (None, *CHANNELS)}


@settings(max_examples=60)
@given(st.lists(st.lists(ACTIONS, max_size=8), min_size=1, max_size=4))
def test_the_index_answers_as_the_folded_log_does(chapters: list[list[tuple[Any, ...]]]) -> None:
    """Adopted in any steps, with revocations by any route; read by the process that adopted and by another."""
    with tempfile.TemporaryDirectory() as home:
        story, here, size = Story(), Replicas(open_store(home), clock=lambda: T0), 0
        for chapter in chapters:
            before = len(story.heard)
            for action in chapter:
                story.do(action)
            here.adopt(story.log.pid, story.log.head(), story.log.entries[size:])
            size = len(story.log.entries)
            for envelope in story.heard[before:]:
                here.add_negative(story.log.pid, envelope)
            state = here.state(story.log.pid)
            for replicas in (here, Replicas(open_store(home), clock=lambda: T0)):
                view = replicas.view(story.log.pid)
                assert isinstance(view, LogView)
                assert told(view) == told(state)
                assert picked(view) == picked(state)
        # From the files alone.
        folded = Replicas(open_store(home), clock=lambda: T0).state(story.log.pid)
        assert told(folded) == told(state)
        assert picked(folded) == picked(state)


def test_two_statements_of_one_digest_each_do_not_lead_in_a_circle() -> None:
    """Supersede may name a manifest by either digest; resolution ends, with neither of the two."""
    log = Log()
    log.release("llama", "1")
    log.release("llama", "2")
    one, two = digests("llama", "1"), digests("llama", "2")
    log.add(events.Supersede(log.pid, cut(one, "sha256"), two), "release")
    log.add(events.Supersede(log.pid, cut(two, "blake3"), cut(one, "blake3")), "release")
    assert not log.state.inert
    assert log.state.newest("llama") is None
