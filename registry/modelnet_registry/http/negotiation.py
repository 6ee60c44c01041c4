"""What a gateway request asks for: format, CAR parameters, scope and byte ranges, from the query and the headers.

`format` and the `car-*` parameters win over `Accept`; a request that names no format is refused, as a gateway that
never interprets content should. Source: ipfs/specs trustless-gateway.md, RFC 9110 §12.5.1 and §14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from modelnet_registry.http.dag import Scope
from modelnet_registry.http.message import Refusal, Request, bad_request

__all__ = ["CAR", "RAW_BLOCK", "Wanted", "byte_range", "matches", "negotiate"]

RAW_BLOCK = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
FORMATS = {"raw": RAW_BLOCK, "car": CAR}
SCOPES = ("block", "entity", "all")
ORDERS = ("dfs", "unk")  # we always walk depth first, which whoever asks for an unknown order accepts too
PARAMETERS = ("version", "order", "dups")
MAX_ACCEPT = 32  # media ranges of one header

_ENTITY_BYTES = re.compile(r"(-?[0-9]{1,18}):(\*|-?[0-9]{1,18})")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A negotiated request; `negotiated` says that the URL alone does not tell all of it."""

    media: str
    scope: Scope
    dups: bool
    negotiated: bool

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer, with every parameter that is known."""
        if self.media == RAW_BLOCK:
            return RAW_BLOCK
        return f"{CAR}; version=1; order=dfs; dups={'y' if self.dups else 'n'}"


def negotiate(request: Request, query: Mapping[str, str]) -> Wanted:
    """Return what `request` asks for; raise 400 or 406 where that is nothing we have."""
    offers = _accepted(request.header("accept") or "")
    media, parameters = _choose(query.get("format"), offers)
    told = "format" in query and all(kind == media or "*" in kind for kind, _ in offers)
    if media == RAW_BLOCK:
        return Wanted(media, Scope("block"), dups=False, negotiated=not told)
    told = told and all(query.get(f"car-{name}") == parameters[name] for name in PARAMETERS if name in parameters)
    merged = {name: query.get(f"car-{name}", parameters.get(name, "")) for name in PARAMETERS}
    if not _supported(merged):
        raise bad_request("only version=1, order=dfs and dups=y or dups=n are offered")
    return Wanted(media, _scope(query), dups=merged["dups"] == "y", negotiated=not told)


def _choose(name: str | None, offers: list[tuple[str, dict[str, str]]]) -> tuple[str, dict[str, str]]:
    if name is not None:
        if name not in FORMATS:
            raise bad_request(f"format {name[:40]!r} is not offered here, only raw and car")
        media = FORMATS[name]
        # "The Accept header can still provide CAR-specific parameters" when format=car is given.
        return media, next((parameters for kind, parameters in offers if kind == media), {})
    for kind, parameters in offers:
        if kind == RAW_BLOCK or (kind == CAR and _supported(parameters)):
            return kind, parameters
    if any("*" not in kind for kind, _ in offers):
        raise Refusal(HTTPStatus.NOT_ACCEPTABLE, f"only {RAW_BLOCK} and {CAR} (version=1, order=dfs) are offered")
    raise bad_request("ask for format=raw or format=car, or send Accept")


def _accepted(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the media ranges of an Accept header with their parameters, best first."""
    ranked: list[tuple[float, str, dict[str, str]]] = []
    for item in header.split(",")[:MAX_ACCEPT]:
        kind, *rest = (part.strip() for part in item.split(";"))
        pairs = (part.partition("=") for part in rest if part)
        parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
        weight = _weight(parameters.pop("q", "1"))
        if kind and weight > 0:
            ranked.append((weight, kind.lower(), parameters))
    ranked.sort(key=lambda entry: -entry[0])  # stable: equal weights keep the client's order
    return [(kind, parameters) for _, kind, parameters in ranked]


def _weight(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0


def _supported(parameters: Mapping[str, str]) -> bool:
    return (
        parameters.get("version", "") in ("", "1")
        and parameters.get("order", "") in ("", *ORDERS)
        and parameters.get("dups", "") in ("", "y", "n")
    )


def _scope(query: Mapping[str, str]) -> Scope:
    name = query.get("dag-scope", "all")
    if name not in SCOPES:
        raise bad_request("dag-scope is block, entity or all")
    if (asked := query.get("entity-bytes")) is None:
        return Scope(name)
    found = _ENTITY_BYTES.fullmatch(asked)
    if found is None:
        raise bad_request("entity-bytes is from:to, in bytes; to may be *")
    last = None if found[2] == "*" else int(found[2])
    return Scope("entity", int(found[1]), last)  # "implies dag-scope=entity"


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes `[start, end)` that a Range header asks for; None where it is to be ignored.

    Several ranges are ignored, which RFC 9110 §14.2 allows. Raises 416 when the range is outside.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start >= end:
        raise Refusal(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the block has {size} bytes",
            ("Content-Range", f"bytes */{size}"),
        )
    return start, end


def matches(header: str | None, etag: str) -> bool:
    """Tell whether an If-None-Match header names `etag` (weak comparison, RFC 9110 §13.1.2)."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in (etag, "*") for item in header.split(","))
