"""The driver of a transfer: threads, sockets and the clock around the sans-IO plan in `modelnet.core.transfer`.

Each source has a few threads; each asks the plan for a lease, streams it, and hands verified chunks to the partial
files. One watcher breaks off what the plan says is too slow.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from modelnet.core.cid import RAW, Cid
from modelnet.core.transfer import SLOTS_MOST, Lease, State, Transfer
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet.partial import Partial
from modelnet.progress import Progress
from modelnet.stores.http import Connection, HttpSource, NotHereError

__all__ = ["Fetcher", "SourceReport"]

THREADS_MOST = 24  # 4 MiB of buffer each: below 100 MiB however many sources there are
WATCH_S = 0.25
IDLE_S = 0.02
REQUEST_S = 30.0  # for one block of at most 2 MiB, or a log of at most 16 MiB
BLOCK_THREADS = 8
SILENT_S = 3.0  # a failure that took this long is a source to wait for in vain; a refused connection takes none

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one source gave: verified bytes, its state (`ok`, `slow`, `gone`, `lied`) and why."""

    source: str
    bytes: int
    state: str
    reason: str = ""


class _Watcher:
    """One thread that aborts connections whose `overdue` function gives a reason."""

    def __init__(self) -> None:
        self._watched: dict[Connection, Callable[[float], str | None]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelnet-watcher", daemon=True)
        self._thread.start()

    @contextmanager
    def watch(self, connection: Connection, overdue: Callable[[float], str | None]) -> Iterator[None]:
        """Abort `connection` as soon as `overdue(now)` gives a reason, until the block ends."""
        with self._lock:
            self._watched[connection] = overdue
        try:
            yield
        finally:
            with self._lock:
                del self._watched[connection]

    def _run(self) -> None:
        while not self._stop.wait(WATCH_S):
            now = time.monotonic()
            with self._lock:
                for connection, overdue in self._watched.items():
                    if overdue(now):
                        connection.abort()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


class Fetcher:
    """Everything that one pull asks of its sources. A source that lied is never asked again."""

    def __init__(self, sources: Sequence[HttpSource], progress: Progress) -> None:
        """Ask `sources`; tell `progress`."""
        self.sources = sources
        self.progress = progress
        self.reports: dict[str, SourceReport] = {
            source.url: SourceReport(source.url, 0, State.OK.value) for source in sources
        }
        self._lies: dict[str, ModelnetError] = {}
        self._singles: Counter[str] = Counter()  # bytes of chunks that came one by one
        self._silent: set[str] = set()  # sources that were waited for in vain
        self._over = False
        self._watcher = _Watcher()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: list[Connection] = []

    def close(self) -> None:
        """Close every connection."""
        self._watcher.close()
        for connection in self._connections:
            connection.close()

    def usable(self) -> list[HttpSource]:
        """Return the sources that have not lied; those that did not answer come last, for each costs its timeout."""
        honest = [source for source in self.sources if self.reports[source.url].state != State.LIED.value]
        return sorted(honest, key=lambda source: self.reports[source.url].state == State.GONE.value)

    def answering(self) -> list[HttpSource]:
        """Return the sources to ask one by one: those that were silent only when there are no others.

        Each of them would cost its timeout again; a transfer, which waits for nobody, still tries them.
        """
        usable = self.usable()
        return [source for source in usable if source.url not in self._silent] or usable

    def stop(self) -> None:
        """Break off whatever is asked one by one: an interrupt does not wait for peers that are silent."""
        self._over = True

    def accuse(self, source: str, error: ModelnetError) -> None:
        """Never ask `source` again: it lied, as `error` says."""
        error.source = error.source or source
        with self._lock:
            known = source in self._lies
            self._lies.setdefault(source, error)
            self.reports[source] = SourceReport(source, self.reports[source].bytes, State.LIED.value, str(error))
        if not known:
            self.progress.note(f"{source} sent wrong data and is not asked again: {error}")

    def _connection(self, source: HttpSource) -> Connection:
        """Return this thread's connection to `source`."""
        mine: dict[str, Connection] = self._local.__dict__.setdefault("connections", {})
        if source.url not in mine:
            mine[source.url] = source.connect()
            with self._lock:
                self._connections.append(mine[source.url])
        return mine[source.url]

    def ask(self, source: HttpSource, ask: Callable[[Connection], T]) -> T | None:
        """Return what one source answers to `ask`; None when it lied, for which it is accused, or does not answer."""
        if self._over:
            return None
        began = time.monotonic()
        deadline = began + REQUEST_S

        def overdue(now: float) -> str | None:
            return "slow" if now > deadline or self._over else None

        try:
            connection = self._connection(source)
            with self._watcher.watch(connection, overdue):
                answer = ask(connection)
        except (IntegrityError, MalformedError, TrustError) as error:
            self.accuse(source.url, error)
            return None
        except UnavailableError as error:
            if not isinstance(error, NotHereError):
                with self._lock:
                    self.reports[source.url] = SourceReport(source.url, 0, State.GONE.value, error.message)
                    if time.monotonic() - began >= SILENT_S:
                        self._silent.add(source.url)
            return None
        with self._lock:
            self._silent.discard(source.url)
            if self.reports[source.url].state == State.GONE.value:
                self.reports[source.url] = SourceReport(source.url, 0, State.OK.value)
        return answer

    def block(self, cid: Cid, what: str, limit: int = MAX_BLOCK, *, path: str | None = None) -> bytes:
        """Return a verified block, of the file `path`, from the first source that has it; raise when none does."""

        def ask(connection: Connection) -> bytes:
            try:
                return connection.block(cid, limit)
            except IntegrityError as error:
                error.path, error.wanted = path, error.wanted or cid
                raise

        for source in self.answering():
            if (content := self.ask(source, ask)) is not None:
                with self._lock:
                    self._singles[source.url] += len(content) if cid.codec == RAW else 0
                return content
        raise self.unavailable(f"{what} is not to be had", wanted=cid)

    def blocks(self, paths: Mapping[Cid, str], what: str) -> dict[Cid, bytes]:
        """Return several verified blocks, fetched side by side; `paths` says of which file each is."""
        with ThreadPoolExecutor(min(BLOCK_THREADS, max(len(paths), 1))) as pool:
            try:
                found = pool.map(lambda cid: self.block(cid, what, path=paths[cid]), paths)
                return dict(zip(paths, found, strict=True))
            except BaseException:
                self.stop()
                raise

    def unavailable(self, message: str, wanted: object = None) -> ModelnetError:
        """Return the error that says what became of each source; when all of them lied, that is the first lie."""
        if self.sources and len(self._lies) == len(self.reports):
            lie = next(iter(self._lies.values()))
            lie.hint = lie.hint or "give another source with --peer URL; what has arrived is kept"
            return lie
        # Who answered well and gave no reason has nothing of what was asked for.
        states = [
            f"{report.source}: does not have it" if report.state == State.OK.value and not report.reason
            else f"{report.source}: {report.state}{', ' + report.reason if report.reason else ''}"
            for report in self.reports.values()
        ]  # fmt: skip
        return UnavailableError(
            message, rule="sources", wanted=wanted, got="; ".join(states) or "no source",
            hint="give another source with --peer URL; what has arrived is kept",
        )  # fmt: skip

    def chunks(self, transfer: Transfer, partial: Partial, copies: dict[bytes, list[tuple[int, int]]]) -> None:
        """Run `transfer` until all is on disk; `copies` gives further places (file, chunk) of some digests.

        Raises `UnavailableError` when no source is left or the disk refuses, the first lie when every source lied.
        """
        run = _Run(self, transfer, partial, copies)
        try:
            run.start()
            run.wait()
        finally:
            run.stop()
            for name, source in transfer.sources.items():
                # A lie outweighs what became of the liar's other connections, which were broken off because of it.
                lie = self._lies.get(name)
                state, reason = (source.state, source.reason) if lie is None else (State.LIED, str(lie))
                if state is State.OK and not source.bytes and reason:
                    # It failed each time it was asked; others brought everything before it was given up.
                    state = State.SLOW if reason.startswith("slow") else State.GONE
                earlier = self.reports[name]
                if state is State.OK and not source.bytes and earlier.state == State.GONE.value:
                    # It did not answer before either: that it was not waited for in the end makes it no better.
                    state, reason = State.GONE, earlier.reason
                self.reports[name] = SourceReport(name, source.bytes, state.value, reason)
        if not transfer.done:
            raise self.unavailable("some chunks are not to be had", wanted=f"{transfer.left} more bytes")

    def summary(self) -> tuple[SourceReport, ...]:
        """Return what became of each source, with the chunks that came one by one among its bytes."""
        return tuple(replace(report, bytes=report.bytes + self._singles[name]) for name, report in self.reports.items())


class _Run:
    """The threads of one transfer."""

    def __init__(
        self, fetcher: Fetcher, transfer: Transfer, partial: Partial, copies: dict[bytes, list[tuple[int, int]]]
    ) -> None:
        self.fetcher = fetcher
        self.transfer = transfer
        self.partial = partial
        self.copies = copies
        self.lock = threading.Condition()
        self.failure: BaseException | None = None
        self.stopping = False
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        sources = self.fetcher.usable()
        slots = max(1, min(SLOTS_MOST, THREADS_MOST // max(len(sources), 1)))
        for source in sources:
            self.transfer.add_source(source.url)
        for _ in range(slots):
            for source in sources:
                thread = threading.Thread(target=self._work, args=(source,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def wait(self) -> None:
        """Return when all is there, nobody is left, or something failed; then raise that."""
        while True:
            with self.lock:
                if self.transfer.done or self.transfer.hopeless or self.failure is not None:
                    break
                self.lock.wait(WATCH_S)
            self.partial.flush_if_due()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        with self.lock:
            self.stopping = True
            self.lock.notify_all()
        for connection in self.fetcher._connections:  # noqa: SLF001  (one driver in two classes)
            connection.abort()
        for thread in self.threads:
            thread.join()

    def _work(self, source: HttpSource) -> None:
        connection = self.fetcher._connection(source)  # noqa: SLF001  (one driver in two classes)
        try:
            while (lease := self._next(source.url)) is not None:
                self._fetch(connection, lease)
        except BaseException as error:  # noqa: BLE001  (handed to the thread that waits)
            with self.lock:
                self.failure = self.failure or error
                self.lock.notify_all()

    def _next(self, name: str) -> Lease | None:
        """Return the next lease of `name`, waiting for one; None when the transfer is over."""
        with self.lock:
            while not (self.stopping or self.transfer.done or self.failure or not self.transfer.sources[name].usable):
                if (lease := self.transfer.lease(name, time.monotonic())) is not None:
                    return lease
                self.lock.wait(IDLE_S)
        return None

    def _fetch(self, connection: Connection, lease: Lease) -> None:
        reason: list[str] = []

        def overdue(now: float) -> str | None:
            with self.lock:
                verdict = "the pull ended" if self.stopping else self.transfer.verdict(lease, now)
            if verdict:
                reason.append(verdict)
            return verdict

        def tick(count: int) -> None:
            with self.lock:
                self.transfer.received(lease, count, time.monotonic())

        tree = self.transfer.trees[lease.run.file]
        try:
            with self.fetcher._watcher.watch(connection, overdue):  # noqa: SLF001  (one driver in two classes)
                connection.run(tree, lease.run.first, lease.run.last, lambda chunks: self._deliver(lease, chunks), tick)
        except (IntegrityError, MalformedError) as error:
            if error.rule == "chunk-size":
                raise  # signed so by the publisher: another source has nothing else
            error.source = error.source or lease.source
            error.path = error.path or tree.entry.path
            with self.lock:
                self.transfer.lied(lease, str(error))
                self.lock.notify_all()
            self.fetcher.accuse(lease.source, error)
        except NotHereError:
            with self.lock:
                self.transfer.missing(lease, time.monotonic())
        except UnavailableError as error:
            if error.rule == "disk":
                raise
            with self.lock:
                if self.stopping or (reason and reason[0] == "others were faster"):
                    self.transfer.finished(lease, time.monotonic())
                else:
                    self.transfer.failed(lease, reason[0] if reason else error.message, time.monotonic())
                self.lock.notify_all()
        else:
            with self.lock:
                self.transfer.finished(lease, time.monotonic())
                self.lock.notify_all()

    def _deliver(self, lease: Lease, chunks: Sequence[tuple[int, memoryview]]) -> None:
        """Write verified chunks that are still missing, at every place that they belong to."""
        file = lease.run.file
        with self.lock:
            fresh = [chunk for chunk in chunks if self.transfer.wants(file, chunk[0])]
        if not fresh:
            return
        self.partial.write(file, fresh)
        for index, view in fresh:
            for other, place in self.copies.get(self.transfer.trees[file].digest_of(index), ()):
                self.partial.write(other, [(place, view)])
        with self.lock:
            # Counted after the write: a chunk that is no longer wanted is on disk.
            for index, _ in fresh:
                self.transfer.verified(lease, index)
        self.fetcher.progress.advance(lease.source, sum(len(view) for _, view in fresh))
