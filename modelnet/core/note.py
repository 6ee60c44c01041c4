r"""Signed notes: text with signatures below, as C2SP signed-note has them; checkpoints and cosignatures as notes.

    <text, one or more lines>\n
    \n
    — <key name> <base64(key id (4 bytes) ‖ signature)>\n      one or more

    key id = SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]       type 0x01: Ed25519 over the text
    type 0x04: u64be time ‖ Ed25519 over "cosignature/v1\ntime <time>\n" ‖ text       (C2SP tlog-cosignature)

    checkpoint text = <origin>\n<size>\n<base64 root>\n          no extension lines   (C2SP tlog-checkpoint)

Nothing in a note means anything until one of the keys that the caller names has signed it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from modelnet.core.keys import ED25519, SigningKey, VerifyKey
from modelnet.errors import MalformedError, TrustError

__all__ = ["COSIGNATURE", "MAX_NOTE", "MAX_SIGNATURES", "Checkpoint", "NoteKey", "SignedNote"]

COSIGNATURE = 0x04  # C2SP signed-note: timestamped Ed25519 witness cosignatures
MAX_NOTE = 64 * 1024
MAX_SIGNATURES = 64  # the specification asks for at least 16
DASH = "— "
MAX_SIZE = 1 << 63


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes under a name; `kind` is the signature type, 0x01 or 0x04."""

    name: str
    key: VerifyKey
    kind: int = ED25519

    def __post_init__(self) -> None:
        if not _is_name(self.name) or self.kind not in (ED25519, COSIGNATURE):
            raise MalformedError("not a note key", rule="note", got=repr(self.name[:80]))

    @property
    def keyid(self) -> bytes:
        """The four bytes that tell keys of one name apart."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes((self.kind,)) + self.key.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as Go's sumdb and C2SP policies write it: name+id+base64."""
        encoded = base64.b64encode(bytes((self.kind,)) + self.key.public).decode()
        return f"{self.name}+{self.keyid.hex()}+{encoded}"

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Parse the one spelling of a vkey."""
        try:
            name, _, encoded = vkey.split("+", 2)
            content = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise MalformedError("not a verifier key", rule="note", got=repr(vkey[:80])) from error
        if len(content) != 33:
            raise MalformedError("not an Ed25519 verifier key", rule="note", wanted="33 bytes", got=len(content))
        key = cls(name, VerifyKey(content[1:]), content[0])
        if key.vkey != vkey:
            raise MalformedError("not the one spelling of a verifier key", rule="note", wanted=key.vkey, got=vkey[:200])
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line; `content` is what follows the key id."""

    name: str
    keyid: bytes
    content: bytes

    def encode(self) -> str:
        """Return the line with its newline."""
        return f"{DASH}{self.name} {base64.b64encode(self.keyid + self.content).decode()}\n"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A parsed note; `unverified_text` is what its signatures are about."""

    unverified_text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the one encoding of a signed note, at most 64 KiB and 64 signatures."""
        if len(data) > MAX_NOTE:
            raise MalformedError("note is too large", rule="note", wanted=f"at most {MAX_NOTE}", got=len(data))
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("note is not UTF-8", rule="note", offset=error.start) from error
        if any(letter < " " and letter != "\n" for letter in text):
            raise MalformedError("note holds a control character", rule="note")
        # The last empty line separates; the text keeps its own newline.
        head, separator, tail = text.rpartition("\n\n")
        if not separator or not tail.endswith("\n"):
            raise MalformedError("note has no signatures", rule="note")
        lines = tail[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise MalformedError("note has too many signatures", rule="note", wanted=MAX_SIGNATURES, got=len(lines))
        note = cls(head + "\n", tuple(_signature(line) for line in lines))
        if note.encode() != data:
            raise MalformedError("not the one encoding of a note", rule="note")
        return note

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return (self.unverified_text + "\n" + "".join(line.encode() for line in self.signatures)).encode()

    def verify(self, keys: Iterable[NoteKey]) -> str:
        """Return the text once at least one of `keys` signed it; a bad signature by one of them spoils the note."""
        known = {(key.name, key.keyid): key for key in keys}
        signed = False
        for line in self.signatures:
            key = known.get((line.name, line.keyid))
            if key is None:
                continue
            if key.kind != ED25519 or not key.key.accepts(self.unverified_text.encode(), line.content):
                raise TrustError("a signature of a known key is wrong", rule="signature", got=line.name)
            signed = True
        if not signed:
            raise TrustError("note is not signed by a known key", rule="signature", got=self.signatures[0].name)
        return self.unverified_text

    def cosigned(self, keys: Iterable[NoteKey]) -> dict[NoteKey, int]:
        """Return the time (unix seconds) at which each of `keys` cosigned this very text; wrong lines do not count."""
        known = {(key.name, key.keyid): key for key in keys if key.kind == COSIGNATURE}
        times: dict[NoteKey, int] = {}
        for line in self.signatures:
            key = known.get((line.name, line.keyid))
            if key is None or len(line.content) != 72:
                continue
            time = int.from_bytes(line.content[:8], "big")
            if time < MAX_SIZE and key.key.accepts(_cosigned(self.unverified_text, time), line.content[8:]):
                times[key] = max(time, times.get(key, 0))
        return times

    def sign(self, name: str, key: SigningKey) -> Self:
        """Return the note with one more signature of type 0x01."""
        signer = NoteKey(name, key.verify_key)
        line = Signature(name, signer.keyid, key.sign(self.unverified_text.encode()))
        return type(self)(self.unverified_text, (*self.signatures, line))

    def cosign(self, name: str, key: SigningKey, time: int) -> Self:
        """Return the note with one more cosignature, made at `time` (unix seconds)."""
        signer = NoteKey(name, key.verify_key, COSIGNATURE)
        content = time.to_bytes(8, "big") + key.sign(_cosigned(self.unverified_text, time))
        return type(self)(self.unverified_text, (*self.signatures, Signature(name, signer.keyid, content)))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: its size and root."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not self.origin or "\n" in self.origin or not 0 <= self.size < MAX_SIZE or len(self.root) != 32:
            raise MalformedError("not a checkpoint", rule="checkpoint")

    @classmethod
    def parse(cls, text: str, origin: str) -> Self:
        """Parse the one encoding of a checkpoint of `origin`; extension lines are refused."""
        try:
            found, size, root, end = text.split("\n")
            checkpoint = cls(found, int(size), base64.b64decode(root, validate=True))
        except ValueError as error:
            raise MalformedError("not a checkpoint", rule="checkpoint") from error
        # One value, one encoding: this is what rejects "+7", "007", "1_0" and "٣".
        if end or checkpoint.encode() != text:
            raise MalformedError("not the one encoding of a checkpoint", rule="checkpoint")
        if checkpoint.origin != origin:
            raise TrustError("checkpoint of another log", rule="origin", wanted=origin, got=checkpoint.origin)
        return checkpoint

    def encode(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def note(self) -> SignedNote:
        """Return the note of this checkpoint, not signed yet."""
        return SignedNote(self.encode(), ())


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(letter.isspace() or letter < " " for letter in name)


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(DASH).partition(" ")
    if not line.startswith(DASH) or not space or not _is_name(name):
        raise MalformedError("not a signature line", rule="note", got=repr(line[:80]))
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError as error:  # binascii.Error, or letters beyond ASCII
        raise MalformedError("signature is not base64", rule="note", got=repr(line[:80])) from error
    if len(content) < 5:
        raise MalformedError("signature is too short", rule="note", wanted="5 bytes or more", got=len(content))
    return Signature(name, content[:4], content[4:])
