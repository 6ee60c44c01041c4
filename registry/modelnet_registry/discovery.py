"""Finding nodes on the local network: mDNS, `_modelnet._tcp`. Needs the extra `modelnet[mdns]`.

    with Discovery("http://192.168.1.7:8710", follow=[pid], met=service.met): ...

TXT record, a hint that nobody trusts:

    v    1
    s    a salt, 16 hex digits, new at each start
    f    for up to 16 of the publishers that this node follows: the first 8 hex digits of SHA-256(salt ‖ publisher)

Who follows the same publisher can tell, who does not learns nothing but a number. An address that was found is an
address like any other: it is called, and what it says is checked.
Source: RFC 6763 (DNS-SD), RFC 6762 (mDNS).
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from modelnet.core.identity import PID
from modelnet.errors import UnavailableError

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

__all__ = ["SERVICE", "Discovery", "advert", "in_common"]

SERVICE = "_modelnet._tcp.local."
SALT = 8  # bytes
DIGEST = 8  # hex digits: enough to guess by, too few to tell publishers apart
MAX_FOLLOWED = 16  # 16 digests and commas are below the 255 bytes of a TXT string
MAX_FOUND = 256  # services that are kept in mind
MAX_ADDRESSES = 4  # of one service
RESOLVE_MS = 3000

Met = Callable[[str, str], None]


def advert(follow: Collection[str], salt: bytes) -> dict[str, str]:
    """Return the TXT record of a node that follows these publishers."""
    known = sorted(pid for pid in follow if PID.fullmatch(pid))[:MAX_FOLLOWED]
    return {"v": "1", "s": salt.hex(), "f": ",".join(_digest(salt, pid) for pid in known)}


def in_common(properties: Mapping[bytes, bytes | None], follow: Collection[str]) -> int:
    """Return how many of our publishers an advert seems to name; 0 for one that cannot be read."""
    salt, told = properties.get(b"s") or b"", properties.get(b"f") or b""
    try:
        digests = {_digest(bytes.fromhex(salt.decode("ascii")), pid) for pid in follow}
        return len(digests.intersection(told.decode("ascii").split(",")[:MAX_FOLLOWED]))
    except ValueError:
        return 0


def _digest(salt: bytes, pid: str) -> str:
    return hashlib.sha256(salt + pid.encode()).hexdigest()[:DIGEST]


class Discovery:
    """Advertises the node at `url` and tells `met(url, source)` of others, as long as it is entered."""

    def __init__(
        self, url: str, *, met: Met, follow: Collection[str] = (), interfaces: Sequence[str] | None = None
    ) -> None:
        """Prepare; `interfaces` are addresses of ours, all of them unless some are named."""
        self._url = url
        self._met = met
        self._follow = follow
        self._interfaces = interfaces
        self._zeroconf: Zeroconf | None = None
        self._found: dict[str, int] = {}
        self._name = f"modelnet-{secrets.token_hex(6)}.{SERVICE}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; raises `UnavailableError` where the extra is not installed or no interface speaks multicast."""
        try:
            import zeroconf
        except ImportError as error:
            raise UnavailableError(
                "discovery on the local network needs the extra `mdns`", rule="extra",
                hint="pip install 'modelnet[mdns]', or name peers with --peer",
            ) from error  # fmt: skip
        parts = urlsplit(self._url)
        addresses = _addresses(parts.hostname or "")
        info = zeroconf.ServiceInfo(
            SERVICE, self._name, port=parts.port or 80, addresses=addresses,
            properties=advert(self._follow, secrets.token_bytes(SALT)),
            server=self._name.replace(f".{SERVICE}", ".local."),
        )  # fmt: skip
        try:
            chosen: Any = self._interfaces or zeroconf.InterfaceChoice.All
            self._zeroconf = zeroconf.Zeroconf(interfaces=chosen)
            self._zeroconf.register_service(info, allow_name_change=True)
            zeroconf.ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed])
        except (OSError, zeroconf.Error) as error:
            self.stop()
            raise UnavailableError(f"cannot look around on the local network: {error}", rule="mdns") from error

    def stop(self) -> None:
        """Say goodbye."""
        if self._zeroconf is not None:
            self._zeroconf.close()
            self._zeroconf = None

    @property
    def found(self) -> dict[str, int]:
        """The nodes that were found, and how many publishers each seems to share with us."""
        return dict(self._found)

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: object) -> None:
        from zeroconf import ServiceStateChange

        if name == self._name or state_change is ServiceStateChange.Removed or len(self._found) >= MAX_FOUND:
            return
        info = zeroconf.get_service_info(service_type, name, RESOLVE_MS)
        if info is not None:
            for url in _urls(info):
                self._found[url] = in_common(info.properties, self._follow)
                self._met(url, "mdns")


def _urls(info: ServiceInfo) -> list[str]:
    """Return the addresses of a service as URLs."""
    port = info.port
    if not port:
        return []
    found = [ipaddress.ip_address(address.split("%")[0]) for address in info.parsed_addresses()[:MAX_ADDRESSES]]
    usable = [one for one in found if not (one.is_multicast or one.is_unspecified or one.is_link_local)]
    return [f"http://[{one}]:{port}" if one.version == 6 else f"http://{one}:{port}" for one in usable]


def _addresses(host: str) -> list[bytes]:
    """Return what to advertise: the address that the node listens at, or all of ours where it listens at all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise UnavailableError("only a node that listens at an address is advertised", rule="mdns", got=host) from error
    if not address.is_unspecified:
        return [address.packed]
    import ifaddr  # comes with zeroconf

    ours = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    return [socket.inet_aton(ip) for ip in ours if not ipaddress.ip_address(ip).is_loopback]
