"""The door for gossip.

POST /gossip    a batch in, a batch out (`modelnet_registry.gossip.messages`)
GET /gossip     what the operator may see: peers, heads, the last events; JSON, from this machine only
                with `?after=N` only the events after number N

A batch is read before it takes one of the few places where batches are answered: a peer that drips takes none. Small
ones are read from everybody; large ones only a few at a time, and half of those from one address at most. Who comes
when all places are taken is told to come back, and nothing is lost: heads are compared again at every interval.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol

from modelnet.errors import MalformedError
from modelnet_registry.gossip.addresses import account_of, is_loopback
from modelnet_registry.gossip.messages import MAX_BATCH
from modelnet_registry.gossip.post import CONTENT_TYPE
from modelnet_registry.http.message import Door, Refusal, Request, Response, Session, bad_request, text

__all__ = ["MAX_AT_ONCE", "MAX_LARGE", "SMALL", "Answer", "GossipDoor", "WithGossip"]

MAX_AT_ONCE = 32  # batches that are answered at a time: 8 MiB of answers, whatever a thousand peers send
SMALL = 16 * 1024  # bytes of a batch that anybody may send: 4 MiB from as many connections as there can be
MAX_LARGE = 32  # batches that are larger, at a time: 8 MiB
MAX_DIGITS = 18  # of an event's number
PLACE_S = 5.0  # how long one that was read waits for its place

# (the peer's IP address, its batch) → our batch; raises `MalformedError`
Answer = Callable[[str, bytes], bytes]


class Report(Protocol):
    """What the operator may see; with `after`, only the events after that one."""

    def __call__(self, after: int | None = None) -> Mapping[str, Any]:
        """Return plain values."""


class GossipDoor:
    """Hands batches to the node's gossip."""

    def __init__(self, answer: Answer, report: Report) -> None:
        self._answer = answer
        self._report = report
        self._places = threading.Semaphore(MAX_AT_ONCE)
        self._lock = threading.Lock()
        self._large: Counter[str] = Counter()  # batches that are being read, by address

    def respond(self, request: Request) -> Response | None:
        """Answer what is for gossip; None for what is not."""
        if request.path != "/gossip":
            return None
        if request.method in ("GET", "HEAD"):
            return self._tell(request)
        if request.method != "POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "gossip is a POST", ("Allow", "GET, HEAD, POST"))
        with self._reading(request):
            batch = request.receive(MAX_BATCH)
            if not self._places.acquire(timeout=PLACE_S):
                raise _full()
            try:
                body = self._answer(request.remote, batch)
            except MalformedError as error:
                raise bad_request(str(error)) from error
            finally:
                self._places.release()
        headers = (("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store"))
        return Response(HTTPStatus.OK, headers, body, len(body))

    @contextmanager
    def _reading(self, request: Request) -> Iterator[None]:
        """Count a large batch while it is in memory; refuse one too many."""
        length = request.header("content-length") or ""
        if length.isascii() and length.isdigit() and int(length) <= SMALL:
            yield
            return
        payer = account_of(f"{request.remote} ")
        with self._lock:
            if self._large.total() >= MAX_LARGE or self._large[payer] >= MAX_LARGE // 2:
                raise _full()
            self._large[payer] += 1
        try:
            yield
        finally:
            with self._lock:
                self._large[payer] -= 1
                if not self._large[payer]:
                    del self._large[payer]

    def _tell(self, request: Request) -> Response:
        """Tell the operator; a proxy on this machine is not the operator."""
        forwarded = request.header("forwarded") or request.header("x-forwarded-for")
        # Who calls an address from that very address is on the machine that has it.
        here = is_loopback(request.remote) or (request.remote == request.local != "")
        if forwarded is not None or not here:
            raise Refusal(HTTPStatus.FORBIDDEN, "what this node hears is told on its own machine only")
        after = request.parameters().get("after")
        if after is None:
            return text(HTTPStatus.OK, json.dumps(self._report()), kind="application/json")
        if not (after.isascii() and after.isdigit() and len(after) < MAX_DIGITS):
            raise bad_request("`after` is the number of an event")
        return text(HTTPStatus.OK, json.dumps(self._report(int(after))), kind="application/json")


def _full() -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too much gossip at once", ("Retry-After", "5"))


class WithGossip:
    """A door for gossip beside all others: what is not for it goes to `door`."""

    def __init__(self, door: Door, gossip: GossipDoor) -> None:
        self._door = door
        self._gossip = gossip

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open the other doors' session, with gossip before it."""
        with self._door.session() as session:
            yield _Session(session, self._gossip)


class _Session:
    """Both, as one connection's thread sees them."""

    def __init__(self, session: Session, gossip: GossipDoor) -> None:
        self._session = session
        self._gossip = gossip

    def respond(self, request: Request) -> Response:
        return self._gossip.respond(request) or self._session.respond(request)
