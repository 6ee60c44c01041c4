"""What modelnet asks of a Kubo, and the proof it takes for an answer.

    with Kubo.connect(KuboAddress.parse()) as kubo:      # refuses versions that cannot do it
        kubo.import_car(body, blocks, size)              # proof: Kubo counted what we sent
        kubo.pin(manifest, "acme/tiny@1.0")              # proof: the record `Pins` names it
        kubo.pinned(manifest)                            # asked of the pin set itself

Source: kubo core/commands/dag/import.go, pin/pin.go, version.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Self

from modelnet.core.cid import Cid
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import IntegrityError, MalformedError, UnavailableError, UsageError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.rpc import READ_S, IncompleteResponseError, KuboRefusedError, Rpc

__all__ = ["MAX_PIN_NAME", "NEWEST_TRIED", "OLDEST", "Kubo", "Multipart"]

OLDEST = (0, 35)  # before it imports are an order of magnitude slower and nothing is fetched over HTTP
NEWEST_TRIED = (0, 44)
MAX_PIN_NAME = 255  # kubo core/commands/cmdutils
IMPORT_PAUSES = 4  # times our patience, from our last byte to Kubo's first: it writes its batch out in between
BOUNDARY = b"modelnet-6f7e4b6a5c1d"  # what follows is of a known length, so it cannot be mistaken for content

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.[0-9]{1,6}")

_HEAD = (
    b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="release.car"\r\n'
    b"Content-Type: application/vnd.ipld.car\r\n\r\n"
)
_TAIL = b"\r\n--" + BOUNDARY + b"--\r\n"


class Multipart:
    """One file of a known length as a multipart body; `advance` hears of its bytes after they were sent."""

    content_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"

    def __init__(
        self, pieces: Iterator[bytes | memoryview], length: int, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """Send the `length` bytes of `pieces`."""
        self._pieces = pieces
        self._length = length
        self._advance = advance

    def __len__(self) -> int:
        return len(_HEAD) + self._length + len(_TAIL)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield _HEAD
        for piece in self._pieces:
            yield piece
            self._advance(len(piece))
        yield _TAIL


class Kubo:
    """One Kubo that answered and is of a version that we know."""

    def __init__(self, rpc: Rpc, version: str) -> None:
        """Use `Kubo.connect`."""
        self.rpc = rpc
        self.version = version

    @classmethod
    def connect(cls, address: KuboAddress, patience_s: float = READ_S) -> Self:
        """Return the Kubo at `address` once its version is one that can do what we need.

        `patience_s` is how long it may pause, in an answer or in taking what it is sent.

        Raises `UnavailableError` when nothing answers or it is too old, `MalformedError` when it is no Kubo.
        """
        rpc = Rpc(address, patience_s)
        try:
            version = _check_version(rpc.call("version").get("Version"), str(address))
        except BaseException:
            rpc.close()
            raise
        return cls(rpc, version)

    @property
    def is_tried(self) -> bool:
        """Whether the version is within what modelnet is tried with."""
        found = _VERSION.match(self.version)
        return found is not None and (0, 40) <= (int(found[1]), int(found[2])) <= NEWEST_TRIED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.rpc.close()

    def __str__(self) -> str:
        return f"kubo {self.rpc.address}"

    def peer_id(self) -> str:
        """Return the identity of the daemon: which repository we are talking to."""
        told = self.rpc.call("id").get("ID")
        if not isinstance(told, str) or not re.fullmatch(r"[A-Za-z0-9]{1,128}", told):
            raise MalformedError("not a peer id", rule="kubo-answer", got=repr(told)[:80], source=str(self))
        return told

    def addresses(self) -> list[str]:
        """Return the multiaddrs at which others may reach the daemon."""
        told = self.rpc.call("id").get("Addresses")
        return [item for item in told if isinstance(item, str)] if isinstance(told, list) else []

    def connect_to(self, address: str) -> None:
        """Let the daemon connect to the peer at a multiaddr that ends in its peer id; raise when it cannot."""
        told = self.rpc.call("swarm/connect", address).get("Strings")
        if not isinstance(told, list) or not any("success" in str(item) for item in told):
            raise IncompleteResponseError(
                "kubo did not connect", rule="kubo-incomplete", wanted=address, source=str(self.rpc.address)
            )

    def import_car(self, body: Multipart, blocks: int, size: int) -> None:
        """Stream a CAR of `blocks` blocks of `size` bytes together into the repository; nothing is pinned.

        Raises `IncompleteResponseError` when Kubo does not say in the end that it took exactly these.
        """
        stats: Any = None
        for record in self.rpc.stream(
            "dag/import", options={"pin-roots": "false", "stats": "true"}, body=body,
            read_s=IMPORT_PAUSES * self.rpc.patience_s, terminal=lambda record: "Stats" in record,
            grows=lambda record: int("Stats" in record),
        ):  # fmt: skip
            stats = record.get("Stats")
        told = (stats.get("BlockCount"), stats.get("BlockBytesCount")) if isinstance(stats, dict) else stats
        if told != (blocks, size):
            raise IncompleteResponseError(
                "kubo did not import what was sent", rule="kubo-import", wanted=f"{blocks} blocks, {size} bytes",
                got=told, source=str(self.rpc.address), hint="run it again; blocks that it has are not stored twice",
            )  # fmt: skip

    def check_whole(self, root: Cid, blocks: int, *, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Raise unless the repository itself has all of the `blocks` blocks at and below `root`.

        It reads each, as a pin does. Raises `IncompleteResponseError` or `KuboRefusedError` when one is missing.
        """
        found = None
        for record in self.rpc.stream(
            "dag/stat", str(root), options={"offline": "true", "progress": "true"}, grows=_size_of_dag,
            terminal=lambda record: "UniqueBlocks" in record,
        ):  # fmt: skip
            found = record.get("UniqueBlocks")
            progress(0, _size_of_dag(record))
        if found != blocks:
            raise IncompleteResponseError(
                "kubo does not have the whole release", rule="kubo-blocks", wanted=f"{blocks} blocks", got=found,
                source=str(self.rpc.address),
            )  # fmt: skip

    def pin(self, root: Cid, name: str, *, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Pin all below `root` under `name`; `progress` hears (nodes, bytes) walked so far.

        What Kubo lacks it looks for at its peers, for ever and saying so twice a second; `offline` does not stop that.
        Raises `IncompleteResponseError` when it gets no further or does not say that it is pinned, `KuboRefusedError`
        when Kubo says why not.
        """
        if len(name.encode()) > MAX_PIN_NAME:
            raise UsageError("the name of a pin is too long", rule="pin-name", wanted=f"{MAX_PIN_NAME} bytes", got=name)
        options = {"recursive": "true", "name": name, "progress": "true"}
        for record in self.rpc.stream(
            "pin/add", str(root), options=options, grows=_nodes_of_pin,
            terminal=lambda record: record.get("Pins") == [str(root)],
        ):  # fmt: skip
            nodes, size = record.get("Progress"), record.get("Bytes")
            if isinstance(nodes, int):
                progress(nodes, size if isinstance(size, int) else 0)

    def unpin(self, root: Cid) -> bool:
        """Remove the recursive pin of `root`; tell whether there was one."""
        try:
            told = self.rpc.call("pin/rm", str(root), options={"recursive": "true"})
        except KuboRefusedError as error:
            if "not pinned" in str(error.got):
                return False
            raise
        return bool(told.get("Pins") == [str(root)])

    def pinned(self, root: Cid) -> str | None:
        """Return the name of the recursive pin of `root` (empty where it has none), or None when it is not pinned."""
        options = {"type": "recursive", "names": "true", "stream": "true"}
        try:
            for record in self.rpc.stream(
                "pin/ls", str(root), options=options, terminal=lambda record: record.get("Cid") == str(root)
            ):
                # One pin was asked for, so one record comes.
                return str(record.get("Name", "")) if record.get("Cid") == str(root) else None
        except (KuboRefusedError, IncompleteResponseError) as error:
            # "not pinned" comes as an error before the first record, or in a trailer that nobody sees.
            if isinstance(error, KuboRefusedError) and "not pinned" not in str(error.got):
                raise
        return None

    def block(self, cid: Cid, *, offline: bool = True, timeout_s: int = 20) -> bytes:
        """Return one block, hashed here. `offline` asks only for what the repository itself holds."""
        options = {"timeout": f"{timeout_s}s"} | ({"offline": "true"} if offline else {})
        content = self.rpc.content("block/get", str(cid), options=options, limit=MAX_BLOCK)
        try:
            cid.verify(content, source=str(self.rpc.address))
        except IntegrityError:
            if content:
                raise
            # An answer that failed after its headers is empty, and only the trailer would say so.
            raise IncompleteResponseError(
                "kubo sent no block", rule="kubo-incomplete", wanted=cid, source=str(self.rpc.address)
            ) from None
        return content


def _nodes_of_pin(record: dict[str, Any]) -> int:
    nodes = record.get("Progress")
    return nodes if isinstance(nodes, int) else 0


def _size_of_dag(record: dict[str, Any]) -> int:
    size = record.get("TotalSize")
    return size if isinstance(size, int) else 0


def _check_version(told: object, source: str) -> str:
    found = _VERSION.match(told) if isinstance(told, str) else None
    if found is None:
        raise MalformedError("not a Kubo's version", rule="kubo-version", got=repr(told)[:80], source=source)
    if (int(found[1]), int(found[2])) < OLDEST:
        raise UnavailableError(
            "this Kubo is too old", rule="kubo-version", wanted=f"{OLDEST[0]}.{OLDEST[1]} or later", got=found[0],
            source=source, hint="install a newer Kubo; 0.43 is what modelnet is tested with",
        )  # fmt: skip
    return found[0]
