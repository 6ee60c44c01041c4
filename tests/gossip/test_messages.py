"""Gossip messages: one encoding, bounded, and nothing that a peer can send does more than be refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import strictjson
from modelnet.errors import MalformedError, ModelnetError
from modelnet_registry.gossip.messages import (
    MAX_BATCH,
    MAX_HEADS,
    MAX_MARKS,
    MAX_PEERS,
    MAX_RUMOUR,
    Entries,
    Evidence,
    Head,
    HeadLine,
    Heads,
    Marks,
    MemberLine,
    Members,
    Message,
    Negative,
    Note,
    Peers,
    Proof,
    Rumour,
    Want,
    encode_batch,
    parse_batch,
)
from tests.core.logs import T0, Log

LOG = Log()
LOG.release("llama", "1.0")
PID, ORIGIN = LOG.pid, LOG.state.origin
ROOT = LOG.state.tree_root
NOTE = Note.read(LOG.head(time=T0).encode())
SENDER = "http://10.0.0.7:8710"
LINES = (
    HeadLine(Head(PID, 0, 2, ROOT, T0), 7), HeadLine(Head("b" * 52, 3, 1, ROOT)),
    HeadLine(Head("c" * 52, 0, 0, b"")),
)  # fmt: skip
MESSAGES: list[Message] = [
    Heads((), ask=True),
    Heads(LINES, ask=False),
    Marks(PID, (bytes(16), b"m" * 16), ask=True),
    Want((PID,), ((PID, bytes(16)),), ((ORIGIN, 0, 256),), ((ORIGIN, 1, 9000),)),
    Peers((SENDER, "https://node.example/base")),
    Members((MemberLine(SENDER, 40, T0),)),
    NOTE,
    Negative(PID, b"{}"),
    Evidence(PID, b"{}"),
    Rumour(NOTE),
    Rumour(Negative(PID, b"{}")),
    Entries(ORIGIN, 3, (b"a", b"bc")),
    Proof(ORIGIN, 1, 2, ROOT, (bytes(32),)),
]  # fmt: skip


def frame(kind: str, body: bytes) -> bytes:
    """Return a batch with one message, whatever it says."""
    return f"modelnet-gossip/v1 -\n{kind} {len(body)}\n".encode() + body


def test_a_batch_comes_back_as_it_was() -> None:
    """Every kind of message survives its own bytes, and keeps its place."""
    assert parse_batch(encode_batch(SENDER, MESSAGES)) == (SENDER, MESSAGES)
    assert parse_batch(encode_batch("-", [])) == ("-", [])


def test_a_head_of_a_recovered_log_says_its_epoch() -> None:
    """The origin holds the epoch, and comes back from it."""
    head = Head(PID, 2, 5, ROOT, T0)
    assert head.origin == f"modelnet.alt/p/{PID}/r2"
    _, (found,) = parse_batch(encode_batch("-", [Heads((HeadLine(head, 1),), ask=True)]))
    assert isinstance(found, Heads)
    assert found.lines[0].head == head


def test_what_does_not_fit_is_left_out() -> None:
    """A batch never exceeds its limit; smaller messages behind a large one still go out."""
    large = [Negative(PID, bytes(32 * 1024))] * 9
    batch = encode_batch("-", [*large, NOTE])
    assert len(batch) <= MAX_BATCH
    assert parse_batch(batch)[1] == [*large[:7], NOTE]
    assert parse_batch(encode_batch("-", [large[0], NOTE], limit=4096), limit=4096)[1] == [NOTE]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND)
@given(data=st.data())
def test_damaged_batches_are_refused_or_mean_themselves(message: Message, data: st.DataObject) -> None:
    """Whatever byte is changed, cut or added: a typed error, or a batch whose bytes are these."""
    batch = bytearray(encode_batch(SENDER, [message]))
    position = data.draw(st.integers(0, len(batch) - 1))
    match data.draw(st.sampled_from(["change", "cut", "add"])):
        case "change":
            batch[position] ^= data.draw(st.integers(1, 255))
        case "cut":
            del batch[position:]
        case _:
            batch.insert(position, data.draw(st.integers(0, 255)))
    try:
        sender, found = parse_batch(bytes(batch))
    except ModelnetError:
        return
    assert encode_batch(sender, found) == batch


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    """Noise is no batch, and noise in every kind of message is a typed error."""
    with pytest.raises(MalformedError):
        parse_batch(noise)
    for message in MESSAGES:
        try:
            parse_batch(frame(message.KIND, noise))
        except ModelnetError:
            continue
        assert message.KIND in ("negative", "evidence", "note")


def heads(*lines: object) -> bytes:
    """Return a message with those lines."""
    return frame("heads", strictjson.dump({"ask": True, "heads": list(lines)}))


GOOD = [ORIGIN, 2, base64.b64encode(ROOT).decode(), T0, f"{7:016x}"]


@pytest.mark.parametrize(
    "batch",
    [
        b"", b"modelnet-gossip/v2 -\n", b"modelnet-gossip/v1 ftp://a\n", b"modelnet-gossip/v1 http://a b\n",
        b"modelnet-gossip/v1 -\nheads 7\n{}", b"modelnet-gossip/v1 -\nheads 02\n{}", frame("gossip", b"{}"),
        frame("heads", b'{"heads":[],"ask":true}'), frame("heads", b'{"ask":true,"heads":[],"more":1}'),
        frame("heads", b'{"ask":true,"ask":true,"heads":[]}'), frame("heads", b'{"ask":1,"heads":[]}'),
        heads([*GOOD, 1]), heads([ORIGIN, -1, *GOOD[2:]]), heads([ORIGIN, 1 << 62, *GOOD[2:]]),
        heads([ORIGIN, True, *GOOD[2:]]), heads([ORIGIN, 0, *GOOD[2:]]), heads([ORIGIN, 2, "", *GOOD[3:]]),
        heads(["elsewhere", *GOOD[1:]]), heads([ORIGIN + "/r0", *GOOD[1:]]), heads([*GOOD[:4], "7"]),
        heads(*[GOOD] * (MAX_HEADS + 1)),
        frame("marks", strictjson.dump({"ask": True, "pid": PID, "marks": ["AA=="]})),
        frame("marks", strictjson.dump({"ask": True, "pid": PID.upper(), "marks": []})),
        frame("marks", strictjson.dump({"ask": True, "pid": PID, "marks": ["A" * 22 + "=="] * (MAX_MARKS + 1)})),
        frame("want", strictjson.dump({"notes": [], "marks": [], "entries": [[ORIGIN, 0, 257]], "proofs": []})),
        frame("want", strictjson.dump({"notes": [PID] * 257, "marks": [], "entries": [], "proofs": []})),
        frame("peers", strictjson.dump(["http://a"] * (MAX_PEERS + 1))), frame("peers", b'["file:///etc/passwd"]'),
        frame("peers", strictjson.dump(["http://" + "a" * 256])), frame("peers", b"{}"),
        frame("members", strictjson.dump([[SENDER, 1, 1]] * 65)), frame("members", strictjson.dump([[SENDER, -1, 1]])),
        frame("note", b"x" * (64 * 1024 + 1)), frame("note", f"{ORIGIN}\n0\n{GOOD[2]}\n\n".encode()),
        frame("note", f"{ORIGIN}\n{1 << 60}\n{GOOD[2]}\n\n".encode()), frame("note", b"\xff\n\n"),
        frame("negative", PID.encode()), frame("negative", PID.encode() + b"\n"),
        frame("negative", PID.encode() + b"\n" + bytes(32 * 1024 + 1)),
        frame("evidence", PID.encode() + b"\n" + bytes(160 * 1024 + 1)),
        frame("rumour", b"negative\n" + PID.encode() + b"\n" + bytes(MAX_RUMOUR)), frame("rumour", b"rumour\nnote\n"),
        frame("entries", f"{ORIGIN} 0 2\n".encode() + b"\0\1a"), frame("entries", f"{ORIGIN} 2 2\n".encode()),
        frame("proof", f"{ORIGIN} 1 2\n".encode()), frame("proof", f"{ORIGIN} 2 2\n{GOOD[2]}\n".encode()),
        frame("proof", f"{ORIGIN} 1 2\n".encode() + f"{GOOD[2]}\n".encode() * 65),
        encode_batch("-", [NOTE]) + b"x", b"modelnet-gossip/v1 -\n" + b"peers 2\n[]" * 513,
        encode_batch("-", []) + bytes(MAX_BATCH),
    ],
    ids=lambda batch: repr(batch[:60]),
)  # fmt: skip
def test_other_spellings_and_sizes_are_refused(batch: bytes) -> None:
    """Another order, another type, one item too many, a size that no log has: malformed, and said so."""
    with pytest.raises(MalformedError):
        parse_batch(batch)
