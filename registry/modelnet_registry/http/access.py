"""What pages of other origins may do with the doors (CORS): all that anybody may do, since nothing here is secret.

Sources: ipfs/specs path-gateway.md (Access-Control headers), http-routing-v1.md (CORS and web browsers).
"""

from __future__ import annotations

__all__ = ["GATEWAY_ACCESS", "ROUTING_ACCESS", "preflight"]

MAX_AGE_S = 86_400  # how long a browser may remember the answer to a preflight; they cap it themselves

GATEWAY_ACCESS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ("Access-Control-Allow-Headers", "Content-Type, Range, User-Agent, X-Requested-With"),
    ("Access-Control-Expose-Headers", "Content-Length, Content-Range, Etag, X-Ipfs-Path, X-Ipfs-Roots"),
)
ROUTING_ACCESS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, OPTIONS"),
    ("Access-Control-Allow-Headers", "Accept, Content-Type, User-Agent"),
)


def preflight(segments: tuple[str, ...]) -> tuple[tuple[str, str], ...] | None:
    """Return the headers that answer OPTIONS at a path; None where no page of another origin has any business."""
    access: dict[str, tuple[tuple[str, str], ...]] = {"ipfs": GATEWAY_ACCESS, "routing": ROUTING_ACCESS}
    if not segments or (found := access.get(segments[0])) is None:
        return None
    methods = dict(found)["Access-Control-Allow-Methods"]
    return (*found, ("Access-Control-Max-Age", str(MAX_AGE_S)), ("Allow", methods))
