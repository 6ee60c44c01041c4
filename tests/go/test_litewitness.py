"""A witness that is not ours: torchwood's litewitness, unchanged, cosigns what we publish and refuses our forks."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest

from modelnet.core import events
from modelnet.core.freshness import Status
from modelnet.core.keys import VerifyKey
from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.policy import Policy
from modelnet.errors import TrustError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet_registry.cosigning import ask_witness, cosign, larger_elsewhere
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from modelnet_registry.witness import Submission, Witness, WitnessKey
from tests.core.logs import Log, following, role
from tests.go import HERE, build_program
from tests.loghosts import forked, grown, hosts
from tests.ports import free_ports
from tests.registry.log.stage import Desk, size_of
from tests.registry.stock import Stock

NAME = "witness.example/litewitness"
PATIENCE_S = 20.0
SCHEMA = """
CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));
"""


@dataclass(frozen=True)
class LiteWitness:
    """A running litewitness."""

    url: str
    key: NoteKey

    @property
    def policy(self) -> Policy:
        """The policy that asks for nobody else."""
        return Policy.parse(self.lines)

    @property
    def lines(self) -> bytes:
        """The policy as a file."""
        return f"witness lite {self.key.vkey} {self.url}\nquorum lite\n".encode()


@contextmanager
def agent(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Run an ssh-agent that holds a new Ed25519 key; give its socket and the public key's file."""
    if missing := [name for name in ("ssh-agent", "ssh-add", "ssh-keygen") if shutil.which(name) is None]:
        pytest.skip(f"litewitness keeps its key in an ssh-agent: {missing[0]} is missing")
    secret, path = folder / "key", folder / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", secret], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as running:
        try:
            until(path.exists)
            environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", secret], check=True, env=environment)
            yield path, folder / "key.pub"
        finally:
            running.terminate()


