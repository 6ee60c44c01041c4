"""The index: which file holds which chunk, which blocks and releases are known. SQLite in WAL mode.

    publisher (pid, genesis)                            the first log entry of every publisher known here
    release   (pid, name, version, manifest, envelope, path, layout, added)
    block     (cid, content)                            manifests and DAG nodes; small
    file      (path, dev, inode, size, mtime_ns)        files that hold chunks
    chunk     (digest, file, offset, size)              references into them; many for one digest are fine
    partial   (path, manifest, seen)                    pulls that were begun and not finished
    log…      (modelnet.stores.logindex)                what publishers' logs say
    placed    (modelnet.stores.placements)              where pulls put files at a user's wish

Nothing in the index is trusted: what is read through it is hashed, and a release is what its envelope says, verified
again each time (`modelnet.gate`). A wrong row makes something missing, never wrong.

Commit points. Rows of a release are written in one transaction after its files are durable: before it a crash loses
the release (its bytes are found again by the next pull), after it the release is there.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelnet.core.cid import Cid
from modelnet.errors import MalformedError, UnavailableError
from modelnet.stores.logindex import LOG_SCHEMA
from modelnet.stores.placements import PLACED_SCHEMA

__all__ = ["FileStat", "Index", "Location", "ReleaseRow"]

SCHEMA_VERSION = 3
OLDER = range(SCHEMA_VERSION)
BUSY_TIMEOUT_S = 30.0  # writers take turns; each transaction is short
ROWS = 200  # inserted by one statement: 800 variables
BUSY_POLL_S = 0.01
RESERVE = "reserve"  # a file beside the index
RESERVE_BYTES = 256 * 1024  # SQLite's shared memory and log, and what a collection of garbage writes
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
LOOKUP = 500  # digests asked for in one statement; SQLite allows 32,766 variables
SPREAD = 8  # references tried for one chunk before it counts as missing

REPAIR = "run `modelnet fsck --repair`; it sets the damaged index aside and reads the files again"

SCHEMA = """
CREATE TABLE publisher (pid TEXT PRIMARY KEY, genesis BLOB NOT NULL) STRICT;
CREATE TABLE release (
  pid TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, manifest BLOB NOT NULL, envelope BLOB NOT NULL,
  path BLOB NOT NULL, layout TEXT NOT NULL, added REAL NOT NULL, PRIMARY KEY (pid, name, version)) STRICT;
