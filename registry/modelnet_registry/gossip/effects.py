"""What a gossip machine asks its driver to do, what the judge may answer, and what an operator may set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelnet_registry.gossip.messages import Entries, Item, Message, Proof, Stored

__all__ = ["Also", "Blame", "Check", "Config", "Effect", "News", "Send", "Serve", "Verdict"]


class Verdict(Enum):
    """What the judge found about an item."""

    NEW = "true, and not known before"
    KNOWN = "true, and known"
    UNKNOWN = "about a publisher whose log is not here"
    LATER = "cannot be judged now"
    FALSE = "not true"
    BETRAYED = "not what the log shows that its teller gives"


@dataclass(frozen=True, slots=True)
class Config:
    """How a node gossips; times in seconds."""

    interval: float = 30.0
    contacts: int = 2  # peers that heads are compared with at each tick
    push: int = 4  # peers that news are pushed to
    quiet: bool = False  # tell no heads and relay nothing: only ask
    heads: int = 64  # heads told in one exchange
    rumours: int = 1000
    rumour_rate: float = 64 * 1024 / 60  # bytes a second from one peer
    byte_rate: float = 4 * 1024 * 1024 / 60
    peers_every: int = 10  # ticks between two exchanges of addresses


@dataclass(frozen=True, slots=True)
class Send:
    """Send `messages` to `peer`; `Stored` stands for what the judge holds. In an answer if the peer waits for one."""

    peer: str
    messages: tuple[Message | Stored, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the judge; `peer` told it, and may have the log that is needed. Answered by `Machine.judged(key, …)`."""

    key: bytes
    item: Item | Entries | Proof
    peer: str


@dataclass(frozen=True, slots=True)
class Also:
    """`peer` told the item that is being judged as well, and may have the log that is needed."""

    key: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Send `peer` the entries `[first, last)` of a log, or with `proof` that it has one history from first to last."""

    peer: str
    origin: str
    first: int
    last: int
    proof: bool = False


@dataclass(frozen=True, slots=True)
class Blame:
    """Somebody said what cannot be true; `remote` False says that the fault is on our side."""

    peer: str
    reason: str
    banned: bool = False
    remote: bool = True


@dataclass(frozen=True, slots=True)
class News:
    """What was just found true and is being pushed to some peers: for buses that reach everybody."""

    items: tuple[Stored, ...]


Effect = Send | News | Check | Also | Serve | Blame
