"""DSSE v1 envelopes: the bytes that are verified are the bytes that are parsed.

    {"payloadType": T, "payload": base64(B), "signatures": [{"keyid": K, "sig": base64(S)}…]}
    signed message = "DSSEv1" SP len(T) SP T SP len(B) SP B

An envelope keeps its exact bytes: they are an entry of its publisher's log.
Source: secure-systems-lab/dsse protocol.md and envelope.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted
from typing import Self

from modelnet.core import strictjson
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.errors import MalformedError, TrustError

__all__ = ["MAX_ENVELOPE", "Envelope", "pae"]

MAX_ENVELOPE = 32_768  # bytes of one log entry
MAX_SIGNATURES = 64


def pae(payload_type: str, body: bytes) -> bytes:
    """Return the pre-authentication encoding, the message that is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope; `unverified_body` means nothing until `verify` returned it."""

    encoded: bytes
    payload_type: str
    unverified_body: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def sign(cls, payload_type: str, body: bytes, keys: Sequence[SigningKey]) -> Self:
        """Return the envelope of `body` signed by `keys`."""
        message = pae(payload_type, body)
        return cls.parse(_dump(payload_type, body, [(key.verify_key.keyid, key.sign(message)) for key in keys]))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse an envelope of at most 32,768 bytes; raise `MalformedError` on anything that is not one."""
        fields = strictjson.parse(data, what="envelope", limit=MAX_ENVELOPE)
        match fields:
            case {"payloadType": str(kind), "payload": str(payload), "signatures": list(signatures)}:
                pass
            case _:
                raise MalformedError("not a DSSE envelope", rule="envelope")
        if len(signatures) > MAX_SIGNATURES:
            raise MalformedError("too many signatures", rule="envelope", wanted=MAX_SIGNATURES, got=len(signatures))
        pairs = []
        for signature in signatures:
            match signature:
                case {"sig": str(sig), **rest} if isinstance(keyid := rest.get("keyid", ""), str):
                    pairs.append((keyid, _base64(sig)))
                case _:
                    raise MalformedError("not a DSSE signature", rule="envelope")
        return cls(data, kind, _base64(payload), tuple(pairs))

    @classmethod
    def parse_entry(cls, data: bytes) -> Self:
        """Parse an envelope that is an entry of a log: its one spelling, so that its bytes are what was signed.

        DSSE itself leaves white space, base64 alphabets and absent key ids open; an entry's hash would then not be
        the only one for what it says.
        """
        envelope = cls.parse(data)
        if _dump(envelope.payload_type, envelope.unverified_body, envelope.signatures) != data:
            raise MalformedError("not the one encoding of a log entry", rule="envelope")
        return envelope

    def verify(self, payload_type: str, keys: Iterable[VerifyKey], threshold: int = 1) -> bytes:
        """Return the body once `threshold` distinct `keys` signed it as `payload_type`; else raise `TrustError`."""
        if self.payload_type != payload_type:
            raise TrustError("envelope of another type", rule="signature", wanted=payload_type, got=self.payload_type)
        message = pae(self.payload_type, self.unverified_body)
        wanted = {key.public: key for key in keys}
        # Distinct public keys are counted: neither a key listed twice nor a signature repeated counts twice.
        signers = {
            public
            for public, key in wanted.items()
            if any(key.accepts(message, sig) for keyid, sig in self.signatures if keyid in ("", key.keyid))
        }
        if len(signers) < max(threshold, 1):
            raise TrustError(
                "envelope is not signed by the keys that speak for its publisher",
                rule="signature", wanted=f"{max(threshold, 1)} of {len(wanted)} keys", got=f"{len(signers)}",
            )  # fmt: skip
        return self.unverified_body


def _dump(payload_type: str, body: bytes, signatures: Iterable[tuple[str, bytes]]) -> bytes:
    # By hand, faster than through a dict: every entry of every log is compared with it.
    lines = ",".join(f'{{"keyid":{_quoted(keyid)},"sig":"{_text(sig)}"}}' for keyid, sig in signatures)
    kind = _quoted(payload_type)
    return f'{{"payloadType":{kind},"payload":"{_text(body)}","signatures":[{lines}]}}'.encode()


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _base64(text: str) -> bytes:
    """Decode standard or URL-safe base64, as DSSE asks a consumer to."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("envelope field is not base64", rule="envelope") from error