def until(condition: object) -> None:
    """Wait for a condition, for a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


@contextmanager
def litewitness(folder: Path, logs: Sequence[NoteKey]) -> Iterator[LiteWitness]:
    """Run the witness, which knows `logs` and has seen none of them."""
    program = build_program(HERE / "litewitness", "litewitness", "filippo.io/torchwood/cmd/litewitness")
    folder.mkdir()
    database = sqlite3.connect(folder / "db")
    with database:
        database.executescript(SCHEMA)
        for one in {log.name: log for log in logs}.values():
            empty = base64.b64encode(hashlib.sha256(b"").digest()).decode()
            database.execute("INSERT INTO log VALUES (?, 0, ?)", (one.name, empty))
        database.executemany("INSERT INTO key VALUES (?, ?)", [(one.name, one.vkey) for one in logs])
    database.close()
    (port,) = free_ports(1)
    with agent(folder) as (path, public):
        blob = base64.b64decode(public.read_text().split()[1])
        fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        command = [program, "-name", NAME, "-db", folder / "db", "-ssh-agent", path, "-key", fingerprint]
        with (folder / "output").open("wb") as output, subprocess.Popen(
            [*command, "-listen", f"127.0.0.1:{port}"], stdout=output, stderr=output
        ) as running:  # fmt: skip
            try:
                url = f"http://127.0.0.1:{port}"
                until(lambda: answers(url))
                yield LiteWitness(url, NoteKey(NAME, VerifyKey(blob[-32:]), COSIGNATURE))
            finally:
                running.terminate()


def answers(url: str) -> bool:
    """Tell whether the witness shows its page."""
    try:
        with urlopen(url, timeout=1) as page:
            return NAME.encode() in page.read()
    except OSError:
        return False


def test_it_cosigns_what_we_publish(tmp_path: Path) -> None:
    """Each append is cosigned, from the first head on, and the cosignature counts in our quorum, here and elsewhere."""
    desk = Desk.made(tmp_path / "home")
    keys = desk.state.log_keys()
    with litewitness(tmp_path / "witness", keys) as witness:
        with urlopen(witness.url, timeout=5) as page:
            assert witness.key.vkey.encode() in page.read()
        policy = witness.policy
        for number in range(3):
            desk.append(desk.release(str(number)), cosign=partial(cosign, policy))
            found = policy.verify(desk.head, desk.state.origin, keys)
            assert found.size == size_of(desk.head) == desk.state.size
            assert abs(desk.head.cosigned([witness.key])[witness.key] - time.time()) < 60
        with desk.open(cosign=partial(cosign, policy)) as log:
            log.refresh()  # the same head again, at a later time
        policy.verify(desk.head, desk.state.origin, keys)
    desk.check()
    with hosts(tmp_path / "net") as net:
        publisher, follower = net.follower(), net.follower()
        publisher.now = follower.now = time.time()
        publisher.replicas.adopt(desk.pid, desk.head, desk.entries)
        log = Log()
        log.entries = desk.entries
        log.genesis = publisher.replicas.genesis(desk.pid)
        follower.store.home.root.mkdir()
        (follower.store.home.root / "policy").write_bytes(witness.lines)
        follower.sync(log, net.url(publisher))
        standing = follower.replicas.standing(desk.pid)
        assert standing.knowledge is not None
        assert standing.knowledge.witnessed
        assert standing.status is Status.FRESH


def test_it_refuses_a_forked_head(tmp_path: Path) -> None:
    """Both sides are signed by the log; the witness has seen one, and the other is never cosigned."""
    log = grown(11)
    fork = forked(log, 5, 11)
    keys = log.state.log_keys()
    with litewitness(tmp_path / "witness", keys) as witness:
        note = cosign(witness.policy, log.head(8), lambda size: log.consistency(size, 8))
        assert note.cosigned([witness.key])
        for size in (8, 9, 16):
            head = fork.head(size)
            proof = partial(fork.consistency, after=size)
            assert cosign(witness.policy, head, proof) == head
            with closing(HttpSource.parse(witness.url).connect()) as asked, pytest.raises(UnavailableError) as refused:
                ask_witness(asked, head, witness.key, proof)
            assert "422" in str(refused.value)
            with pytest.raises(TrustError):
                witness.policy.verify(head, log.state.origin, keys)
        # It shows heads to nobody, but tells a restored store that more has been signed.
        assert larger_elsewhere(witness.policy, log.head(5), log.consistency) == 8
        assert larger_elsewhere(witness.policy, log.head(8), log.consistency) is None
        note = cosign(witness.policy, log.head(12), lambda size: log.consistency(size, 12))
        assert note.cosigned([witness.key])


def test_threat_11_it_cosigns_a_recovered_log(tmp_path: Path) -> None:
    """The recovered branch has an origin of its own: to a generic witness it is a new log."""
    log = grown(11)
    good = log.fork(5)
    state = good.state
    good.add(events.Recover(log.pid, 2, role("next"), following("next 2"), state.size, state.tree_root), "next")
    with litewitness(tmp_path / "witness", [*log.state.log_keys(), *good.state.log_keys()]) as witness:
        for one in (log, good):
            note = cosign(witness.policy, one.head(), one.consistency)
            witness.policy.verify(note, one.state.origin, one.state.log_keys())


def test_go_accepts_what_our_witness_says(tmp_path: Path) -> None:
    """A client in Go submits heads to our witness: torchwood accepts the cosignatures, and every refusal is C2SP's."""
    program = build_program(HERE / "litewitness", "submit", ".")
    log = grown(11)
    fork = forked(log, 5, 11)
    stock = Stock(tmp_path)
    Replicas(stock.store).adopt(log.pid, log.head(3), log.entries[:3])
    secret = WitnessKey.make(stock.store.home, NAME)
    with Server(Doors(stock.store, witness=Witness.open(stock.store, secret))) as server:

        def submit(side: Log, old: int, size: int) -> list[str]:
            proof = tuple(side.consistency(old, size)) if old else ()
            body = Submission(old, proof, side.head(size)).encode()
            keys = [log.state.log_keys()[0].vkey, secret.note_key.vkey]
            ran = subprocess.run([program, server.url, *keys], input=body, capture_output=True, check=True, timeout=60)
            return ran.stdout.decode().split("\n")[:3]

        assert submit(log, 0, 5)[:2] == ["200", "cosigned"]
        assert submit(log, 5, 9)[:2] == ["200", "cosigned"]
        assert submit(log, 9, 9)[:2] == ["200", "cosigned"]
        assert submit(log, 5, 9) == ["409", "text/x.tlog.size", "9"]
        assert submit(fork, 9, 12)[0] == "422"
        assert submit(grown(3, prefix="unknown "), 0, 3)[0] == "404"
    stock.store.index.close()
