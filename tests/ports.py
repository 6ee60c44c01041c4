"""Ports for servers that must be known before they start.

A port that the system hands out may be the source port of somebody's connection a moment later, and then the server
that wanted it fails. Ports below the system's range for connections are taken by nobody but by whoever names them, and
each test process has a stretch of its own.
"""

from __future__ import annotations

import os
import socket
from itertools import count
from pathlib import Path

__all__ = ["free_ports"]

FIRST, LAST = 10_000, 32_768  # Linux gives connections ports from 32,768 on, unless it was told otherwise
STRETCH = 500
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_next = count()


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Return `number` ports that nobody listens on and no connection will be given; each is returned once."""
    found: list[int] = []
    while len(found) < number:
        port = _candidate(next(_next))
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        found.append(port)
    return found


def _candidate(turn: int) -> int:
    """Return the port to try at this turn: from this worker's stretch first, then from the following ones."""
    last = min(LAST, _first_given_out())
    room = max(last - FIRST, STRETCH)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    # Other runs on this machine begin elsewhere.
    start = os.getppid() * 7919 + worker * STRETCH
    if turn >= room:
        raise RuntimeError("no port is free")
    return FIRST + (start + turn) % room


def _first_given_out() -> int:
    try:
        return int(RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return LAST