CREATE INDEX release_manifest ON release (manifest);
CREATE TABLE block (cid BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT;
CREATE TABLE file (
  id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, dev INTEGER NOT NULL, inode INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) STRICT;
CREATE TABLE chunk (
  digest BLOB NOT NULL, file INTEGER NOT NULL REFERENCES file ON DELETE CASCADE, offset INTEGER NOT NULL,
  size INTEGER NOT NULL, PRIMARY KEY (digest, file, offset)) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_file ON chunk (file);
CREATE TABLE partial (path BLOB PRIMARY KEY, manifest BLOB NOT NULL, seen REAL NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What tells whether a file is still the one that was hashed."""

    dev: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStat:
        """Take the four from a stat result; numbers that SQLite cannot hold are folded."""
        mask = (1 << 63) - 1
        return cls(status.st_dev & mask, status.st_ino & mask, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk may be read: `size` bytes at `offset` of `path`."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A release as the index has it; only the envelope means anything, the rest finds it.

    `layout` says whose files they are: `folder` or `file` (the publisher's own, published in place), `store` (pulled
    into our folder), `placed` (pulled to where the user said), `part` (pulled, not all files).
    """

    pid: str
    name: str
    version: str
    manifest: Cid
    envelope: bytes
    path: Path
    layout: str
    added: float

    @property
    def in_place(self) -> bool:
        """Whether the files are the publisher's own, published where they lie: read, never written."""
        return self.layout in ("folder", "file")


class Index:
    """The SQLite index at `path`; every thread gets a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Remember `path`; the database is opened, and made if need be, by the first use."""
        self.path = path
        self._local = threading.local()

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._prepare_patiently(connection)
            except BaseException:
                connection.close()
                raise
            self._local.connection = connection
        return connection

    def _prepare_patiently(self, connection: sqlite3.Connection) -> None:
        """Prepare; wait where SQLite does not by itself: while the file is made or its log removed."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                return self._prepare(connection)
            except sqlite3.OperationalError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in NO_ROOM and self._give_up_reserve():
                    continue
                if code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            time.sleep(BUSY_POLL_S)

    def keep_reserve(self) -> None:
        """Set a little of the disk aside, so that a full one can still be looked at and cleaned up."""
        reserve = self.path.with_name(RESERVE)
        if reserve.exists() or not hasattr(os, "posix_fallocate"):
            return
        try:
            handle = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(handle, 0, RESERVE_BYTES)
            finally:
                os.close(handle)
        except OSError:
            reserve.unlink(missing_ok=True)  # there is nothing left to set aside

    def _give_up_reserve(self) -> bool:
        """Free what was set aside; tell whether there was anything."""
        try:
            self.path.with_name(RESERVE).unlink()
        except OSError:
            return False
        return True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a committed release survives a power cut, as the files it names do.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        if connection.execute("PRAGMA user_version").fetchone()[0] in OLDER:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            # What each version added, in order: a store that an older one wrote keeps its rows.
            for added in (SCHEMA, LOG_SCHEMA, PLACED_SCHEMA)[found:] if found in OLDER else ():
                for statement in added.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != SCHEMA_VERSION:
            raise MalformedError(
                "index was written by another version of modelnet",
                rule="index", path=str(self.path), wanted=SCHEMA_VERSION, got=found,
            )  # fmt: skip

    def close(self) -> None:
        """Close this thread's connection."""
        if (connection := getattr(self._local, "connection", None)) is not None:
            connection.close()
            self._local.connection = None

    @contextmanager
    def _errors(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connect()
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except UnicodeDecodeError as error:  # SQLite's own words about a damaged schema may hold any byte
            raise MalformedError("index is damaged", rule="index", path=str(self.path), hint=REPAIR) from error
        except OSError as error:
            raise UnavailableError(
                f"cannot open the store: {error.strerror}", rule="store", path=str(self.path),
                hint="set MODELNET_HOME to a folder that you can write",
            ) from error  # fmt: skip

    def _refusal(self, error: sqlite3.Error) -> MalformedError | UnavailableError:
        code = getattr(error, "sqlite_errorcode", None)
        broken = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if code is not None and (code & 0xFF in broken or code & 0xFF == sqlite3.SQLITE_ERROR):
            return MalformedError(
                f"index is damaged: {error}", rule="index", path=str(self.path),
                hint=REPAIR,
            )  # fmt: skip
        return UnavailableError(
            f"index cannot be used: {error}", rule="store", path=str(self.path),
            hint="is the disk full, the folder read-only, or another program holding it?",
        )  # fmt: skip

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block of statements that happen together or not at all."""
        with self._errors() as connection:
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A full disk may have made SQLite roll back already, and a failed commit leaves the transaction open.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return what one statement reads."""
        with self._errors() as connection:
            return connection.execute(sql, values).fetchall()

    # Publishers

    def add_publisher(self, pid: str, genesis: bytes) -> None:
        """Remember a publisher by its verified genesis."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO publisher (pid, genesis) VALUES (?, ?) "
                "ON CONFLICT (pid) DO UPDATE SET genesis = excluded.genesis",
                (pid, genesis),
            )

    def genesis(self, pid: str) -> bytes | None:
        """Return the unverified first log entry of `pid`."""
        rows = self.rows("SELECT genesis FROM publisher WHERE pid = ?", (pid,))
        return _blob(rows[0][0]) if rows else None

    # Blocks

    def add_blocks(self, blocks: Iterable[tuple[Cid, bytes]]) -> None:
        """Keep verified blocks."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO block VALUES (?, ?)", ((cid.encode(), content) for cid, content in blocks)
            )

    def block(self, cid: Cid) -> bytes | None:
        """Return the unverified block of `cid`."""
        rows = self.rows("SELECT content FROM block WHERE cid = ?", (cid.encode(),))
        return _blob(rows[0][0]) if rows else None

    def block_cids(self) -> list[bytes]:
        """Return the binary CIDs of all blocks."""
        return [_cid(cid).encode() for (cid,) in self.rows("SELECT cid FROM block")]

    def remove_blocks(self, cids: Iterable[bytes]) -> None:
        """Forget blocks."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM block WHERE cid = ?", ((cid,) for cid in cids))

    # Files and chunks

    def set_file(self, path: str, status: FileStat, *, fresh: bool = False) -> int:
        """Record that `path` is a file that holds chunks; return its id.

        References into another file that had this path are dropped, and all of them when the file is `fresh`.
        """
        with self.transaction() as connection:
            key = os.fsencode(path)
            row = connection.execute("SELECT id, dev, inode FROM file WHERE path = ?", (key,)).fetchone()
            if row is not None and (fresh or (row[1], row[2]) != (status.dev, status.inode)):
                connection.execute("DELETE FROM file WHERE id = ?", (row[0],))
                row = None
            if row is None:
                row = connection.execute(
                    "INSERT INTO file (path, dev, inode, size, mtime_ns) VALUES (?, ?, ?, ?, ?) RETURNING id",
                    (key, status.dev, status.inode, status.size, status.mtime_ns),
                ).fetchone()
            else:
                connection.execute(
                    "UPDATE file SET size = ?, mtime_ns = ? WHERE id = ?", (status.size, status.mtime_ns, row[0])
                )
            return int(row[0])

    def file(self, path: str) -> FileStat | None:
        """Return what `path` was when its references were recorded, or None when there are none."""
        rows = self.rows("SELECT dev, inode, size, mtime_ns FROM file WHERE path = ?", (os.fsencode(path),))
        return FileStat(*(_int(value) for value in rows[0])) if rows else None

    def file_id(self, path: str) -> int | None:
        """Return the id of the file at `path`, for `chunks_of`."""
        rows = self.rows("SELECT id FROM file WHERE path = ?", (os.fsencode(path),))
        return _int(rows[0][0]) if rows else None

    def move_files(self, moves: Iterable[tuple[str, str]]) -> None:
        """Record that files were renamed, from → to."""
        with self.transaction() as connection:
            for before, after in moves:
                if before != after:
                    connection.execute("DELETE FROM file WHERE path = ?", (os.fsencode(after),))
                    connection.execute(
                        "UPDATE file SET path = ? WHERE path = ?", (os.fsencode(after), os.fsencode(before))
                    )

    def add_chunks(self, file: int, chunks: Iterable[tuple[bytes, int, int]]) -> None:
        """Record (digest, offset, size) references into `file`."""
        # In the order of the table, many at a time: each statement gives up and takes back the interpreter lock.
        rows = sorted(chunks)
        with self.transaction() as connection:
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                values = ",".join(["(?, ?, ?, ?)"] * len(part))
                flat = [value for digest, offset, size in part for value in (digest, file, offset, size)]
                connection.execute(f"INSERT OR REPLACE INTO chunk VALUES {values}", flat)  # noqa: S608  (marks only)

    def locate(self, digests: Sequence[bytes]) -> dict[bytes, list[Location]]:
        """Return where each of `digests` may be read; digests that are nowhere are left out."""
        found: dict[bytes, list[Location]] = {}
        for start in range(0, len(digests), LOOKUP):
            part = digests[start : start + LOOKUP]
            marks = ",".join("?" * len(part))
            rows = self.rows(
                "SELECT digest, path, offset, chunk.size FROM chunk JOIN file ON file.id = chunk.file "  # noqa: S608  (marks)
                f"WHERE digest IN ({marks})",
                part,
            )
            for digest, path, offset, size in rows:
                places = found.setdefault(_blob(digest), [])
                if len(places) < SPREAD:
                    places.append(Location(os.fsdecode(_blob(path)), _int(offset), _int(size)))
        return found

    def holders(self, digests: Sequence[bytes]) -> dict[bytes, set[str]]:
        """Return the paths of all files that each of `digests` may be read from."""
        found: dict[bytes, set[str]] = {}
        for start in range(0, len(digests), LOOKUP):
            part = digests[start : start + LOOKUP]
            rows = self.rows(
                "SELECT digest, path FROM chunk JOIN file ON file.id = chunk.file "  # noqa: S608  (marks only)
                f"WHERE digest IN ({','.join('?' * len(part))})",
                part,
            )
            for digest, path in rows:
                found.setdefault(_blob(digest), set()).add(os.fsdecode(_blob(path)))
        return found

    def known(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return those of `digests` that have a reference."""
        return set(self.locate(digests))

    def files(self) -> list[tuple[int, str, FileStat]]:
        """Return (id, path, stat) of every file that holds chunks."""
        rows = self.rows("SELECT id, path, dev, inode, size, mtime_ns FROM file ORDER BY path")
        return [
            (_int(row[0]), os.fsdecode(_blob(row[1])), FileStat(*(_int(value) for value in row[2:]))) for row in rows
        ]

    def chunks_of(self, file: int) -> list[tuple[bytes, int, int]]:
        """Return the (digest, offset, size) references into `file`, by offset."""
        rows = self.rows("SELECT digest, offset, size FROM chunk WHERE file = ? ORDER BY offset", (file,))
        return [(_blob(digest), _int(offset), _int(size)) for digest, offset, size in rows]

    def held(self, path: str) -> int:
        """Return how many bytes of the file at `path` have a reference."""
        rows = self.rows(
            "SELECT ifnull(sum(chunk.size), 0) FROM chunk JOIN file ON file.id = chunk.file WHERE path = ?",
            (os.fsencode(path),),
        )
        return _int(rows[0][0])

    def remove_files(self, files: Iterable[int]) -> None:
        """Forget files and every reference into them."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM file WHERE id = ?", ((file,) for file in files))

    def remove_chunks(self, file: int, references: Iterable[tuple[bytes, int]]) -> None:
        """Forget (digest, offset) references into `file`."""
        with self.transaction() as connection:
            connection.executemany(
                "DELETE FROM chunk WHERE digest = ? AND file = ? AND offset = ?",
                ((digest, file, offset) for digest, offset in references),
            )

    # Releases

    def add_release(self, row: ReleaseRow) -> None:
        """Point at a release: the last write of publish and pull."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO release VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.pid, row.name, row.version, row.manifest.encode(), row.envelope,
                    os.fsencode(row.path), row.layout, row.added,
                ),
            )  # fmt: skip

    def releases(self, pid: str | None = None, name: str | None = None) -> list[ReleaseRow]:
        """Return the releases here, in the order they came."""
        return self.release_rows(
            "SELECT pid, name, version, manifest, envelope, path, layout, added FROM release "
            "WHERE (?1 IS NULL OR pid = ?1) AND (?2 IS NULL OR name = ?2) ORDER BY added, rowid",
            (pid, name),
        )

    def release_rows(self, sql: str, values: Sequence[object] = ()) -> list[ReleaseRow]:
        """Return what a statement reads that selects the fields of `ReleaseRow`, in their order."""
        rows = self.rows(sql, values)
        return [
            ReleaseRow(
                str(row[0]), str(row[1]), str(row[2]), _cid(row[3]), _blob(row[4]),
                Path(os.fsdecode(_blob(row[5]))), str(row[6]), float(str(row[7])),
            )
            for row in rows
        ]  # fmt: skip

    def remove_release(self, row: ReleaseRow) -> None:
        """Stop pointing at a release; what only it used is garbage from now on."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM release WHERE pid = ? AND name = ? AND version = ?", (row.pid, row.name, row.version)
            )

    # Partial pulls

    def begin_partial(self, manifest: Cid, path: Path) -> None:
        """Record that `manifest` is being pulled into `path`."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO partial VALUES (?, ?, ?)", (os.fsencode(path), manifest.encode(), time.time())
            )

    def end_partial(self, path: Path) -> None:
        """Forget the pull into `path`, and references into files that were there."""
        key = os.fsencode(path)  # what lies below it begins with "/", after which "0" comes next
        with self.transaction() as connection:
            connection.execute("DELETE FROM partial WHERE path = ?", (key,))
            connection.execute("DELETE FROM file WHERE path > ? AND path < ?", (key + b"/", key + b"0"))

    def partials(self) -> list[tuple[Cid, Path, float]]:
        """Return (manifest, folder, last seen) of every unfinished pull."""
        return [
            (_cid(manifest), Path(os.fsdecode(_blob(path))), float(str(seen)))
            for manifest, path, seen in self.rows("SELECT manifest, path, seen FROM partial")
        ]

    def data_version(self) -> int:
        """Return a number that changes when another connection has written; raise when the store cannot be read."""
        return _int(self.rows("PRAGMA data_version")[0][0])

    def check(self) -> None:
        """Raise `MalformedError` with what SQLite's own check finds wrong."""
        for (text,) in self.rows("PRAGMA integrity_check(1)"):
            if text != "ok":
                raise MalformedError(f"index is damaged: {text}", rule="index", path=str(self.path))


def _cid(value: object) -> Cid:
    content = _blob(value)
    try:
        return Cid.decode(content)
    except MalformedError as error:
        raise MalformedError(
            "index is damaged", rule="index", wanted="a CID", got=content.hex(), hint=REPAIR
        ) from error


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedError("index is damaged", rule="index", wanted="bytes", got=type(value).__name__)
    return value


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise MalformedError("index is damaged", rule="index", wanted="an integer", got=type(value).__name__)
    return value
