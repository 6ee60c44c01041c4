"""Scenes in which a store learns something about a log, and what must hold after any of them was cut short.

python -m tests.store.replica_stage FOLDER SCENE      # killed by SIGKILL at every step, and looked at after each
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelnet.core import events
from modelnet.core.evidence import Evidence, make_evidence
from modelnet.core.merkle import leaf_hash, subtrees
from modelnet.core.note import NoteKey
from modelnet.errors import ModelnetError, TrustError
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from tests.core.logs import T0, Log, digests, following, key, role
from tests.store.faults import STEPS, Fault, counted, failing

BAD = digests("llama", "1.0")  # revoked before anything else happens, in every scene
WITNESS = NoteKey("wit.example/w1", key("wit1").verify_key, 4)
POLICY = f"witness w1 {WITNESS.vkey}\nquorum w1\n"


def opened(home: Path, clock: float = T0) -> Replicas:
    """Open a store as another process would."""
    return Replicas(open_store(home), clock=lambda: clock)


def base() -> Log:
    """Return a log of two releases."""
    log = Log()
    log.release("llama", "1.0")
    log.release("llama", "1.1")
    return log


def longer() -> Log:
    """Return the same log, longer: over a full tile, with one more revocation."""
    log = base()
    for number in range(260):
        log.add(b'{"inert":%d}' % number)
    log.add(log.revoke(digests("llama", "1.1")), "release")
    log.release("llama", "1.2")
    return log


def strayed() -> Log:
    """Return a longer branch that will be dropped, with a revocation of its own."""
    log = base()
    log.release("llama", "6.6")
    log.add(log.revoke(digests("llama", "1.1")), "release")
    return log


def recovered() -> Log:
    """Return the log after its owner recovered it."""
    log = base()
    state = log.state
    log.add(events.Recover(log.pid, 2, role("next"), following("next 2"), state.size, state.tree_root), "next")
    log.release("llama", "1.2")
    return log


def outside(version: str = "1.0") -> bytes:
    """Return a revocation that is in no log."""
    log = base()
    return log.add(events.Revoke(log.pid, (digests("llama", version),), "malicious", "heard"), "release")


def evidence() -> Evidence:
    """Return what two heads show."""
    one, two = longer(), strayed()
    leaves = [leaf_hash(entry) for entry in one.entries]
    return make_evidence(one.head(), two.head(), one.state.origin, subtrees(leaves))


@dataclass(frozen=True)
class Scene:
    """`act` takes a store that knows `before` to one that knows `after`; `done` tells whether it got there."""

    before: Log
    act: Callable[[Replicas], object]
    done: Callable[[Replicas], bool]
    after: Log

    def prepare(self, home: Path) -> None:
        """Let the store in `home` know the log as it was, and one revocation by another route."""
        home.mkdir(parents=True)
        (home / "policy").write_text(POLICY)
        replicas = opened(home)
        replicas.adopt(
            self.before.pid, self.before.head().cosign(WITNESS.name, key("wit1"), T0 - 9), self.before.entries
        )
        replicas.add_negative(self.before.pid, outside())

    def check(self, home: Path, *, acted: bool) -> None:
        """Raise unless the store is as it was or as it should be, and gets there by another try."""
        for lost in (False, True):
            if lost:
                for path in home.glob("index.sqlite*"):
                    path.unlink()
            replicas = opened(home)
            done = self.done(replicas)
            assert done or not acted, "what was acknowledged is there"
            self.agree(replicas, self.after if done and self.after is not self.before else None)
        self.act(opened(home))
        assert self.done(opened(home))
        self.agree(opened(home), self.after)

    def agree(self, replicas: Replicas, log: Log | None) -> None:
        """Raise unless files, index and high-water agree with each other and with one of the two logs."""
        pid = self.before.pid
        standing, state, view = replicas.standing(pid), replicas.state(pid), replicas.view(pid)
        assert standing.root in [one.state.tree_root for one in ((log,) if log else (self.before, self.after))]
        assert (view.size, view.epoch) == (state.size, state.epoch) == (standing.size, standing.epoch)
        assert state.tree_root == standing.root == replicas.folder(pid).root(standing.size)
        assert (
            list(replicas.folder(pid).entries(0, standing.size))
            == (self.before if standing.root == self.before.state.tree_root else self.after).entries
        )
        for version in ("1.0", "1.1", "1.2", "6.6"):
            assert view.find("llama", version) == state.find("llama", version)
            revoked = [one.statement for one in state.revocations_of(digests("llama", version))]
            assert [one.statement for one in view.revocations_of(digests("llama", version))] == revoked
        assert view.revocations_of(BAD), "what was revoked stays revoked"
        assert standing.knowledge is not None or standing.epoch == 1


def _adopt(log: Log) -> Callable[[Replicas], object]:
    note = log.head().cosign(WITNESS.name, key("wit1"), T0 - 1)

    def act(replicas: Replicas) -> None:
        standing = replicas.standing(log.pid)
        first = standing.size if standing.epoch == log.state.epoch else 0
        replicas.adopt(log.pid, note, log.entries[first:], first=first)

    return act


def _accuse(replicas: Replicas) -> None:
    try:
        replicas.adopt(base().pid, strayed().head(), strayed().entries[3:])
    except TrustError as error:
        if error.rule != "equivocation":
            raise


def _reached(log: Log) -> Callable[[Replicas], bool]:
    return lambda replicas: replicas.standing(log.pid).root == log.state.tree_root


SCENES = {
    "adopt": Scene(base(), _adopt(longer()), _reached(longer()), longer()),
    "recover": Scene(strayed(), _adopt(recovered()), _reached(recovered()), recovered()),
    "negative": Scene(
        base(), lambda replicas: replicas.add_negative(base().pid, outside("1.1")),
        lambda replicas: bool(replicas.view(base().pid).revocations_of(digests("llama", "1.1"))), base(),
    ),
    "evidence": Scene(
        longer(), _accuse, lambda replicas: replicas.standing(base().pid).quarantined, longer()
    ),
}  # fmt: skip


def steps(template: Path, scene: Scene) -> dict[str, int]:
    """Return how often the scene does each step."""
    home = template.with_name("counting")
    shutil.copytree(template, home)
    with counted() as seen:
        scene.act(opened(home))
    shutil.rmtree(home)
    return {step: seen[step] for step in STEPS if seen[step]}


def kill_everywhere(folder: Path, scene: Scene) -> int:
    """Kill the scene at the first and the last step of each kind, before and after it; return how often.

    The store is looked at each time.
    """
    template = folder / "template"
    scene.prepare(template)
    killed = 0
    for step, count in steps(template, scene).items():
        for nth in sorted({1, count}):  # those between fail without dying in another test
            for applied in (False, True):
                home = folder / "home"
                shutil.copytree(template, home)
                child = os.fork()
                if child == 0:
                    with failing(Fault(step, nth, applied=applied)):
                        scene.act(opened(home))
                    os._exit(0)
                _, status = os.waitpid(child, 0)
                killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                scene.check(home, acted=os.waitstatus_to_exitcode(status) == 0)
                shutil.rmtree(home)
    return killed


def main() -> None:
    """Run one scene to the death."""
    folder, name = sys.argv[1:]
    print(json.dumps({"killed": kill_everywhere(Path(folder), SCENES[name])}))


__all__ = ["SCENES", "ModelnetError", "Scene", "opened", "steps"]

if __name__ == "__main__":
    main()
