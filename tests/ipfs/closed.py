"""A closed network of two Kubos and a modelnet node, in a network namespace whose only way out counts packets.

    unshare --net --mount python -m tests.ipfs.closed FOLDER [--open]

Run as root of new namespaces. There is the loopback, and an interface that takes every packet to anywhere and drops it.
Prints one JSON line: the packets that tried to leave while the Kubos were configured as docs/kubo.md says (`--open`: as
`ipfs init` leaves them), and what was exchanged meanwhile. First one packet is sent on purpose: the counter counts.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.engines import Kubo, find_kubo, kubo_running

OUTSIDE = "198.51.100.7"  # RFC 5737: nobody's
DOCUMENT = Path(__file__).parents[2] / "docs" / "kubo.md"
LISTENING_S = 3.0  # how long the daemons are watched, idle, on top of what they do


def wire() -> None:
    """Bring up the loopback and the way out; names are to be asked of somebody outside."""
    for command in (
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
        "ip link set lo up",
        "ip link add out type veth peer name sink",
        "ip link set out arp off",
        "ip link set sink up",
        "ip address add 198.51.100.1/24 dev out",
        "ip link set out up",
        "ip route add default dev out",
        "mount -t tmpfs none /run",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    resolver = Path("/run/resolv.conf")
    resolver.write_text(f"nameserver {OUTSIDE}\n")
    target = Path("/etc/resolv.conf").resolve()
    if target.exists():
        subprocess.run(["mount", "--bind", resolver, target], check=True, capture_output=True)


def sent() -> int:
    """Return how many packets tried to leave."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("out:"))
    return int(line.partition(":")[2].split()[9])  # eight columns of what came in, then bytes and packets that left


def profile() -> dict[str, Any]:
    """Return the settings in the document."""
    found = re.search(r"<!-- closed-profile.*?-->\n```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    settings = json.loads(found[1])
    assert isinstance(settings, dict)
    return settings


def repository(folder: Path, key: str, settings: dict[str, Any]) -> Kubo:
    """Make a repository as `ipfs init` does, with `settings`, on free ports of the loopback."""
    binary = find_kubo()
    assert binary is not None
    folder.mkdir()
    repo = Kubo(binary, folder)
    if settings:
        (folder / "swarm.key").write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{key}\n")
    repo.run("init", "--algorithm=ed25519")
    ports = {
        "Addresses.API": "/ip4/127.0.0.1/tcp/0", "Addresses.Gateway": "/ip4/127.0.0.1/tcp/0",
        "Addresses.Swarm": ["/ip4/127.0.0.1/tcp/0"],
    }  # fmt: skip
    config = json.loads((folder / "config").read_text())
    for name, value in (settings | ports).items():
        *above, last = name.split(".")
        place = config
        for part in above:
            place[part] = place.get(part) or {}  # it may be null
            place = place[part]
        place[last] = value
    (folder / "config").write_text(json.dumps(config))
    return repo


def exchange(folder: Path, a: Kubo, b: Kubo) -> dict[str, bool]:
    """Publish, pin, fetch and pull; tell what arrived."""
    from modelnet import init, publish, pull
    from modelnet.ipfs.address import KuboAddress
    from modelnet.ipfs.kubo import Kubo as KuboClient
    from modelnet.ipfs.push import push
    from modelnet.stores.local import open_store
    from modelnet_registry.http.doors import Doors
    from modelnet_registry.http.server import Server

    content = secrets.token_bytes(3_000_000)
    (folder / "w.bin").write_bytes(content)
    init(home=folder / "maker")
    made = publish(folder / "w.bin", name="m", version="1", home=folder / "maker")
    with KuboClient.connect(KuboAddress.parse(a.api)) as client:
        push(open_store(folder / "maker"), client, made.release.manifest, "modelnet/m@1")
    b.run("swarm", "connect", json.loads(a.run("id"))["Addresses"][0])
    fetched = b.run("cat", "--timeout=20s", f"{made.manifest.tree}/w.bin")
    with Server(Doors(open_store(folder / "maker")), "127.0.0.1") as node:
        got = pull(made.locator, peers=[node.url, b.gateway], to=folder / "got", home=folder / "puller")
    return {"kubo": fetched == content, "modelnet": (got.path / "w.bin").read_bytes() == content}


def main() -> None:
    """Play the scene."""
    folder = Path(sys.argv[1])
    settings = {} if "--open" in sys.argv else profile()
    wire()
    before = sent()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"counted?", (OUTSIDE, 9))
    control = sent() - before
    key = secrets.token_hex(32)
    repos = [repository(folder / name, key, settings) for name in ("a", "b")]
    arrived: dict[str, bool] = {}
    before = sent()
    if settings:
        with kubo_running(repos[0]) as a, kubo_running(repos[1]) as b:
            arrived = exchange(folder, a, b)
            time.sleep(LISTENING_S)
            addresses = a.run("swarm", "addrs", "listen").decode().split()
    else:
        environment = {name: value for name, value in repos[0].environment().items() if name != "LIBP2P_FORCE_PNET"}
        daemon = subprocess.Popen(
            [repos[0].binary, "daemon"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(LISTENING_S)
        daemon.terminate()
        daemon.wait(20)
        addresses = []
    print(json.dumps({"control": control, "left": sent() - before, "arrived": arrived, "addresses": addresses}))
    for name in ("a", "b"):
        shutil.rmtree(folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
