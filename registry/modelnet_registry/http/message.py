"""Requests and responses as values: what a door gets and what it gives back.

A response's body is bytes, or a stream of lists of buffers. A stream's length is known before its first byte; if it
raises, the connection is closed with the response unfinished, which every client can tell; before its first buffers,
a refusal is still answered as such.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

__all__ = ["Buffer", "Door", "Refusal", "Request", "Response", "Session", "Stream", "bad_request", "refuse", "text"]

Buffer = bytes | memoryview
Stream = Generator[Sequence[Buffer], None, None]
MAX_FIELDS = 32  # query parameters of one request; the gateway knows eight


class Refusal(Exception):  # noqa: N818  (it is an answer, not a fault)
    """Raised by a door to answer with an error: a status, one sentence and headers."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


def _no_body(_limit: int) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request head; header names are lower case. `path` is still percent-encoded.

    `receive(limit)` reads the body, of at most `limit` bytes, and refuses a longer one. A door that wants no body does
    not call it: what is not read costs nothing, and the connection ends with the answer.
    """

    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    receive: Callable[[int], bytes] = field(default=_no_body, compare=False, repr=False)
    remote: str = ""  # the peer's IP address …
    local: str = ""  # … and the one that it called

    def header(self, name: str) -> str | None:
        """Return the values of the header `name` as one list (RFC 9110 §5.3), or None."""
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None

    def parameters(self) -> dict[str, str]:
        """Return the query parameters; one that is given twice with different values has no meaning."""
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise bad_request("the query cannot be read") from error
        found: dict[str, str] = {}
        for name, value in pairs:
            if found.setdefault(name, value) != value:
                raise bad_request(f"the parameter {name[:40]!r} is given twice")
        return found

    def segments(self) -> tuple[str, ...]:
        """Return the decoded segments of the path; empty ones, as a slash at the end makes them, are left out."""
        try:
            # Split first: an encoded slash is part of a name, never a separator.
            return tuple(unquote_to_bytes(part).decode() for part in self.path.split("/") if part)
        except UnicodeDecodeError as error:
            raise bad_request("the path is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class Response:
    """A status, headers and a body of exactly `length` bytes."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Buffer | Stream = b""
    length: int = 0


class Session(Protocol):
    """What answers the requests of one connection, in one thread."""

    def respond(self, request: Request) -> Response:
        """Answer `request`."""


class Door(Protocol):
    """What a server serves: a fresh session for each connection, entered and left in the connection's thread."""

    def session(self) -> AbstractContextManager[Session]:
        """Return the session of a new connection."""


def bad_request(reason: str) -> Refusal:
    """Return the refusal of a request that its specification does not allow."""
    return Refusal(HTTPStatus.BAD_REQUEST, reason)


def text(status: int, body: str, *headers: tuple[str, str], kind: str = "text/plain; charset=utf-8") -> Response:
    """Return a small page that nobody stores and no browser guesses about."""
    content = body.encode()
    fixed = (("Content-Type", kind), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
    return Response(status, (*fixed, *headers), content, len(content))


def refuse(refusal: Refusal) -> Response:
    """Return the error page of `refusal`."""
    return text(refusal.status, f"{refusal.reason}\n", *refusal.headers)
