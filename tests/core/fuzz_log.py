"""Fuzz what a log is made of: seeded edits of notes, entries, proofs, tiles, policies and evidence; only typed errors.

python -m tests.core.fuzz_log --cases 1000000 --seed 1

Where an edited one is still accepted, it has to come back byte for byte from its own encoding (policies, which people
write, have more than one), and evidence has to show the two heads that it showed before.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from modelnet.core import events
from modelnet.core.entries import read_event
from modelnet.core.evidence import Evidence
from modelnet.core.fold import PublisherState, apply_negative
from modelnet.core.note import COSIGNATURE, Checkpoint, NoteKey, SignedNote
from modelnet.core.policy import Policy
from modelnet.core.proof import TlogProof
from modelnet.core.tiles import Tile, encode_bundle, parse_bundle
from modelnet.errors import ModelnetError
from tests.core.logs import T0, Log, following, key, role

# A case takes under a millisecond; a thousand times that is a hang and not a busy machine.
SLOW_SECONDS = 2.0
PIECES = (
    b"\n",
    b" ",
    b"\0",
    b"=",
    b"+",
    b"\xe2\x80\x94 ",
    b'"',
    b"{",
    b"[" * 40,
    b"\\ud800",
    b"1e999",
    b"99999999999999999999",
)


def log() -> Log:
    """Return a log with an event of most kinds."""
    made = Log()
    for version in ("1.0", "1.1", "1.2"):
        made.release("llama", version, lineage=[{"sha256": "ab" * 32, "relation": "merge"}])
    made.add(events.Keys(made.pid, release=role("release 2"), oms=("cd" * 32,)), "root")
    made.add(events.Delegate(made.pid, "acme/", role("delegate")), "root")
    made.add(made.revoke(events.Digests("12" * 32)), "root")
    made.add(events.Rotate(made.pid, 2, role("next"), following("next 2")), "next")
    return made


LOG = log()
OTHER = LOG.fork(2)
OTHER.release("llama", "6.6")
KEYS, ORIGIN, STATE = LOG.state.log_keys(), LOG.state.origin, LOG.state
NOTE = LOG.head(time=T0)
EVIDENCE = Evidence(OTHER.head(3), LOG.head(8), LOG.state.root_at(3), tuple(LOG.consistency(3, 8)))
WITNESSES = [NoteKey(f"wit.example/{n}", key(f"witness {n}").verify_key, COSIGNATURE).vkey for n in "abc"]
POLICY = (
    "".join(f"witness {n} {one}\n" for n, one in zip("abc", WITNESSES, strict=True)) + "group g 2 a b c\nquorum g\n"
)


def judge_note(data: bytes) -> None:
    """A note that is accepted has one encoding; a checkpoint in it has one too."""
    note = SignedNote.parse(data)
    assert note.encode() == data
    text = note.verify(KEYS)
    assert Checkpoint.parse(text, ORIGIN).encode() == text == NOTE.unverified_text


def judge_entry(data: bytes) -> None:
    """An entry that is read is its envelope's one spelling; as a revocation it counts with its signature only."""
    assert read_event(data).envelope.encoded == data
    apply_negative(STATE.copy(), data)


def judge_log(data: bytes) -> None:
    """A log with one strange entry folds, and goes on after it."""
    state = PublisherState.fold([*LOG.entries[:4], data, *LOG.entries[4:]], LOG.pid)
    assert state.size == 9


def judge_proof(data: bytes) -> None:
    """A proof that holds is the one encoding of itself."""
    proof = TlogProof.parse(data)
    assert proof.encode() == data
    assert proof.verify(LOG.entries[5], ORIGIN, KEYS).size == 8


def judge_bundle(data: bytes) -> None:
    """A bundle that is read is the one encoding of its entries."""
    assert encode_bundle(parse_bundle(data, 8)) == data


def judge_path(data: bytes) -> None:
    """A path that is a tile's is the one spelling."""
    text = data.decode("latin-1")
    assert Tile.parse(text).path == text


def judge_policy(data: bytes) -> None:
    """A policy that is read can be asked."""
    policy = Policy.parse(data)
    policy.time({one.key: 5 for one in policy.witnesses})


def judge_evidence(data: bytes) -> None:
    """Evidence that holds shows what it showed before."""
    assert Evidence.parse(data).verify(ORIGIN, KEYS) == EVIDENCE.verify(ORIGIN, KEYS)


CASES: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "note": (judge_note, [NOTE.encode()]),
    "entry": (judge_entry, LOG.entries[1:]),
    "log": (judge_log, LOG.entries),
    "proof": (judge_proof, [TlogProof(5, tuple(LOG.proof(5)), NOTE, b"context").encode()]),
    "bundle": (judge_bundle, [encode_bundle(LOG.entries)]),
    "path": (judge_path, [Tile(2, 1_234_067, 9).path.encode(), Tile(None, 0).path.encode()]),
    "policy": (judge_policy, [POLICY.encode()]),
    "evidence": (judge_evidence, [EVIDENCE.encode()]),
}


def edited(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three edits: a changed, dropped, repeated or foreign piece."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 1, 4, 32)))
        match rng.randrange(5):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at:end]
            case 2:
                content[at:at] = content[at:end] * rng.choice((1, 2, 50))
            case 3:
                content[at:end] = rng.choice(PIECES)
            case _:
                content[at:at] = rng.choice(PIECES)
    return bytes(content)


def run(cases: int, seed: int) -> tuple[Counter[str], float]:
    """Return how often each kind was accepted or broke which rule, and the slowest case in seconds."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(cases):
        kind = rng.choice(list(CASES))
        judge, samples = CASES[kind]
        data = edited(rng.choice(samples), rng)
        start = time.perf_counter()
        try:
            judge(data)
        except ModelnetError as error:
            outcomes[f"{kind}: {error.rule}"] += 1
        except Exception:
            print(f"{kind} failed on {data!r}", file=sys.stderr)
            raise
        else:
            outcomes[f"{kind}: accepted"] += 1
        slowest = max(slowest, time.perf_counter() - start)
    return outcomes, slowest


def main() -> None:
    """Run and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes, slowest = run(options.cases, options.seed)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:9,}  {outcome}")
    print(f"{options.cases:,} cases, the slowest took {slowest * 1000:.1f} ms")
    if slowest > SLOW_SECONDS:
        sys.exit(f"a case took more than {SLOW_SECONDS} s")


if __name__ == "__main__":
    main()
