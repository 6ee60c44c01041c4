"""A log's dealings with others before and after it signs: what they saw of it, and their cosignatures.

    heads_elsewhere(home, pid, origin)      what peers and witnesses show as the head of an own log
    larger_elsewhere(policy, head, proof)   the size that a witness has cosigned beyond the committed head
    cosign(policy, note, proof)             a new head, with what the policy's witnesses add

A witness that has cosigned more than the log has here says that its key is used elsewhere. That must be found before
anything is signed; afterwards such a witness only adds nothing.
Source: C2SP tlog-witness.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from http import HTTPStatus
from threading import Lock, Thread
from typing import TypeAlias

from modelnet.core.fold import origin_of
from modelnet.core.note import MAX_NOTE, MAX_SIGNATURES, Checkpoint, NoteKey, SignedNote
from modelnet.core.policy import Policy, Witness
from modelnet.errors import MalformedError, ModelnetError, UnavailableError, UsageError
from modelnet.policies import load_witnesses
from modelnet.stores.home import Home
from modelnet.stores.http import Connection, HttpSource, NotHereError
from modelnet.stores.loghttp import ask_all
from modelnet.stores.peers import known_peers
from modelnet.syncing import epoch_of
from modelnet_registry.witness import Submission

__all__ = ["ask_witness", "cosign", "heads_elsewhere", "larger_elsewhere", "witness_source"]

ELSEWHERE_S = 5.0
COSIGN_S = 10.0  # for all witnesses together; one that is slower cosigns the next head
MAX_ANSWER = MAX_NOTE
ROUNDS = 4  # submissions to one witness: the size that it names may be out of date once or twice, not for ever
SIZE = "text/x.tlog.size"
Proof: TypeAlias = Callable[[int], Sequence[bytes]]
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n?")


def heads_elsewhere(home: Home, pid: str, origin: str, *, seconds: float = ELSEWHERE_S) -> list[SignedNote]:
    """Return what the peers and witnesses of `home` show, within `seconds`, as heads of an own log; unverified.

    That is of `origin`, or of a later epoch: for the writer, who must not sign where somebody has seen more.
    """
    policy = load_witnesses(home)
    peers = dict.fromkeys(HttpSource.parse(url) for url in known_peers(home))
    witnesses = dict.fromkeys(source for one in policy.witnesses if (source := witness_source(one)) is not None)
    following = origin_of(pid, (epoch_of(pid, origin) or 0) + 1)
    names = [sha256(name.encode()).hexdigest() for name in (origin, following)]

    def ask(connection: Connection) -> list[SignedNote]:
        paths = [f"/log/{pid}/checkpoint"] if connection.source in peers else []
        # C2SP tlog-witness, "Monitor Retrieval Mechanism"; most witnesses have it where checkpoints are submitted.
        paths += [f"/{name}/checkpoint" for name in names] if connection.source in witnesses else []
        found = []
        for path in paths:
            try:
                found.append(SignedNote.parse(connection.get(path, MAX_NOTE, "the head of a log")))
            except (NotHereError, MalformedError):
                continue
        return found

    return [note for notes in ask_all(list({**peers, **witnesses}), ask, seconds) for note in notes]


def witness_source(witness: Witness) -> HttpSource | None:
    """Return where a witness of a policy is reached; None when the policy has no usable address of it."""
    try:
        return None if witness.url is None else HttpSource.parse(witness.url.decode())
    except (UsageError, UnicodeDecodeError):
        return None


def cosign(policy: Policy, note: SignedNote, proof: Proof, *, seconds: float = COSIGN_S) -> SignedNote:
    """Return `note` with the cosignatures of those witnesses of `policy` that answer within `seconds`.

    `proof(size)` is the consistency proof from `size` to the head. Only lines count that verify under a witness's key.
    Never raises for what a witness does: whether enough of them cosigned is the policy's question, for who reads.
    """
    return _ask_witnesses(policy, note, proof, seconds)[0]


def larger_elsewhere(policy: Policy, head: SignedNote, proof: Proof, *, seconds: float = ELSEWHERE_S) -> int | None:
    """Return the largest size of the log that a witness has cosigned, if that is more than the committed `head`.

    Then the log's key is used elsewhere, or this store is an old copy, and nothing must be signed. It asks for another
    cosignature of what is signed already: so also witnesses answer that show heads to nobody.
    """
    sizes = [error.got for error in _ask_witnesses(policy, head, proof, seconds)[1] if error.rule == "size"]
    return max((size for size in sizes if isinstance(size, int)), default=None)


def _ask_witnesses(
    policy: Policy, note: SignedNote, proof: Proof, seconds: float
) -> tuple[SignedNote, list[ModelnetError]]:
    """Return the note with what the witnesses add, and why some did not."""
    found: dict[NoteKey, SignedNote] = {}
    refused: list[ModelnetError] = []
    asked: dict[NoteKey, Connection] = {}
    lock = Lock()
    deadline = time.monotonic() + seconds

    def run(key: NoteKey, connection: Connection) -> None:
        try:
            cosigned = ask_witness(connection, note, key, proof, deadline=deadline)
        except ModelnetError as error:
            with lock:
                refused.append(error)
            return
        finally:
            connection.close()
        with lock:
            found[key] = cosigned

    threads = []
    for witness in policy.witnesses:
        if (source := witness_source(witness)) is not None:
            try:
                asked[witness.key] = source.connect()
            except ModelnetError as error:
                refused.append(error)
                continue
            what = (witness.key, asked[witness.key])
            # Daemons, which nobody waits for longer: a name server or a firewall may keep one busy.
            threads.append(Thread(target=run, args=what, name="modelnet-cosign", daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for connection in asked.values():
        connection.abort()
    with lock:
        # In the order of the policy, so that the same answers make the same note.
        lines = [line for key in asked if key in found for line in found[key].signatures]
        return SignedNote(note.unverified_text, (*note.signatures, *lines)[:MAX_SIGNATURES]), list(refused)


def ask_witness(
    connection: Connection,
    note: SignedNote,
    key: NoteKey,
    proof: Proof,
    *,
    deadline: float = math.inf,
) -> SignedNote:
    """Return the note with nothing but the witness's cosignature of it.

    Begins with what most witnesses have cosigned last, nothing being known of this one: the head itself. Raises
    `UnavailableError` (rule `size` with the witness's size in `got` when it has seen more than this head, `witness` for
    any other refusal, `connection`), `MalformedError` for an answer that is none.
    """
    origin = note.unverified_text.partition("\n")[0]
    head = Checkpoint.parse(note.unverified_text, origin)
    old, url = head.size, connection.source.url
    # What others cosigned is not this witness's business, and some take no more than 10 KiB.
    bare = SignedNote(note.unverified_text, tuple(line for line in note.signatures if line.name == origin))
    for _ in range(ROUNDS):
        hashes = tuple(proof(old)) if 0 < old < head.size else ()
        if time.monotonic() > deadline:
            raise UnavailableError("the witness is too slow", rule="slow", source=url)
        body = Submission(old, hashes, bare).encode()
        status, kind, answer = connection.post("/add-checkpoint", body, MAX_ANSWER)
        if status == HTTPStatus.OK:
            return _cosigned(note, answer, key)
        size = _SIZE.fullmatch(answer) if status == HTTPStatus.CONFLICT and kind == SIZE else None
        if size is None:
            raise UnavailableError(f"the witness refused: {status}", rule="witness", source=url)
        if int(size[1]) == old == head.size:
            raise UnavailableError(
                "the witness has cosigned another head of this size", rule="fork", wanted=head.root.hex(), source=url
            )
        if (old := int(size[1])) > head.size:
            raise UnavailableError(
                "the witness has seen a larger log", rule="size", wanted=head.size, got=old, source=url
            )
    raise UnavailableError("the witness names another size each time", rule="witness", source=url)


def _cosigned(note: SignedNote, lines: bytes, key: NoteKey) -> SignedNote:
    # C2SP tlog-witness: "the client MAY concatenate it to the checkpoint, and use a note verification function".
    answer = SignedNote.parse(note.unverified_text.encode() + b"\n" + lines)
    mine = [line for line in answer.signatures if (line.name, line.keyid) == (key.name, key.keyid)]
    for line in mine:
        one = SignedNote(note.unverified_text, (line,))
        if one.cosigned([key]):
            return one
    raise MalformedError("the witness's answer is not its cosignature", rule="witness", got=lines[:80])
