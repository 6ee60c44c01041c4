"""JSON over HTTP with a pinning service or a cluster: bounded in size and time, no redirect, no proxy, typed failures.

A token never leaves for another host than the one it was given for, and is in no error.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from modelnet.errors import MalformedError, UnavailableError, UsageError
from modelnet.ipfs.watch import Watch
from modelnet.stores.http import HttpSource
from modelnet.wording import printable

__all__ = ["Rest", "RestRefusedError", "token_from"]

TIMEOUT_S = 30.0  # for each read, and for the whole answer
MAX_ANSWER = 1 << 20  # the state of one pin; a cluster of a thousand peers says 400 bytes about each
MAX_SAID = 200


class RestRefusedError(UnavailableError):
    """The service answered with an error; `status` is its HTTP status."""

    status: int = 0


def token_from(variable: str) -> str | None:
    """Return the secret in an environment variable; raise `UsageError` where it is no header's value."""
    secret = os.environ.get(variable)
    if secret and not (secret.isascii() and secret.isprintable()):
        raise UsageError(f"${variable} holds letters that a header cannot", rule="token")
    return secret or None


@dataclass(frozen=True, slots=True)
class Rest:
    """The service at `url`; `authorization` is the header's value."""

    url: str
    authorization: str | None = field(default=None, repr=False)

    def ask(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send one request; return the JSON of a 2xx answer, None for an empty one.

        Raises `RestRefusedError` for any other status, `UnavailableError` when nobody answers, `MalformedError` when
        the answer is no JSON.
        """
        place = HttpSource.parse(self.url)
        target = place.base + "".join(f"/{quote(part, safe='')}" for part in path)
        headers = {"Accept": "application/json", "User-Agent": "modelnet"}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = (
            http.client.HTTPSConnection(place.host, place.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
            if place.secure
            else http.client.HTTPConnection(place.host, place.port, timeout=TIMEOUT_S)
        )
        sockets: list[socket.socket] = []
        watch = Watch(TIMEOUT_S, lambda: sockets)
        try:
            connection.connect()
            sockets.append(connection.sock)
            with watch:
                connection.request(method, f"{target}?{urlencode(query)}" if query else target, content, headers)
                answer = connection.getresponse()
                said = answer.read(MAX_ANSWER + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise self._silent(why, watch) from error
        finally:
            connection.close()
        if watch.fired:  # an answer without a length ends where it was cut off
            raise self._silent("", watch)
        if not 200 <= answer.status < 300:
            raise self._refused(answer.status, said)
        if len(said) > MAX_ANSWER:
            raise MalformedError("the answer is too long", rule="too-long", source=self.url)
        if not said.strip():
            return None
        try:
            return json.loads(said)
        except (ValueError, RecursionError) as error:
            raise MalformedError("the answer is not JSON", rule="json", got=repr(said[:80]), source=self.url) from error

    def _silent(self, why: str, watch: Watch) -> UnavailableError:
        if watch.fired:
            why = f"it did not come whole within {TIMEOUT_S:.0f} seconds"
        return UnavailableError(f"no answer: {why}", rule="connection", source=self.url)

    def _refused(self, status: int, said: bytes) -> RestRefusedError:
        hint = {
            401: "is the token right, and in the right environment variable?",
            403: "is the token right, and in the right environment variable?",
            409: "the service says that the account has no funds or space left",
        }.get(status)
        error = RestRefusedError(
            "the service refused", rule=f"http-{status}", got=_reason(said) or f"HTTP {status}", source=self.url,
            hint=hint,
        )  # fmt: skip
        error.status = status
        return error


def _reason(said: bytes) -> str:
    """Return the reason in an error's body: `{"error": {"reason", "details"}}`, or `{"message"}`, or its text."""
    try:
        told = json.loads(said[:MAX_ANSWER])
    except (ValueError, RecursionError):
        return ""
    if isinstance(told, dict):
        inner = told.get("error")
        parts = [inner.get("reason"), inner.get("details")] if isinstance(inner, dict) else [inner, told.get("message")]
        return printable(": ".join(part for part in parts if isinstance(part, str))[:MAX_SAID])
    return ""
