"""What a block links: UnixFS nodes, and the links inside DAG-CBOR and DAG-JSON documents.

Parsing a node of a thousand links takes milliseconds, and a pull asks for runs of one file again and again, so parsed
nodes are kept. Their blocks are not: a block that is sent is read and hashed again each time.
Sources: ipfs/specs unixfs.md, ipld.io/specs/codecs/dag-cbor, ipld.io/specs/codecs/dag-json.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import mmh3

from modelnet.core import dagcbor
from modelnet.core.cid import DAG_CBOR, Cid
from modelnet.core.unixfs import Link, Node, parse_node
from modelnet.errors import MalformedError

__all__ = ["DAG_JSON", "NodeCache", "child_of", "document", "document_links", "shard_child", "sub_shards"]

DAG_JSON = 0x0129
CACHED_LINKS = 65_536  # about 20 MiB; 64 of our widest nodes
MAX_SLOTS = 1024  # boxo refuses wider shards
MURMUR_BITS = 64


class NodeCache:
    """Parsed nodes by CID, the least used forgotten first. Used by many threads."""

    def __init__(self, links: int = CACHED_LINKS) -> None:
        """Keep nodes of at most `links` links together."""
        self._limit = links
        self._nodes: OrderedDict[Cid, Node] = OrderedDict()
        self._links = 0
        self._lock = threading.Lock()

    def node(self, cid: Cid, block: bytes) -> Node:
        """Return the node in `block`, which is known to hash to `cid`; raise `MalformedError` if it is none."""
        with self._lock:
            if (known := self._nodes.get(cid)) is not None:
                self._nodes.move_to_end(cid)
                return known
        node = parse_node(block)
        with self._lock:
            if cid not in self._nodes:
                self._nodes[cid] = node
                self._links += len(node.links) + 1
            while self._links > self._limit and len(self._nodes) > 1:
                self._links -= len(self._nodes.popitem(last=False)[1].links) + 1
        return node


def document(cid: Cid, block: bytes) -> Any:
    """Return the value of a DAG-CBOR or DAG-JSON block, links as `Cid`; raise `MalformedError` if it is neither."""
    if cid.codec == DAG_CBOR:
        return dagcbor.decode(block)
    try:
        return json.loads(block, object_hook=_json_link)
    except (ValueError, RecursionError) as error:
        raise MalformedError("not DAG-JSON", rule="dag-json") from error


def _json_link(value: dict[str, Any]) -> Any:
    match value:
        case {"/": str(text), **rest} if not rest:
            return Cid.parse(text)
    return value


def document_links(value: Any) -> Iterator[Cid]:
    """Yield the links of a document in the order of its bytes."""
    if isinstance(value, Cid):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from document_links(item)
    elif isinstance(value, list):
        for item in value:
            yield from document_links(item)


def child_of(value: Any, name: str) -> Any:
    """Return the field or list item `name` of a document value, or None."""
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isascii() and name.isdecimal() and len(name) < 8 and int(name) < len(value):
        return value[int(name)]
    return None


def _digits(node: Node) -> int:
    slots = node.fanout
    if not 1 < slots <= MAX_SLOTS or slots & (slots - 1):
        raise MalformedError("shard has a width that nobody uses", rule="unixfs", got=slots)
    return len(f"{slots - 1:X}")


def sub_shards(node: Node) -> list[Link]:
    """Return those links of a HAMT node that lead to its sub-shards, not to an entry."""
    digits = _digits(node)
    return [link for link in node.links if len(link.name) == digits]


def shard_child(node: Node, name: str, depth: int) -> tuple[Link | None, bool]:
    """Return the link of a HAMT node at `depth` that leads to `name`, and whether it is a sub-shard."""
    digits = _digits(node)
    bits = node.fanout.bit_length() - 1
    shift = MURMUR_BITS - bits * (depth + 1)
    if shift < 0:
        raise MalformedError("shards nest deeper than their hash is long", rule="unixfs", got=depth)
    hashed = mmh3.hash64(name.encode(), signed=False)[0]
    slot = f"{hashed >> shift & node.fanout - 1:0{digits}X}"
    return _find(node.links, slot, name)


def _find(links: Sequence[Link], slot: str, name: str) -> tuple[Link | None, bool]:
    for link in links:
        if link.name == slot:
            return link, True
        if link.name == slot + name:
            return link, False
    return None, False
