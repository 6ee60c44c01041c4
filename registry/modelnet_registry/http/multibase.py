"""The spellings of a CID that others use: whoever asks may write it in any of the common multibases.

    b B   base32        k K   base36          u   base64url
    f F   base16        z     base58btc       m   base64          Qm…   CIDv0

What we print, and the rest of modelnet reads, is lower-case base32 alone (`modelnet.core.cid`): one value, one text.
The doors for Kubo and browsers take them all. Source: multiformats/multibase; ipfs/specs trustless-gateway.md.
"""

from __future__ import annotations

import base64
import binascii

from modelnet.core.cid import Cid
from modelnet.errors import MalformedError

__all__ = ["parse_cid"]

MAX_TEXT = 320  # base16 of an identity CID of 128 bytes, and then some
_LETTERS = {
    "z": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    "k": "0123456789abcdefghijklmnopqrstuvwxyz",
}


def parse_cid(text: str) -> Cid:
    """Return the CID that `text` spells; raise `MalformedError` when it spells none."""
    kind, rest = text[:1], text[1:]
    if text.startswith("Qm") or kind == "b":
        return Cid.parse(text)
    if not rest or len(text) > MAX_TEXT or not text.isascii():
        raise MalformedError("not a CID", rule="cid", got=repr(text[:80]))
    try:
        data = _decode(kind, rest)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("not a CID", rule="cid", got=repr(text[:80])) from error
    cid = Cid.decode(data)
    if cid.version == 0:
        raise MalformedError("a CIDv0 has no multibase", rule="cid", got=repr(text[:80]))
    return cid


def _decode(kind: str, text: str) -> bytes:
    match kind:
        case "B" if text.isupper():
            return base64.b32decode(text + "=" * (-len(text) % 8))
        case "f" | "F" if text == (text.lower() if kind == "f" else text.upper()):
            return bytes.fromhex(text)
        case "K" if text.isupper():
            return _big(text.lower(), _LETTERS["k"])
        case "k" | "z":
            return _big(text, _LETTERS[kind])
        case "u" | "m":
            altchars = b"-_" if kind == "u" else b"+/"
            return base64.b64decode(text + "=" * (-len(text) % 4), altchars=altchars, validate=True)
    raise ValueError("no multibase that is known here")


def _big(text: str, letters: str) -> bytes:
    """Return the bytes of one large number; each leading zero letter is a zero byte."""
    number = 0
    for letter in text:
        number = number * len(letters) + letters.index(letter)
    zeros = len(text) - len(text.lstrip(letters[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
