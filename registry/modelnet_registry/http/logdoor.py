"""The door to publishers' logs: static files as C2SP tlog-tiles has them, and what counts without a log.

/log/{pid}/checkpoint                  the adopted head of the newest epoch
/log/{pid}/tile/{L}/{N}[.p/{W}]        hash tiles; /tile/entries/… are bundles of entries
/log/{pid}/r{k}/checkpoint|tile/…      the same of the log as it was after k recoveries
/log/{pid}/negatives[?after={hex}]     revocations, each u16be length ‖ envelope, sorted by statement; then a next page
/log/{pid}/evidence                    proofs of two histories, one JSON object a line; about the newest epoch first

Everything is read from the files of the replica and is served whatever its publisher's standing: a quarantined log and
the evidence against it are what others need to see. Nobody believes this door: who asks checks roots and signatures.
Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import os
import re
import stat
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from modelnet.core.cid import blake3_digest
from modelnet.core.evidence import MAX_EVIDENCE, Evidence
from modelnet.core.fold import origin_of
from modelnet.core.identity import PID
from modelnet.core.note import MAX_NOTE, SignedNote
from modelnet.core.tiles import CHECKPOINT_PATH, Tile
from modelnet.errors import MalformedError, ModelnetError
from modelnet.replica import Replicas
from modelnet.stores.local import LocalStore
from modelnet.stores.logfolder import LogFolder
from modelnet_registry.http.message import Refusal, Request, Response, Stream, bad_request
from modelnet_registry.http.negotiation import matches

__all__ = ["PAGE", "LogDoor"]

PAGE = 1024 * 1024  # bytes of negatives in one answer; each is at most 32 KiB
MAX_LISTED = 8192  # files of a folder that are looked at
MAX_SHOWN = 16  # pieces of evidence: one is enough to quarantine
MAX_EPOCH = 999_999  # of a path; a recovery takes the next keys, so real ones are few
CUT = 1024 * 1024  # bytes that are cut out of a wider tile for an answer; who wants more asks for the wider one
PIECE = 64 * 1024

IMMUTABLE = "public, max-age=31536000, immutable"
PARTIAL = "public, max-age=3600"  # as immutable, but it goes away once the tree has outgrown it
TEXT = "text/plain; charset=utf-8"
OCTETS = "application/octet-stream"
_EPOCH = re.compile(r"r(0|[1-9][0-9]{0,5})/")
_STATEMENT = re.compile(r"[0-9a-f]{64}")
_MISSING = "the log has no such file here"


class LogDoor:
    """Serves the replicas in a store."""

    def __init__(self, store: LocalStore) -> None:
        """Read what is there at each request: a log is served as soon as it was adopted."""
        self._home = store.home
        self._replicas = Replicas(store)
        self._cutting = Lock()  # one bundle of up to 16 MiB in memory at a time

    def respond(self, request: Request) -> Response:
        """Answer a GET or HEAD below `/log/`; a path in any other spelling than ours is 404."""
        pid, _, rest = request.path.removeprefix("/log/").partition("/")
        folder = self._home.logs / pid
        if PID.fullmatch(pid) is None or not folder.is_dir():
            raise Refusal(HTTPStatus.NOT_FOUND, "no log of such a publisher is known here")
        try:
            if rest == "negatives":
                return self._negatives(request, folder)
            if rest == "evidence":
                return self._evidence(request, pid, folder)
            newest = _newest(folder)
            found = _EPOCH.match(rest)
            epoch, path = (int(found[1]), rest[found.end() :]) if found else (newest, rest)
            log = LogFolder(self._home.log(pid, epoch))
            if path != CHECKPOINT_PATH:
                return self._tile(request, log, path)
            # The adopted head comes with what was heard of it since: cosignatures are how others stay fresh.
            note = self._replicas.head(pid) if epoch == newest else log.checkpoint()
            if note is None:
                raise Refusal(HTTPStatus.NOT_FOUND, _MISSING)
            return _answer(request, _bounded(note), TEXT, "no-cache")
        except ModelnetError as error:  # a damaged replica is the operator's to mend
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the log cannot be read", ("Retry-After", "60")) from error

    def _tile(self, request: Request, log: LogFolder, path: str) -> Response:
        try:
            tile = Tile.parse(path)
        except MalformedError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, _MISSING) from error
        cached = IMMUTABLE if tile.width == tile.full.width else PARTIAL
        if (file := _open(log.path / tile.path)) is not None:
            return _stream(request, file, cached)
        # Outgrown: the beginning of a wider one is the same bytes.
        with self._cutting:
            content = log.tile(tile)
        if content is None or len(content) > CUT:
            raise Refusal(HTTPStatus.NOT_FOUND, _MISSING)
        return _answer(request, content, OCTETS, cached)

    def _negatives(self, request: Request, folder: Path) -> Response:
        after = request.parameters().get("after", "")
        if after and _STATEMENT.fullmatch(after) is None:
            raise bad_request("after is the statement's hash in 64 lower-case hex digits")
        page = bytearray()
        for path in _listed(folder / "negatives", after):
            if _STATEMENT.fullmatch(path.name) is None:
                continue
            envelope = _read(path, (1 << 16) - 1)
            page += len(envelope).to_bytes(2, "big") + envelope if envelope else b""
            if len(page) >= PAGE:
                break
        return _answer(request, bytes(page), OCTETS, "no-cache")

    def _evidence(self, request: Request, pid: str, folder: Path) -> Response:
        origin = origin_of(pid, _newest(folder))
        found: list[tuple[bool, bytes]] = []
        for path in _listed(folder / "evidence"):
            content = _read(path, MAX_EVIDENCE)
            try:
                other = not Evidence.parse(content).a.unverified_text.startswith(f"{origin}\n")
            except MalformedError:
                continue  # damaged: `fsck` reports it
            found.append((other, content))
        found.sort()
        shown = b"".join(content + b"\n" for _, content in found[:MAX_SHOWN])
        return _answer(request, shown, "application/x-ndjson", "no-cache")


def _bounded(note: SignedNote) -> bytes:
    """Return a note that readers take: lines that strangers put below it go first."""
    while len(content := note.encode()) > MAX_NOTE:
        note = SignedNote(note.unverified_text, note.signatures[:-1])
    return content


def _newest(folder: Path) -> int:
    """Return the epoch of the log that was adopted last."""
    committed = [epoch for epoch in _epochs(folder) if (folder / str(epoch) / CHECKPOINT_PATH).is_file()]
    return max(committed, default=0)


def _epochs(folder: Path) -> list[int]:
    names = (path.name for path in _listed(folder))
    return [int(name) for name in names if name.isascii() and name.isdigit() and int(name) <= MAX_EPOCH]


def _listed(folder: Path, after: str = "") -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name > after)[:MAX_LISTED]
    except OSError:
        return []


def _open(path: Path) -> BinaryIO | None:
    """Open a regular file; a fifo must not block us, and a link must not lead out of the folder."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb", buffering=0)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _read(path: Path, limit: int) -> bytes:
    """Return a small file; nothing when it is too large or cannot be read."""
    if (file := _open(path)) is None:
        return b""
    with file:
        try:
            content = file.read(limit + 1)
        except OSError:
            return b""
    return content if len(content) <= limit else b""


def _answer(request: Request, content: bytes, kind: str, cached: str) -> Response:
    headers = _headers(kind, cached, blake3_digest(content).hex())
    if matches(request.header("if-none-match"), dict(headers)["Etag"]):
        return Response(HTTPStatus.NOT_MODIFIED, headers)
    return Response(HTTPStatus.OK, headers, content, len(content))


def _stream(request: Request, file: BinaryIO, cached: str) -> Response:
    """Answer with an open file, which may have 16 MiB, without holding it in memory."""
    found = os.fstat(file.fileno())
    headers = _headers(OCTETS, cached, f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}")
    known = matches(request.header("if-none-match"), dict(headers)["Etag"])
    if known or request.method == "HEAD":
        file.close()
        status = HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK
        return Response(status, headers, b"", 0 if known else found.st_size)
    return Response(HTTPStatus.OK, headers, _pieces(file, found.st_size), found.st_size)


def _headers(kind: str, cached: str, etag: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", kind),
        ("Cache-Control", cached),
        ("Etag", f'"{etag}"'),
        ("X-Content-Type-Options", "nosniff"),
    )


def _pieces(file: BinaryIO, size: int) -> Stream:
    with file:
        left = size
        while left and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield [piece]
