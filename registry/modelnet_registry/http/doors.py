"""All doors of a node behind one port: which path leads where, and the small doors themselves.

/ipfs/{cid}…            the gateway (`modelnet_registry.http.gateway`)
/log/{pid}/…            publishers' logs (`modelnet_registry.http.logdoor`)
/add-checkpoint …       a witness, if the operator asked for one (`modelnet_registry.http.witnessdoor`)
/routing/v1/…           who has a block: this node (`modelnet_registry.http.routing`)
/healthz /readyz        is the process alive, can it read its store
/                       a page for people; read-only
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus

from modelnet.core.cid import Cid
from modelnet.errors import ModelnetError
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore
from modelnet.stores.petnames import Petnames
from modelnet_registry.http.access import GATEWAY_ACCESS, preflight
from modelnet_registry.http.blocks import Chunks, LocalBlocks
from modelnet_registry.http.gateway import Gateway
from modelnet_registry.http.logdoor import LogDoor
from modelnet_registry.http.message import Refusal, Request, Response, text
from modelnet_registry.http.routing import RoutingDoor
from modelnet_registry.http.witnessdoor import WitnessDoor
from modelnet_registry.witness import Witness

__all__ = ["Doors"]

METHODS = ("GET", "HEAD")
SHOWN = 500  # releases on the page

NOT_FOUND = "nothing is here; see / for what this node serves"
PAGE_HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>modelnet node</title>
<style>body{{font:1rem/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}}table{{border-collapse:collapse}}
td,th{{padding:.2rem 1rem .2rem 0;text-align:left}}code{{overflow-wrap:anywhere}}</style>
<h1>modelnet node</h1><p>{count} releases, up for {uptime}.</p>
<table><tr><th>publisher<th>release<th>manifest</tr>
{rows}</table>
</html>
"""


class Doors:
    """What a node serves from `store`: a `Door` for a `Server`."""

    def __init__(
        self,
        store: LocalStore,
        *,
        witness: Witness | None = None,
        denied: Callable[[Cid], str | None] = lambda _: None,
    ) -> None:
        """Serve `store`, which other processes may write to at the same time; be a witness where one is given.

        `denied` gives the reason why a block may not be given to anybody (`modelnet_registry.denials`).
        """
        self._store = store
        self._gateway = Gateway(LocalBlocks(store), denied)
        self._routing = RoutingDoor(self._gateway.blocks, denied)
        self._logs = LogDoor(store)
        self._witness = None if witness is None else WitnessDoor(witness)
        self._started = time.monotonic()

    @contextmanager
    def session(self) -> Iterator[_Session]:
        """Open what one connection's thread needs, and close it at its end."""
        chunks = self._gateway.blocks.chunks()
        try:
            yield _Session(self, chunks)
        finally:
            chunks.close()

    def respond(self, request: Request, chunks: Chunks) -> Response:
        """Answer `request` in the thread that `chunks` belongs to."""
        if self._witness is not None and (answer := self._witness.respond(request)) is not None:
            return answer
        if request.method == "OPTIONS" and (headers := preflight(request.segments())) is not None:
            return Response(HTTPStatus.OK, headers)
        if request.method not in METHODS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", ", ".join(METHODS)))
        match request.segments():
            case ("ipfs", _, *_):
                return self._ipfs(request, chunks)
            case ("ipns", *_):
                raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "names are not resolved here; ask for /ipfs/{cid}")
            case ("log", _, _, *_):
                return self._logs.respond(request)
            case ("routing", *_):
                return self._routing.respond(request)
            case ("healthz",):
                return text(HTTPStatus.OK, "ok\n")
            case ("readyz",):
                return self._ready()
            case ():
                return self._page()
        raise Refusal(HTTPStatus.NOT_FOUND, NOT_FOUND)

    def _ipfs(self, request: Request, chunks: Chunks) -> Response:
        """Answer for pages of any origin: they are told of a refusal too."""
        try:
            response = self._gateway.respond(request, chunks)
        except Refusal as refusal:
            raise Refusal(refusal.status, refusal.reason, *refusal.headers, *GATEWAY_ACCESS) from refusal
        return replace(response, headers=(*response.headers, *GATEWAY_ACCESS))

    def _ready(self) -> Response:
        try:
            self._store.index.data_version()
        except ModelnetError:
            return text(HTTPStatus.SERVICE_UNAVAILABLE, "the store cannot be read\n", ("Retry-After", "5"))
        return text(HTTPStatus.OK, "ok\n")

    def _page(self) -> Response:
        rows = self._store.index.releases()
        aliases = Petnames(self._store.home).aliases()
        shown = "".join(_row(row, aliases.get(row.pid)) for row in rows[: -SHOWN - 1 : -1])
        page = PAGE.format(count=len(rows), uptime=_duration(time.monotonic() - self._started), rows=shown)
        return text(HTTPStatus.OK, page, *PAGE_HEADERS, kind="text/html; charset=utf-8")


class _Session:
    """The doors, as one connection's thread sees them."""

    def __init__(self, doors: Doors, chunks: Chunks) -> None:
        self._doors = doors
        self._chunks = chunks

    def respond(self, request: Request) -> Response:
        return self._doors.respond(request, self._chunks)


def _row(row: ReleaseRow, alias: str | None) -> str:
    # Names, versions and aliases come from other people: nothing of them is markup.
    who, what, manifest = (
        html.escape(part) for part in (alias or row.pid, f"{row.name}@{row.version}", str(row.manifest))
    )
    return f"<tr><td>{who}<td>{what}<td><code>{manifest}</code></tr>\n"


def _duration(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h {minutes} min" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
