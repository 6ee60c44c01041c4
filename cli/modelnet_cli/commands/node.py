"""`modelnet node`: serve what is in the store."""

from __future__ import annotations

import math
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet.errors import UsageError
from modelnet.wording import count_text
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.stores.local import LocalStore

INTERVAL_LEAST = 0.05  # seconds: below that a node does nothing but compare heads


def node(
    output: Output,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; port 0 picks a free one.")
    ] = "127.0.0.1:8710",
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="Peer to gossip with; later pulls ask it by themselves.")
    ] = None,
    follow: Annotated[
        list[str] | None, typer.Option("--follow", metavar="PUBLISHER", help="Publisher whose log is kept up to date.")
    ] = None,
    gossip_interval: Annotated[
        float, typer.Option(min=0, help="Seconds between two comparisons with peers; 0 turns gossip off.")
    ] = 30.0,
    gossip_quiet: Annotated[
        bool, typer.Option("--gossip-quiet", help="Tell peers nothing of what is known here; only ask.")
    ] = False,
    lan: Annotated[bool, typer.Option("--lan", help="Find nodes on the local network, and be found (mDNS).")] = False,
    pubsub: Annotated[
        str | None, typer.Option(metavar="KUBO", help="Gossip over this Kubo's pubsub as well; `kubo` finds it.")
    ] = None,
    help_hold: Annotated[
        list[str] | None,
        typer.Option(metavar="PUBLISHER", help="Hold a share of what this publisher releases, with others who help."),
    ] = None,
    help_space: Annotated[float, typer.Option(min=0, metavar="GB", help="Space for what is held for others.")] = 50.0,
    help_rate: Annotated[
        float | None, typer.Option(min=0.01, metavar="MB/S", help="How fast it is fetched at most.")
    ] = None,
    help_quiet: Annotated[
        str | None,
        typer.Option(metavar="FROM-TO", help="Hours in which nothing is fetched, as 8-18; 0-24 is always."),
    ] = None,
    witness: Annotated[
        bool, typer.Option("--witness", help="Cosign heads of the logs that are followed here or named in `policy`.")
    ] = False,
    advertise: Annotated[
        str | None, typer.Option(metavar="URL", help="Where peers reach this node, if not where it listens.")
    ] = None,
) -> None:
    """Serve the releases in this store to peers, Kubo and browsers, and gossip with peers, until interrupted."""
    from modelnet.replica import Replicas
    from modelnet.stores.home import Home
    from modelnet.stores.local import open_store
    from modelnet.stores.peers import add_peers
    from modelnet_registry.gossip.addresses import advertised
    from modelnet_registry.gossip.announcing import Announcer
    from modelnet_registry.gossip.helping import Help
    from modelnet_registry.gossip.holding import Allowance
    from modelnet_registry.gossip.node import Gossiping
    from modelnet_registry.node import run_node
    from modelnet_registry.witness import WitnessKey

    host, port = _address(listen)
    _check_interval(gossip_interval, {"--help-hold": help_hold, "--lan": lan, "--pubsub": pubsub})
    rate = None if help_rate is None else _bytes(help_rate / 1000)
    offered = Allowance(_bytes(help_space), rate, *_hours(help_quiet))
    reached = None if advertise is None else advertised(advertise)
    store = open_store()
    add_peers(Home.find(), peer or [])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def ready(url: str) -> None:
        doors = {"gateway": f"{url}/ipfs/", "log": f"{url}/log/", "health": f"{url}/healthz"}
        if key is not None:
            doors["witness"] = f"{url}/add-checkpoint"
        output.result(
            {"event": "ready", "url": url, "doors": doors},
            f"serving {count_text(len(store.index.releases()), 'release')} at {url}",
        )

    def say(event: dict[str, Any], words: str) -> None:
        if output.as_json:
            output.result(event)
        output.note(words)

    followed = [_publisher(store, publisher) for publisher in follow or ()]
    helping = Help([_publisher(store, publisher) for publisher in help_hold], offered) if help_hold else None
    kubo = "" if pubsub == "kubo" else pubsub
    gossip = None
    if gossip_interval:
        announcer = Announcer(Replicas(store), say)
        gossip = Gossiping(
            followed, peer or (), gossip_interval, gossip_quiet, reached, lan, kubo, helping, announcer, output.note
        )
    key = (WitnessKey.load(store.home) or WitnessKey.make(store.home)) if witness else None
    if key is not None:
        output.note(f"for the policy of those who rely on it: witness {key.name} {key.note_key.vkey}")
    run_node(store, host, port, ready=ready, stop=stop, gossip=gossip, witness=key)
    output.result({"event": "stopped"}, "stopped")


def witness(
    output: Output,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to be asked; port 0 picks a free one.")
    ] = "127.0.0.1:8710",
    peer: Annotated[list[str] | None, typer.Option("--peer", help="Peer to hear of logs from.")] = None,
    follow: Annotated[
        list[str] | None, typer.Option("--follow", metavar="PUBLISHER", help="Publisher whose log is kept up to date.")
    ] = None,
) -> None:
    """Run a node that cosigns the heads it is shown, each only if it continues the one before (C2SP tlog-witness)."""
    node(output, listen=listen, peer=peer, follow=follow, witness=True)


def _publisher(store: LocalStore, text: str) -> str:
    """Return the pid of a publisher: its id, what it is called here, or one of its locators."""
    from modelnet.core.names import parse_reference
    from modelnet.signed import resolve_publisher

    return resolve_publisher(store, parse_reference(text).publisher if text.startswith("modelnet:") else text)


def _check_interval(seconds: float, needs: dict[str, object]) -> None:
    """Raise `UsageError` for an interval that is none, and for options that need gossip without it."""
    if not math.isfinite(seconds) or 0 < seconds < INTERVAL_LEAST:
        raise UsageError(
            f"not an interval: {seconds}", rule="interval", hint=f"some seconds, at least {INTERVAL_LEAST}; 30 is usual"
        )
    wanted = [name for name, value in needs.items() if value]
    if not seconds and wanted:
        raise UsageError(
            f"{wanted[0]} needs gossip, which --gossip-interval 0 turns off", rule="interval",
            hint=f"leave out {wanted[0]} or --gossip-interval",
        )  # fmt: skip


def _bytes(gigabytes: float) -> int:
    """Return GB as bytes."""
    if not math.isfinite(gigabytes):
        raise UsageError(f"not a size: {gigabytes}", rule="space", hint="how many GB may be used, for example 50")
    return int(gigabytes * 1e9)


def _hours(text: str | None) -> tuple[int, int]:
    """Parse FROM-TO, two hours of the day; none means that no hour is quiet, and 0-24 that all are."""
    if text is None:
        return 0, 0
    begin, dash, end = text.partition("-")
    hours = [int(part) for part in (begin, end) if part.isascii() and part.isdigit()]
    if not dash or len(hours) != 2 or max(hours) > 24 or hours[1] in (hours[0], hours[0] % 24):
        raise UsageError(f"not two hours of the day: {text!r}", rule="hours", hint="for example 8-18, or 22-6")
    return hours[0] % 24, hours[1]


def _address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT, with brackets around an IPv6 address."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"not HOST:PORT: {text!r}", rule="listen", hint="for example 127.0.0.1:8710 or [::1]:0")
    return host, int(port)
