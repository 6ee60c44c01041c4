"""What publishers' logs say, in the index: a cache of folded logs that answers without folding.

    log             (id, pid, epoch, size, root, negatives, …, seal)        which log the other rows were made from
    log_release     (log, idx, leaf, name, version, sha256, blake3, channels)
    log_mark        (log, kind, digest, body)                               yanked; superseded, by what
    log_revocation  (log, statement, leaf, idx, body)                       in force, from the log or from outside
    log_revoked     (log, digest, statement)                                manifests and files

The truth is in the files of the log (`modelnet.replica`); rows that were made from other files are made again. A row
that was damaged makes a release missing, never another one: what a release says is read from its entry, which must have
the leaf hash in its row. Revocations are sealed as a whole: a view is refused when one of them is missing or changed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from modelnet.core import strictjson
from modelnet.core.entries import read_event
from modelnet.core.events import Digests, Released, Revoke, Supersede, Yank
from modelnet.core.fold import PublisherState, origin_of
from modelnet.core.keys import VerifyKey
from modelnet.core.merkle import leaf_hash
from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.resolution import Listed, Logged, newest, offered
from modelnet.core.revocations import Revocation
from modelnet.errors import IntegrityError, MalformedError

if TYPE_CHECKING:
    import sqlite3

    from modelnet.stores.index import Index

__all__ = [
    "LOG_SCHEMA",
    "NOTHING_REVOKED",
    "LogRow",
    "LogView",
    "described",
    "open_view",
    "read_log",
    "read_logs",
    "record",
    "set_marks",
]

LOG_SCHEMA = """
CREATE TABLE log (
  id INTEGER PRIMARY KEY, pid TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL,
  negatives BLOB NOT NULL, revoked BLOB NOT NULL, max_age INTEGER NOT NULL, keys BLOB NOT NULL, time INTEGER,
  witnessed INTEGER NOT NULL, quarantined INTEGER NOT NULL, dead INTEGER NOT NULL, seal BLOB NOT NULL) STRICT;
CREATE TABLE log_release (
  log INTEGER NOT NULL REFERENCES log ON DELETE CASCADE, idx INTEGER NOT NULL, leaf BLOB NOT NULL, name TEXT NOT NULL,
  version TEXT NOT NULL, sha256 BLOB NOT NULL, blake3 BLOB NOT NULL, channels TEXT NOT NULL,
  PRIMARY KEY (log, idx)) STRICT, WITHOUT ROWID;
