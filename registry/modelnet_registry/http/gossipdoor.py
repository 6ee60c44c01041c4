"""The door for gossip: POST /gossip, a batch in, a batch out (`modelnet_registry.gossip.messages`).

A batch is read into memory, so only a few are read at one time; who comes when all places are taken is told to come
back, and nothing is lost by that: heads are compared again with somebody at every interval.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from modelnet.errors import MalformedError
from modelnet_registry.gossip.messages import MAX_BATCH
from modelnet_registry.gossip.post import CONTENT_TYPE
from modelnet_registry.http.message import Door, Refusal, Request, Response, Session, bad_request

__all__ = ["MAX_AT_ONCE", "Answer", "GossipDoor", "WithGossip"]

MAX_AT_ONCE = 32  # batches in memory: 8 MiB, whatever a thousand peers send

# (the peer's IP address, its batch) → our batch; raises `MalformedError`
Answer = Callable[[str, bytes], bytes]


class GossipDoor:
    """Hands batches to the node's gossip."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._places = threading.Semaphore(MAX_AT_ONCE)

    def respond(self, request: Request) -> Response | None:
        """Answer what is for gossip; None for what is not."""
        if request.path != "/gossip":
            return None
        if request.method != "POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "gossip is a POST", ("Allow", "POST"))
        if not self._places.acquire(blocking=False):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too much gossip at once", ("Retry-After", "5"))
        try:
            body = self._answer(request.remote, request.receive(MAX_BATCH))
        except MalformedError as error:
            raise bad_request(str(error)) from error
        finally:
            self._places.release()
        headers = (("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store"))
        return Response(HTTPStatus.OK, headers, body, len(body))


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
