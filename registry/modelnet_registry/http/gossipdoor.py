"""The door for gossip.

POST /gossip    a batch in, a batch out (`modelnet_registry.gossip.messages`)
GET /gossip     what the operator may see: peers, heads, the last events; JSON, from this machine only

A batch is read into memory, so only a few are read at one time; who comes when all places are taken is told to come
back, and nothing is lost by that: heads are compared again with somebody at every interval.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from modelnet.errors import MalformedError
from modelnet_registry.gossip.messages import MAX_BATCH
from modelnet_registry.gossip.post import CONTENT_TYPE
from modelnet_registry.gossip.view import is_loopback
from modelnet_registry.http.message import Door, Refusal, Request, Response, Session, bad_request, text

__all__ = ["MAX_AT_ONCE", "Answer", "GossipDoor", "WithGossip"]

MAX_AT_ONCE = 32  # batches in memory: 8 MiB, whatever a thousand peers send

# (the peer's IP address, its batch) → our batch; raises `MalformedError`
Answer = Callable[[str, bytes], bytes]


class GossipDoor:
    """Hands batches to the node's gossip."""

    def __init__(self, answer: Answer, report: Callable[[], Mapping[str, Any]]) -> None:
        self._answer = answer
        self._report = report
        self._places = threading.Semaphore(MAX_AT_ONCE)

    def respond(self, request: Request) -> Response | None:
        """Answer what is for gossip; None for what is not."""
        if request.path != "/gossip":
            return None
        if request.method in ("GET", "HEAD"):
            return self._tell(request)
        if request.method != "POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "gossip is a POST", ("Allow", "GET, HEAD, POST"))
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

    def _tell(self, request: Request) -> Response:
        """Tell the operator; a proxy on this machine is not the operator."""
        forwarded = request.header("forwarded") or request.header("x-forwarded-for")
        host = f"[{request.remote}]" if ":" in request.remote else request.remote
        if forwarded is not None or not is_loopback(f"http://{host}"):
            raise Refusal(HTTPStatus.FORBIDDEN, "what this node hears is told on its own machine only")
        return text(HTTPStatus.OK, json.dumps(self._report()), kind="application/json")


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