CREATE INDEX log_release_name ON log_release (log, name, idx);
CREATE INDEX log_release_version ON log_release (log, name, version, idx);
CREATE INDEX log_release_sha256 ON log_release (log, sha256, idx);
CREATE INDEX log_release_blake3 ON log_release (log, blake3, idx);
CREATE TABLE log_mark (
  log INTEGER NOT NULL REFERENCES log ON DELETE CASCADE, kind TEXT NOT NULL, digest TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (log, kind, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE log_revocation (
  log INTEGER NOT NULL REFERENCES log ON DELETE CASCADE, statement BLOB NOT NULL, leaf BLOB NOT NULL, idx INTEGER,
  body BLOB NOT NULL, PRIMARY KEY (log, statement)) STRICT, WITHOUT ROWID;
CREATE TABLE log_revoked (
  log INTEGER NOT NULL REFERENCES log ON DELETE CASCADE, digest TEXT NOT NULL, statement BLOB NOT NULL,
  PRIMARY KEY (log, digest, statement)) STRICT, WITHOUT ROWID
"""
YANKED, SUPERSEDED = "yank", "supersede"
MAX_BODY = 64 * 1024  # of an event that fitted into an entry of 32 KiB
RELEASES = "SELECT idx, leaf, sha256, blake3, channels, name, version FROM log_release WHERE log = ? "

Rows = list[tuple[object, ...]]
ReadEntry = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class LogRow:
    """Which log the cached rows were made from, and what is shown of it in a list.

    `time` is the newest known T_q in unix seconds; it and the marks are as of the last use of this log.
    """

    id: int
    pid: str
    epoch: int
    size: int
    root: bytes
    negatives: bytes
    revoked: bytes
    max_age: int
    keys: bytes
    time: int | None = None
    witnessed: bool = False
    quarantined: bool = False
    dead: bool = False

    @property
    def seal(self) -> bytes:
        """The hash of what must not change unnoticed."""
        return _seal(
            self.pid, self.epoch, self.size, self.root, self.negatives, self.revoked, self.max_age, self.keys
        )  # fmt: skip

    @property
    def beats(self) -> list[NoteKey]:
        """The beat keys that speak for the head."""
        return [
            NoteKey(f"{origin_of(self.pid, self.epoch)}/beat", VerifyKey(self.keys[at : at + 32]), COSIGNATURE)
            for at in range(0, len(self.keys), 32)
        ]

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """Return what a row says, or None when it was damaged."""
        *fields, witnessed, quarantined, dead, seal = row
        if _seal(*fields[1:9]) != seal:
            return None
        values: tuple[Any, ...] = (*fields, bool(witnessed), bool(quarantined), bool(dead))
        return cls(*values)


_COLUMNS = "id, pid, epoch, size, root, negatives, revoked, max_age, keys, time, witnessed, quarantined, dead, seal"


def _seal(pid: str, *fields: int | bytes) -> bytes:
    shown = [field if isinstance(field, bytes) else b"%d" % field for field in (pid.encode(), *fields)]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(field), field) for field in shown)).digest()


def read_log(index: Index, pid: str) -> LogRow | None:
    """Return which log of `pid` is cached; None when none is, or the row was damaged."""
    rows = index.rows(f"SELECT {_COLUMNS} FROM log WHERE pid = ?", (pid,))  # noqa: S608  (constant)
    return LogRow.read(rows[0]) if rows else None


def read_logs(index: Index) -> list[LogRow]:
    """Return the cached logs, by pid; damaged rows are left out."""
    rows = index.rows(f"SELECT {_COLUMNS} FROM log ORDER BY pid")  # noqa: S608  (constant)
    return [found for row in rows if (found := LogRow.read(row)) is not None]


def set_marks(index: Index, row: LogRow) -> None:
    """Record what is shown of a log in a list."""
    with index.transaction() as connection:
        connection.execute(
            "UPDATE log SET time = ?, witnessed = ?, quarantined = ?, dead = ? WHERE pid = ?",
            (row.time, row.witnessed, row.quarantined, row.dead, row.pid),
        )


def described(state: PublisherState, negatives: bytes) -> LogRow:
    """Return the row of a log that is in no index."""
    return LogRow(
        0, state.pid, state.epoch, state.size, state.tree_root, negatives, _sealed(*_revocations(state)),
        state.founding.max_age, b"".join(key.public for key in state.beat.keys),
    )  # fmt: skip


def record(
    index: Index, state: PublisherState, negatives: bytes, genesis: bytes, is_current: Callable[[], bool]
) -> LogRow | None:
    """Make the rows of `state`'s publisher say what `state` says, in one transaction, changing only what differs.

    Nothing is written when the files say something else by now: who changed them writes after us, or did already.
    """
    row = described(state, negatives)
    with index.transaction() as connection:
        if not is_current():
            return None
        index.add_publisher(state.pid, genesis)
        before = read_log(index, state.pid)
        connection.execute(
            "INSERT OR IGNORE INTO log VALUES (NULL, ?, 0, 0, x'', x'', x'', 0, x'', NULL, 0, 0, 0, x'')", (row.pid,)
        )
        connection.execute(
            "UPDATE log SET epoch=?, size=?, root=?, negatives=?, revoked=?, max_age=?, keys=?, seal=? WHERE pid=?",
            (row.epoch, row.size, row.root, row.negatives, row.revoked, row.max_age, row.keys, row.seal, row.pid),
        )
        ident = int(connection.execute("SELECT id FROM log WHERE pid = ?", (state.pid,)).fetchone()[0])
        revocations, revoked = _revocations(state)
        _record_releases(connection, ident, state, _kept(before, row, state))
        _replace(connection, "log_mark (log, kind, digest, body)", 3, ident, _marks(state))
        _replace(connection, "log_revocation (log, statement, leaf, idx, body)", 2, ident, revocations)
        _replace(connection, "log_revoked (log, digest, statement)", 3, ident, revoked)
    return replace(row, id=ident)


def _kept(before: LogRow | None, row: LogRow, state: PublisherState) -> int:
    """Return up to which size of the log its releases are recorded already."""
    if before is None or before.epoch != state.epoch or not 0 < before.size <= state.size:
        return 0
    if before.seal == row.seal:  # nothing is new, so something was found damaged
        return 0
    return before.size if state.root_at(before.size) == before.root else 0


def _record_releases(connection: sqlite3.Connection, ident: int, state: PublisherState, kept: int) -> None:
    connection.execute("DELETE FROM log_release WHERE log = ? AND idx >= ?", (ident, kept))
    start = bisect_right(state.releases, kept - 1, key=lambda logged: logged.index)
    connection.executemany(
        "INSERT INTO log_release VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                ident, logged.index, state.leaves[logged.index], logged.event.release.name,
                logged.event.release.version, bytes.fromhex(logged.event.release.manifest_sha256),
                logged.event.release.manifest.digest, " ".join(logged.channels),
            )
            for logged in state.releases[start:]
        ),
    )  # fmt: skip


def _replace(
    connection: sqlite3.Connection, table: str, keys: int, ident: int, rows: Iterable[tuple[Any, ...]]
) -> None:
    """Make `rows` the rows of one log in `table`, the first `keys` columns being its key."""
    name, _, columns = table.partition(" ")
    listed = [column.strip() for column in columns.strip("()").split(",")]
    wanted = {(ident, *row) for row in rows}
    present = set(
        connection.execute(f"SELECT {', '.join(listed)} FROM {name} WHERE log = ?", (ident,))  # noqa: S608  (constant)
    )
    matched = " AND ".join(f"{column} = ?" for column in listed[:keys])
    connection.executemany(
        f"DELETE FROM {name} WHERE {matched}",  # noqa: S608  (constant)
        (row[:keys] for row in present - wanted),
    )
    marks = ", ".join("?" * len(listed))
    connection.executemany(f"INSERT INTO {name} VALUES ({marks})", wanted - present)  # noqa: S608  (constant)


def _marks(state: PublisherState) -> Iterator[tuple[str, str, bytes]]:
    for digest, yank in state.yanked.items():
        yield YANKED, digest, strictjson.dump({"reason": yank.reason})
    for digest, step in state.superseded.items():
        body = {"old": _digest_set(step.old), "new": _digest_set(step.new), "reason": step.reason}
        yield SUPERSEDED, digest, strictjson.dump(body)


def _revocations(
    state: PublisherState,
) -> tuple[list[tuple[bytes, bytes, int | None, bytes]], list[tuple[str, bytes]]]:
    """Return the rows of the revocations in force, and of the digests that each is about."""
    rows: list[tuple[bytes, bytes, int | None, bytes]] = []
    revoked: set[tuple[str, bytes]] = set()
    for one in state.revocations.in_force:
        event = one.event
        body = {
            "subjects": [_digest_set(item) for item in event.subjects], "severity": event.severity,
            "text": event.text, "ids": list(event.ids), "files": [_digest_set(item) for item in event.files],
        }  # fmt: skip
        rows.append((one.statement, one.leaf, one.index, strictjson.dump(body)))
        revoked.update((name, one.statement) for item in event.digests for name in item.names)
    return rows, sorted(revoked)


def _sealed(revocations: Iterable[tuple[Any, ...]], revoked: Iterable[tuple[Any, ...]]) -> bytes:
    """Return the hash over a log's revocations: none may be missing, and none say something else."""
    lines = sorted(f"{one[0].hex()} {one[1].hex()} {one[2]} {one[3].hex()}" for one in revocations)
    lines += sorted(f"{digest} {statement.hex()}" for digest, statement in revoked)
    return hashlib.sha256("\n".join(lines).encode()).digest()


NOTHING_REVOKED = _sealed((), ())
"""What `LogRow.revoked` is of a log in which nothing is revoked."""


def _digest_set(digests: Digests) -> dict[str, str]:
    return dict(name.split(":") for name in digests.names)


@dataclass(frozen=True, slots=True)
class Row:
    """A release as the index lists it."""

    index: int
    leaf: bytes
    digests: Digests
    channels: tuple[str, ...]
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class LogView:
    """One log in the index, as it was when the view was opened; to be opened again for each use.

    It answers as `PublisherState` does. `read_entry` returns the entry at an index of the log's files, unverified.
    """

    row: LogRow
    index_: Index
    read_entry: ReadEntry
    revoked: dict[str, list[bytes]]

    @property
    def pid(self) -> str:
        """The publisher."""
        return self.row.pid

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self.row.size

    @property
    def epoch(self) -> int:
        """How often it was recovered."""
        return self.row.epoch

    def names(self) -> list[str]:
        """Return the names that were ever released, sorted."""
        # One step through the index for each name, however many releases it has.
        sql = (
            "WITH RECURSIVE step (name) AS (SELECT min(name) FROM log_release WHERE log = ?1 UNION ALL "
            "SELECT (SELECT min(name) FROM log_release WHERE log = ?1 AND name > step.name) FROM step "
            "WHERE step.name IS NOT NULL) SELECT name FROM step WHERE name IS NOT NULL"
        )
        return [str(name) for (name,) in self.index_.rows(sql, (self.row.id,))]

    def listed(self, name: str) -> Iterator[Row]:
        """Return the releases of a name, newest in log order first."""
        bound = self.row.size
        count = 1
        while rows := self._releases("AND name = ? AND idx < ? ORDER BY idx DESC LIMIT ?", name, bound, count):
            yield from rows
            bound = rows[-1].index
            count = 100  # mostly the first is what is looked for
        return

    def listed_as(self, digests: Digests) -> Row | None:
        """Return the last release with that manifest."""
        for column, value in (("sha256", digests.sha256), ("blake3", digests.blake3)):
            if value is None:
                continue
            rows = self._releases(
                f"AND {column} = ? AND idx < ? ORDER BY idx DESC LIMIT 1", bytes.fromhex(value), self.row.size
            )
            if rows:
                return rows[0]
        return None

    def logged(self, listed: Listed) -> Logged:
        """Return a listed release with all that it says, read from the log's files."""
        if not isinstance(listed, Row):
            raise TypeError("a release that another view listed")
        entry = self.read_entry(listed.index)
        if leaf_hash(entry) != listed.leaf:
            raise _damaged("the log's files hold another entry than the index says", listed.index)
        event = read_event(entry).unverified
        if not isinstance(event, Released):
            raise _damaged("the index calls an entry a release that is none", listed.index)
        release = event.release
        logged = Logged(listed.index, event)
        if (release.name, release.version, logged.digests) != (listed.name, listed.version, listed.digests):
            raise _damaged("the index says something else than the release", listed.index)
        return logged

    def find(self, name: str, version: str) -> Logged | None:
        """Return the release that took that version, whatever became of it since."""
        rows = self._releases(
            "AND name = ? AND version = ? AND idx < ? ORDER BY idx LIMIT 1", name, version, self.row.size
        )
        return self.logged(rows[0]) if rows else None

    def manifest(self, digests: Digests) -> Logged | None:
        """Return the last release with that manifest."""
        row = self.listed_as(digests)
        return None if row is None else self.logged(row)

    def newest(self, name: str, channel: str | None = None) -> Logged | None:
        """Return what resolution picks."""
        return newest(self, name, channel)

    def offered(self, listed: Listed) -> bool:
        """Tell whether resolution may pick a release."""
        return offered(self, listed)

    def supersession(self, digests: Digests) -> Supersede | None:
        """Return the event that superseded a manifest."""
        body = self._mark(SUPERSEDED, digests)
        if body is None:
            return None
        return Supersede(self.row.pid, Digests(**body["old"]), Digests(**body["new"]), body["reason"])

    def yank(self, digests: Digests) -> Yank | None:
        """Return the event that yanked a manifest; of its subjects this one is told."""
        body = self._mark(YANKED, digests)
        return None if body is None else Yank(self.row.pid, (digests,), body["reason"])

    def revocations_of(self, digests: Digests) -> list[Revocation]:
        """Return the revocations in force of a manifest or a file; one digest in common is enough."""
        if not self.revoked:
            return []
        found = dict.fromkeys(one for name in digests.names for one in self.revoked.get(name, ()))
        return [self._revocation(statement) for statement in found]

    @property
    def has_revocations(self) -> bool:
        """Whether anything at all is revoked."""
        return bool(self.revoked)

    def _revocation(self, statement: bytes) -> Revocation:
        rows = self.index_.rows(
            "SELECT leaf, idx, body FROM log_revocation WHERE log = ? AND statement = ?", (self.row.id, statement)
        )
        if not rows:
            # Reinstated by another process since this view was opened, or damaged: refused either way.
            raise _damaged("a revocation is missing in the index", None)
        leaf, index, content = rows[0]
        body = _parsed(content)
        event = Revoke(
            self.row.pid, tuple(Digests(**item) for item in body["subjects"]), body["severity"], body["text"],
            tuple(body["ids"]), tuple(Digests(**item) for item in body["files"]),
        )  # fmt: skip
        return Revocation(event, leaf, statement, index)  # type: ignore[arg-type]  # STRICT tables

    def _mark(self, kind: str, digests: Digests) -> dict[str, Any] | None:
        for name in digests.names:
            rows = self.index_.rows(
                "SELECT body FROM log_mark WHERE log = ? AND kind = ? AND digest = ?", (self.row.id, kind, name)
            )
            if rows:
                return _parsed(rows[0][0])
        return None

    def _releases(self, condition: str, *values: object) -> list[Row]:
        rows = self.index_.rows(RELEASES + condition, (self.row.id, *values))
        return [_row(row) for row in rows]


def open_view(index: Index, row: LogRow, read_entry: ReadEntry) -> LogView | None:
    """Return the view of a cached log; None when its revocations are not those that were recorded."""
    revoked: Rows = index.rows("SELECT digest, statement FROM log_revoked WHERE log = ?", (row.id,))
    stated: Rows = index.rows("SELECT statement, leaf, idx, body FROM log_revocation WHERE log = ?", (row.id,))
    if _sealed(stated, revoked) != row.revoked:
        return None
    found: dict[str, list[bytes]] = {}
    for digest, statement in revoked:
        found.setdefault(str(digest), []).append(statement)  # type: ignore[arg-type]  # STRICT tables
    return LogView(row, index, read_entry, found)


def _row(row: tuple[Any, ...]) -> Row:
    index, leaf, sha256, blake3, channels, name, version = row
    return Row(index, leaf, Digests(sha256.hex(), blake3.hex()), tuple(channels.split()), name, version)


def _parsed(content: object) -> dict[str, Any]:
    body = strictjson.parse(content, what="index", limit=MAX_BODY) if isinstance(content, bytes) else None
    if not isinstance(body, dict):
        raise MalformedError("index is damaged", rule="index", wanted="an event")
    return body


def _damaged(message: str, index: int | None) -> IntegrityError:
    return IntegrityError(message, rule="log", got=index, hint="run `modelnet fsck`; the log's files are read again")
