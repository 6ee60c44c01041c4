"""Ed25519 keys and the one function that checks a signature.

Every signature in modelnet is checked by `verify` below, with libsodium: two verifiers that disagree on odd points
would let some nodes accept what others refuse. libsodium refuses low-order keys and non-canonical S by itself.

A key's id is `hex SHA-256(alg ‖ public key)` with alg 0x01 for Ed25519, the C2SP signature type (C2SP signed-note).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Self

from modelnet.errors import MalformedError

__all__ = ["ED25519", "SigningKey", "VerifyKey"]

ED25519 = 0x01


@cache
def _libsodium() -> tuple[Callable[[bytes, bytes], bytes], tuple[type[Exception], ...]]:
    """Load libsodium once, at the first signature: `import modelnet` stays light."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import CryptoError

    return crypto_sign_open, (CryptoError, ValueError)


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public Ed25519 key (32 bytes)."""

    public: bytes

    def __post_init__(self) -> None:
        if len(self.public) != 32:
            raise MalformedError("Ed25519 public key", rule="key", wanted="32 bytes", got=len(self.public))

    @property
    def keyid(self) -> str:
        """The key's id: hex SHA-256 of the algorithm byte and the key."""
        return hashlib.sha256(bytes((ED25519,)) + self.public).hexdigest()

    def accepts(self, message: bytes, signature: bytes) -> bool:
        """Tell whether `signature` (64 bytes) is this key's over `message`; the only verifier there is."""
        if len(signature) != 64:
            return False
        crypto_sign_open, refusals = _libsodium()
        try:
            crypto_sign_open(signature + message, self.public)
        except refusals:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private Ed25519 key, held as its 32-byte seed; never printed."""

    seed: bytes = field(repr=False)
    verify_key: VerifyKey

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key of `seed` (32 random bytes, drawn by the caller)."""
        from nacl.bindings import crypto_sign_seed_keypair

        public, _ = crypto_sign_seed_keypair(seed)
        return cls(seed, VerifyKey(public))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`."""
        from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

        _, secret = crypto_sign_seed_keypair(self.seed)
        return crypto_sign(message, secret)[:64]
