"""Sharded directories: the HAMT that Kubo builds when a flat directory node would pass 256 KiB.

    shard  = dag-pb node, Type 5, fanout 256, hash murmur3-x64-64; Data.Data = the bitfield, big-endian
    link   = two upper-case hex digits of the slot + the entry's name; a link of two digits only is a sub-shard

Source: ipfs/specs unixfs.md "dag-pb HAMTDirectory"; IPIP-499 (threshold on the size of the flat node, fanout 256).
"""

from __future__ import annotations

from collections.abc import Sequence

from modelnet.core.cid import DAG_PB
from modelnet.core.unixfs import DEFAULT, Child, Emit, Link, Profile, directory, encode_hamt_data, encode_links

__all__ = ["FANOUT", "SHARD_ABOVE", "build_directory"]

FANOUT = 256
SHARD_ABOVE = 256 * 1024  # bytes of the flat node; `unixfs-v1-2025`: block-bytes, strictly more
HASH_BYTES = 8


def build_directory(entries: Sequence[tuple[str, Child]], emit: Emit, profile: Profile = DEFAULT) -> Child:
    """Return the directory of `entries` (name, child): flat, or sharded where Kubo would; blocks go to `emit`."""
    child, block = directory(entries, profile)
    if len(block) <= SHARD_ABOVE:
        emit(child.cid, block)
        return child
    import mmh3  # only releases with thousands of files in one folder need it

    hashed = [
        (mmh3.hash64(name.encode(), signed=False)[0].to_bytes(HASH_BYTES, "big"), name, entry)
        for name, entry in entries
    ]
    return _shard(hashed, 0, emit, profile)


def _shard(entries: Sequence[tuple[bytes, str, Child]], depth: int, emit: Emit, profile: Profile) -> Child:
    if depth == HASH_BYTES:
        raise ValueError("eight bytes of murmur3 are equal for two names; Kubo has no answer to that either")
    slots: dict[int, list[tuple[bytes, str, Child]]] = {}
    for entry in entries:
        slots.setdefault(entry[0][depth], []).append(entry)
    links: list[Link] = []
    bitfield = 0
    for slot in sorted(slots):
        bitfield |= 1 << slot
        if len(slots[slot]) == 1:
            _, name, child = slots[slot][0]
        else:
            name, child = "", _shard(slots[slot], depth + 1, emit, profile)
        links.append(Link(child.cid, f"{slot:02X}{name}", child.tsize))
    data = encode_hamt_data(bitfield.to_bytes((bitfield.bit_length() + 7) // 8, "big"), FANOUT)
    block = encode_links(links, data)
    cid = profile.cid(DAG_PB, block)
    emit(cid, block)
    return Child(cid, 0, len(block) + sum(link.tsize for link in links))
