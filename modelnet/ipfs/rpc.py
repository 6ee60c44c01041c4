"""Kubo's RPC, as far as its word can be taken: `ipfshttpclient` 0.7.0 underneath, our own rules on top.

Kubo reports a failure that comes after the first byte of an answer in an HTTP trailer, and Python's HTTP clients drop
trailers: a pin or an import that failed looks like `200 OK`. It also ignores options that it does not know. So

- every call names an endpoint and options of a fixed table; anything else is a mistake of ours and raises `ValueError`;
- a streamed answer counts only when its *terminal record* came, else `IncompleteResponseError`;
- an answer must get on: a server that drips bytes, or repeats a record, is given up (`modelnet.ipfs.watch`);
- nothing is taken from the environment (a proxy there would get the token), and no redirect is followed;
- no answer is unpacked: a compressed one, which nobody asked for, is refused before its first byte is read;
- `ipfshttpclient.connect()` is not used (it refuses every Kubo since 0.8), nor `get()` (it unpacks a tar unchecked).

Answers are read line by line, each line bounded. One `Rpc` may be used by several threads; each gets a session.
Sources: kubo core/commands, go-ipfs-cmds http/responseemitter.go (X-Stream-Error) and http/parse.go (options).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from modelnet.errors import IntegrityError, MalformedError, UnavailableError, UsageError
from modelnet.ipfs.address import AUTH_VARIABLE, KuboAddress
from modelnet.ipfs.watch import Watch
from modelnet.wording import printable

__all__ = ["ENDPOINTS", "READ_S", "Body", "IncompleteResponseError", "KuboRefusedError", "Rpc"]

# What may be asked, and with which options: https://docs.ipfs.tech/reference/kubo/rpc/, checked against Kubo 0.43.
ENDPOINTS: Mapping[str, frozenset[str]] = MappingProxyType({
    "block/get": frozenset(["offline", "timeout"]),
    "block/stat": frozenset(["offline", "timeout"]),
    "config": frozenset[str](),
    "dag/import": frozenset(["pin-roots", "stats"]),
    "dag/export": frozenset(["offline", "progress"]),
    "dag/stat": frozenset(["offline", "progress"]),
    "id": frozenset[str](),
    "pin/add": frozenset(["name", "progress", "recursive", "timeout"]),  # `offline` it takes, and does not heed
    "pin/ls": frozenset(["names", "stream", "type"]),
    "pin/rm": frozenset(["recursive"]),
    "pubsub/pub": frozenset[str](),
    "pubsub/sub": frozenset[str](),
    "repo/stat": frozenset(["size-only"]),
    "swarm/connect": frozenset[str](),
    "swarm/peers": frozenset[str](),
    "version": frozenset[str](),
})  # fmt: skip

READ_S = 30.0  # to connect, between two reads or records, and to take what we send
STALLS = 4  # times our patience that records may come and say nothing new: `pin/add` waits for a collector like that
MAX_LINE = 1 << 20  # one JSON record; the longest we ask for lists the addresses of a peer
MAX_RECORDS = 1 << 22
MAX_ERROR = 64 * 1024
DEEPEST = 12  # errors within errors
MAX_SAID = 300  # characters of Kubo's own words that an error repeats

_STATUS_RULES = {401: "kubo-auth", 403: "kubo-auth", 404: "kubo-endpoint", 405: "kubo-endpoint"}


class IncompleteResponseError(UnavailableError):
    """The answer ended without the record that says the work was done: it failed, or the daemon went away."""


class KuboRefusedError(UnavailableError):
    """Kubo answered with an error; `got` holds its words."""


class Body(Protocol):
    """What is uploaded: pieces whose total length is known before the first."""

    content_type: str

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the pieces; each is sent before the next is asked for."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One request."""

    endpoint: str
    arguments: tuple[str, ...]
    options: Mapping[str, str]
    body: Body | None = None
    read_s: float | None = None
    grows: Callable[[dict[str, Any]], int] | None = None

    def __post_init__(self) -> None:
        allowed = ENDPOINTS.get(self.endpoint)
        if allowed is None or not allowed.issuperset(self.options):
            raise ValueError(f"{self.endpoint} with {sorted(self.options)} is not in the table of endpoints")


