"""Append releases to a log, for ever or until killed: what a publisher's program does.

    python -m tests.registry.log.appender HOME SEEN

prints `ack VERSION` when an append was acknowledged, and appends every head to SEEN before it is committed, as the
witnesses would see it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelnet.core.note import SignedNote
from modelnet.stores.home import Home
from modelnet_registry.log.writer import Proof
from tests.registry.log.stage import Desk

END = b"\0"


def main() -> None:
    """Append until killed."""
    home, seen = sys.argv[1:]
    desk = Desk.at(Home(Path(home)))
    handle = os.open(seen, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def witness(note: SignedNote, _: Proof) -> SignedNote:
        os.write(handle, note.encode() + END)
        return note

    while True:
        with desk.open(cosign=witness) as log:
            version = str(len(log.state.releases))
            log.append([desk.release(version)])
        print(f"ack {version}", flush=True)


if __name__ == "__main__":
    main()
