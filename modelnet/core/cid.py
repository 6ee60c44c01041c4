"""Content identifiers: what a block is (codec) and the hash of its bytes.

    binary CIDv1   <1> <codec> <hash code> <digest length> <digest>        each number a varint
    text CIDv1     "b" + lower-case base32 without padding of the binary form
    CIDv0          a bare sha2-256 multihash, base58btc; always dag-pb

Every CID that modelnet makes is version 1 with a BLAKE3-256 digest, so the CID of a chunk *is* its hash.
Other hashes are understood for what others made: sha2-256, and `identity` for the gateway probe `bafkqaaa`.

    >>> str(Cid.of(RAW, b""))
    'bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi'

Source: multiformats/cid, multiformats/multihash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Self

import blake3

from modelnet.core import varint
from modelnet.errors import IntegrityError, MalformedError

__all__ = ["BLAKE3", "DAG_CBOR", "DAG_PB", "IDENTITY", "RAW", "SHA2_256", "Cid", "blake3_digest"]

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71

IDENTITY = 0x00
SHA2_256 = 0x12
BLAKE3 = 0x1E


# 59 characters for ours; identity CIDs carry their data and boxo caps that at 128 bytes.
MAX_TEXT = 256
MAX_DIGEST = 128
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def blake3_digest(content: bytes | bytearray | memoryview) -> bytes:
    """Return the 32-byte BLAKE3 digest; the interpreter lock is released while it runs."""
    return blake3.blake3(content).digest()


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """A CID: `codec` and `code` are multicodec numbers, `digest` the hash itself."""

    codec: int
    code: int
    digest: bytes
    version: int = 1

    @classmethod
    def of(cls, codec: int, block: bytes | bytearray | memoryview, code: int = BLAKE3) -> Self:
        """Return the CIDv1 of `block`."""
        if code == BLAKE3:
            return cls(codec, code, blake3_digest(block))
        if code == SHA2_256:
            return cls(codec, code, hashlib.sha256(block).digest())
        raise ValueError(f"no CID is made with hash code {code:#x}")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the one binary encoding of a CID; the whole of `data` must be it."""
        cid, end = cls.read(data)
        if end != len(data):
            raise MalformedError("bytes follow the CID", rule="cid", wanted=f"{end} bytes", got=len(data))
        return cid

    @classmethod
    def read(cls, data: bytes | memoryview, offset: int = 0) -> tuple[Self, int]:
        """Parse a binary CID at `offset`; return it and the offset after it."""
        if bytes(data[offset : offset + 2]) == b"\x12\x20":
            digest = bytes(data[offset + 2 : offset + 34])
            if len(digest) != 32:
                raise MalformedError("CIDv0 ends too early", rule="cid", offset=offset)
            return cls(DAG_PB, SHA2_256, digest, 0), offset + 34
        version, position = varint.decode(data, offset)
        if version != 1:
            raise MalformedError("not a CID version we know", rule="cid", offset=offset, wanted=1, got=version)
        codec, position = varint.decode(data, position)
        code, position = varint.decode(data, position)
        length, position = varint.decode(data, position)
        if length > MAX_DIGEST or position + length > len(data):
            raise MalformedError("CID digest is too long or cut off", rule="cid", offset=position, got=length)
        if code in (BLAKE3, SHA2_256) and length != 32:
            raise MalformedError("CID digest has the wrong length", rule="cid", offset=position, wanted=32, got=length)
        return cls(codec, code, bytes(data[position : position + length])), position + length

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form: base32 CIDv1 (`b…`) or base58btc CIDv0 (`Qm…`)."""
        if not text or len(text) > MAX_TEXT or not text.isascii():
            raise MalformedError("not a CID", rule="cid", got=repr(text[:80]))
        if text.startswith("Qm"):
            return cls._parse_v0(text)
        if not text.startswith("b"):
            raise MalformedError("not a base32 CID", rule="cid", wanted="b…", got=repr(text[:80]))
        try:
            data = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
        except binascii.Error as error:
            raise MalformedError("not a base32 CID", rule="cid", got=repr(text[:80])) from error
        cid = cls.decode(data)
        # One value, one encoding: rejects upper case, stray bits and a CIDv0 in base32.
        if str(cid) != text:
            raise MalformedError("not the canonical spelling of a CID", rule="cid", wanted=str(cid), got=text)
        return cid

    @classmethod
    def _parse_v0(cls, text: str) -> Self:
        number = 0
        for letter in text:
            if letter not in BASE58:
                raise MalformedError("not a base58 CID", rule="cid", got=repr(text[:80]))
            number = number * 58 + BASE58.index(letter)
        data = number.to_bytes((number.bit_length() + 7) // 8, "big")
        if len(data) != 34 or not data.startswith(b"\x12\x20"):
            raise MalformedError("not a CIDv0", rule="cid", got=repr(text[:80]))
        return cls(DAG_PB, SHA2_256, data[2:], 0)

    def encode(self) -> bytes:
        """Return the binary form."""
        multihash = varint.encode(self.code) + varint.encode(len(self.digest)) + self.digest
        return multihash if self.version == 0 else b"\x01" + varint.encode(self.codec) + multihash

    def __str__(self) -> str:
        if self.version == 0:
            number, letters = int.from_bytes(self.encode(), "big"), ""
            while number:
                number, rest = divmod(number, 58)
                letters = BASE58[rest] + letters
            return letters
        return "b" + base64.b32encode(self.encode()).decode().rstrip("=").lower()

    def verify(self, block: bytes | bytearray | memoryview, *, source: str | None = None) -> None:
        """Raise `IntegrityError` unless `block` hashes to this CID."""
        if self.code == IDENTITY:
            matches = bytes(block) == self.digest
        elif self.code not in (BLAKE3, SHA2_256):
            raise MalformedError("CID of a hash that we do not know", rule="cid", got=self, source=source)
        else:
            matches = Cid.of(self.codec, block, self.code).digest == self.digest
        if not matches:
            got = Cid(self.codec, BLAKE3, blake3_digest(block)) if self.code == BLAKE3 else "other bytes"
            raise IntegrityError("block differs from its CID", rule="hash", wanted=self, got=got, source=source)