class Rpc:
    """Calls to the Kubo at `address`."""

    def __init__(self, address: KuboAddress, patience_s: float = READ_S) -> None:
        """Connect lazily; `patience_s` is how long it may pause. Raises `UsageError` for a wrong address."""
        self.address = address
        self.patience_s = patience_s
        self._local = threading.local()
        self._clients: list[Any] = []
        self._lock = threading.Lock()
        self._session()

    def close(self) -> None:
        """Close every session."""
        with self._lock:
            for client in self._clients:
                client.close()
            self._clients.clear()
        self._local = threading.local()

    def call(self, endpoint: str, *arguments: str, options: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the one record that `endpoint` answers with."""
        # One more than there should be is enough to know: a server may send them for ever.
        with contextlib.closing(self._records(_Question(endpoint, arguments, options or {}))) as answer:
            records = list(itertools.islice(answer, 2))
        if len(records) != 1:
            raise IncompleteResponseError(
                f"kubo's answer to {endpoint} is not one record", rule="kubo-incomplete", wanted="1 record",
                got=f"{len(records)} or more" if records else 0, source=str(self.address),
            )  # fmt: skip
        return records[0]

    def stream(
        self,
        endpoint: str,
        *arguments: str,
        options: Mapping[str, str],
        terminal: Callable[[dict[str, Any]], bool] | None,
        body: Body | None = None,
        read_s: float | None = None,
        grows: Callable[[dict[str, Any]], int] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the records of an answer up to the one that `terminal` accepts.

        `grows` gives a number of each record; while that does not rise the answer gets nowhere, however much is said.
        Raises `IncompleteResponseError` when the answer ends before the terminal record, or gets nowhere (rule
        `kubo-stalled`). Without `terminal` the answer proves nothing.
        """
        with contextlib.closing(self._records(_Question(endpoint, arguments, options, body, read_s, grows))) as answer:
            for record in answer:
                yield record
                if terminal is not None and terminal(record):
                    return
        if terminal is None:
            return
        raise IncompleteResponseError(
            f"kubo ended its answer to {endpoint} without saying that it was done", rule="kubo-incomplete",
            source=str(self.address), hint="the daemon's own log says why",
        )  # fmt: skip

    def content(self, endpoint: str, *arguments: str, options: Mapping[str, str], limit: int) -> bytes:
        """Return an answer that is no JSON, of at most `limit` bytes. Whoever asked checks its hash."""
        content = bytearray()
        with self._answer(_Question(endpoint, arguments, options)) as (pieces, _):
            for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise IntegrityError(
                        "the answer is longer than it can be", rule="too-long", wanted=f"at most {limit} bytes",
                        source=str(self.address),
                    )  # fmt: skip
        return bytes(content)

    def _records(self, question: _Question) -> Generator[dict[str, Any], None, None]:
        endpoint = question.endpoint
        line = bytearray()
        count, most = 0, -1
        with self._answer(question) as (pieces, watch):
            for piece in pieces:
                line += piece
                *whole, rest = line.split(b"\n")
                line = bytearray(rest)
                count += len(whole)
                if len(line) > MAX_LINE or count > MAX_RECORDS:
                    raise self._malformed(endpoint, "more than any answer has")
                for told in whole:
                    if told.strip():
                        record = self._parse(endpoint, told)
                        if question.grows is None:
                            watch.heard()
                        elif (size := question.grows(record)) > most:
                            watch.heard()
                            most = size
                        yield record
            if line.strip():
                yield self._parse(endpoint, line)

    def _parse(self, endpoint: str, line: bytes | bytearray) -> dict[str, Any]:
        try:
            record = json.loads(bytes(line))
        except (ValueError, RecursionError) as error:
            raise self._malformed(endpoint, repr(bytes(line[:80]))) from error
        if not isinstance(record, dict):
            raise self._malformed(endpoint, repr(bytes(line[:80])))
        if record.get("Type") == "error":
            raise self._refused(endpoint, str(record.get("Message", "")))
        return record

    def _malformed(self, endpoint: str, got: str) -> MalformedError:
        return MalformedError(
            f"kubo's answer to {endpoint} is not what it should be", rule="kubo-answer", got=got,
            source=str(self.address), hint="is another program listening at this address?",
        )  # fmt: skip

    def _refused(self, endpoint: str, said: str) -> KuboRefusedError:
        said = printable(said[:MAX_SAID])
        full = "no space left" in said or "disk quota" in said
        return KuboRefusedError(
            f"kubo refused {endpoint}", rule="kubo-disk" if full else "kubo-refused", got=said,
            source=str(self.address),
            hint="give its repository more space; what it has taken is kept" if full else None,
        )  # fmt: skip

    def _session(self) -> Any:
        """Return this thread's client."""
        client = getattr(self._local, "client", None)
        if client is not None:
            return client
        import ipfshttpclient
        from ipfshttpclient import exceptions

        headers = {"User-Agent": "modelnet", "Accept-Encoding": "identity"}
        if self.address.authorization is not None:
            headers["Authorization"] = self.address.authorization
        try:
            client = ipfshttpclient.Client(self.address.multiaddr, session=True, headers=headers)
        except (exceptions.AddressError, ValueError) as error:
            raise UsageError(f"not an address that can be asked: {self.address}", rule="kubo-address") from error
        session = client._client._session  # noqa: SLF001  (the version is pinned; it has no public way to say this)
        session.trust_env = False  # a proxy from the environment would get what is meant for this machine, token too
        session.max_redirects = 0
        session.hooks["response"] += [self._refuse_encoded, _bound_error]
        sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        for adapter in session.adapters.values():
            # An option of urllib3 1 that its patch still gives; urllib3 2 warns about it.
            adapter.poolmanager.connection_pool_kw.pop("strict", None)
            _track(adapter.poolmanager, sockets)
        self._local.client = client
        self._local.sockets = sockets
        with self._lock:
            self._clients.append(client)
        return client

    def _refuse_encoded(self, response: Any, *_: object, **__: object) -> None:
        """Refuse what is compressed: a few bytes of it may be gigabytes."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in {"", "identity"}:
            response.close()
            raise MalformedError(
                "the answer is compressed, which nobody asked for", rule="kubo-answer", got=printable(encoding[:80]),
                source=str(self.address), hint="is a proxy between us and Kubo?",
            )  # fmt: skip

    @contextmanager
    def _answer(self, question: _Question) -> Iterator[tuple[Iterator[bytes], Watch]]:
        """Give the pieces of an answer, and who watches that it gets on."""
        read_s = question.read_s or self.patience_s
        limit_s = read_s if question.grows is None else STALLS * self.patience_s
        self._session()
        sockets: weakref.WeakSet[socket.socket] = self._local.sockets
        watch = Watch(limit_s, lambda: sockets)
        with watch, self._pieces(question, read_s, watch) as pieces:
            yield pieces, watch
            if watch.fired:  # the end that the reader found is the one that the watch made
                raise self._cut(question)

    def _cut(self, question: _Question) -> UnavailableError:
        if question.grows is None:
            return self._gone(question.endpoint, "it is silent", "kubo-silent")
        return IncompleteResponseError(
            f"kubo gets no further with {question.endpoint}", rule="kubo-stalled", source=str(self.address),
            hint="does it lack blocks, or is its garbage collector running?",
        )  # fmt: skip

    @contextmanager
    def _pieces(self, question: _Question, read_s: float, watch: Watch) -> Iterator[Iterator[bytes]]:
        import requests
        import urllib3
        from ipfshttpclient import exceptions

        endpoint = question.endpoint
        client = self._session()
        answer = None
        try:
            answer = client._client.request(  # noqa: SLF001  (the pinned version's own way to call any endpoint)
                f"/{endpoint}", list(question.arguments), opts=dict(question.options), decoder="none", stream=True,
                data=None if question.body is None else _Sent(question.body, watch),
                headers={"Content-Type": question.body.content_type} if question.body else None,
                timeout=(self.patience_s, read_s),
            )  # fmt: skip
            yield iter(answer)
        except exceptions.ErrorResponse as error:
            raise self._refused(endpoint, str(error)) from error
        except exceptions.StatusError as error:
            raise self._status(endpoint, error) from error
        except requests.TooManyRedirects as error:
            raise self._malformed(endpoint, "a redirect") from error
        except (
            exceptions.CommunicationError,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            if watch.fired:
                raise self._cut(question) from error
            # urllib3's error for a refused connection is one of its timeouts.
            timeouts = (TimeoutError, urllib3.exceptions.ReadTimeoutError)
            if any(isinstance(part, timeouts) for part in _chain(error)):
                raise self._gone(endpoint, "it is silent", "kubo-silent") from error
            raise self._gone(endpoint, _cause(error), "kubo-connection") from error
        finally:
            if answer is not None:
                answer.close()

    def _status(self, endpoint: str, error: Any) -> UnavailableError:
        status = error.original.response.status_code
        rule = _STATUS_RULES.get(status, f"http-{status}")
        hint = f"put bearer:TOKEN or basic:USER:PASSWORD into ${AUTH_VARIABLE}" if rule == "kubo-auth" else None
        if rule == "kubo-endpoint":
            hint = "is this the RPC port of a Kubo, 5001 by default?"
        return KuboRefusedError(
            f"kubo refused {endpoint}", rule=rule, got=f"HTTP {status}", source=str(self.address), hint=hint
        )

    def _gone(self, endpoint: str, why: str, rule: str) -> UnavailableError:
        return UnavailableError(
            f"kubo does not answer {endpoint}: {why}", rule=rule, source=str(self.address),
            hint="start it with `ipfs daemon`, or give its address; `modelnet doctor` looks for it",
        )  # fmt: skip


class _Sent:
    """A body whose every piece counts as a sign of life: Kubo took the one before."""

    def __init__(self, body: Body, watch: Watch) -> None:
        self._body = body
        self._watch = watch

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self._body:
            self._watch.heard()
            yield piece
        self._watch.heard()


def _track(manager: Any, sockets: weakref.WeakSet[socket.socket]) -> None:
    """Let every connection that `manager` makes add its socket to `sockets`, for whoever must end it from outside."""

    def tracked(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                sockets.add(self.sock)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    manager.pool_classes_by_scheme = {name: tracked(pool) for name, pool in manager.pool_classes_by_scheme.items()}


def _bound_error(response: Any, *_: object, **__: object) -> None:
    """Read at most `MAX_ERROR` of an error page: whatever reads it later would read it whole."""
    if response.status_code >= 400:
        response._content = response.raw.read(MAX_ERROR, decode_content=False)  # noqa: SLF001  (as requests keeps it)
        response._content_consumed = True  # noqa: SLF001
        response.close()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what lies below it: the libraries wrap each other's errors in every way there is."""
    below: BaseException | None = error
    for _ in range(DEEPEST):
        if below is None:
            return
        yield below
        inner = [part for part in below.args if isinstance(part, BaseException)]
        wrapped = getattr(below, "reason", None) or getattr(below, "original", None)
        below = wrapped if isinstance(wrapped, BaseException) else inner[0] if inner else below.__context__


def _cause(error: BaseException) -> str:
    """Return what the operating system said."""
    said = (part.strerror for part in _chain(error) if isinstance(part, OSError) and part.strerror)
    return next(said, "the connection broke").lower()
