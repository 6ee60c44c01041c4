"""Where a Kubo is: its RPC port for writing, its gateway port for reading.

    kubo                                  what $IPFS_PATH (else ~/.ipfs) says, else Kubo's default port
    /ip4/127.0.0.1/tcp/5001               multiaddrs, also /ip6 /dns /dns4 /dns6 and a closing /http or /https
    http://10.0.0.5:5001                  URLs without a path
    /unix/run/kubo.sock                   a unix socket, RPC only

A running daemon writes its own addresses into `$IPFS_PATH/api` and `$IPFS_PATH/gateway`.
Source: kubo docs/config.md (Addresses, API.Authorizations), docs/environment-variables.md (IPFS_PATH).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from modelnet.errors import UsageError

__all__ = ["AUTH_VARIABLE", "KuboAddress", "gateway_url", "repository"]

DEFAULT_API = "/ip4/127.0.0.1/tcp/5001"
DEFAULT_GATEWAY = "/ip4/127.0.0.1/tcp/8080"
AUTH_VARIABLE = "MODELNET_KUBO_AUTH"  # never an argument: other users of the machine can read those
MAX_ADDRESS = 1024

_MULTIADDR = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/([0-9]{1,5})(/https?)?")
_HINT = "for example /ip4/127.0.0.1/tcp/5001, http://10.0.0.5:5001 or /unix/run/kubo.sock"


def repository() -> Path:
    """Return the folder of this user's own Kubo repository, whether there is one or not."""
    return Path(os.environ.get("IPFS_PATH") or Path.home() / ".ipfs").expanduser()


def _told(name: str) -> str | None:
    """Return what a running daemon wrote into its repository."""
    try:
        with (repository() / name).open("rb") as file:
            return file.read(MAX_ADDRESS).decode("utf-8", "replace").strip() or None
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class KuboAddress:
    """A Kubo's RPC: a multiaddr as `ipfshttpclient` takes it, and who we say we are."""

    multiaddr: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str = "") -> Self:
        """Check `text`; an empty one means the Kubo of this user. Raises `UsageError` with an example."""
        wanted = text or _told("api") or DEFAULT_API
        if wanted.startswith("http"):
            wanted = _from_url(wanted)
        found = _MULTIADDR.fullmatch(wanted)
        socket = wanted.startswith("/unix/") and len(wanted) > len("/unix/")
        if len(wanted) > MAX_ADDRESS or not (socket or (found and 0 < int(found[3]) < 1 << 16)):
            raise UsageError(f"not the address of a Kubo: {wanted[:80]!r}", rule="kubo-address", hint=_HINT)
        return cls(wanted, _authorization())

    def __str__(self) -> str:
        return self.multiaddr


def _authorization() -> str | None:
    """Return the Authorization header that `$MODELNET_KUBO_AUTH` (`bearer:TOKEN` or `basic:USER:PASSWORD`) means."""
    secret = os.environ.get(AUTH_VARIABLE)
    if not secret:
        return None
    kind, _, rest = secret.partition(":")
    if not rest.isascii() or not rest.isprintable() or " " in rest:
        raise UsageError(f"${AUTH_VARIABLE} holds letters that a header cannot", rule="kubo-auth")
    if kind == "bearer" and rest:
        return f"Bearer {rest}"
    if kind == "basic" and ":" in rest:
        import base64

        return f"Basic {base64.b64encode(rest.encode()).decode()}"
    raise UsageError(
        f"${AUTH_VARIABLE} is not understood", rule="kubo-auth", hint="bearer:TOKEN or basic:USER:PASSWORD"
    )


def _from_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise UsageError(f"not the address of a Kubo: {url[:80]!r}", rule="kubo-address", hint=_HINT)
    port = port or (443 if parts.scheme == "https" else 5001)
    return f"/{_protocol(parts.hostname)}/{parts.hostname}/tcp/{port}/{parts.scheme}"


def _protocol(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def gateway_url(text: str = "") -> str:
    """Return the URL of a Kubo's gateway, given as URL or multiaddr; an empty one means the Kubo of this user.

    Raises `UsageError` for what is no such address.
    """
    wanted = text or _told("gateway") or DEFAULT_GATEWAY
    if wanted.startswith(("http://", "https://")):
        return wanted
    found = _MULTIADDR.fullmatch(wanted)
    if found is None:
        raise UsageError(
            f"not the address of a Kubo's gateway: {wanted[:80]!r}", rule="kubo-address",
            hint="for example http://127.0.0.1:8080 or /ip4/127.0.0.1/tcp/8080",
        )  # fmt: skip
    kind, host, port, scheme = found.groups()
    return f"{(scheme or '/http')[1:]}://{f'[{host}]' if kind == 'ip6' else host}:{port}"
