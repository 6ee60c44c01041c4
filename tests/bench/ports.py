"""Peers of a pull on the loopback: nginx (or a sendfile server where there is none), and a proxy with a speed limit.

python ports.py serve PORT FOLDER             plain files over HTTP by sendfile, ranges included
python ports.py limit PORT UPSTREAM RATE      forwards connections, RATE bytes a second back to all clients together
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from common import Spent, free_port, started, wait_port

__all__ = ["Connections", "file_server", "limited", "parts"]

NGINX = """\
{user}
daemon off;
worker_processes 4;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""
PIECE = 64 * 1024
PARTS_S = 300.0
BURST_S = 0.1  # what a limited source may send at once, in seconds of its rate: covers late wake-ups


@contextlib.contextmanager
def file_server(files: Path, folder: Path) -> Iterator[tuple[str, str, int]]:
    """Serve the files in `files`, keeping state in `folder`; yields the server's name, its URL and a process id."""
    port = free_port()
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if nginx:
        folder.mkdir(exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""  # its workers could not enter a private work folder otherwise
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX.format(user=user, folder=folder, port=port, files=files))
        name, argv = "nginx", [nginx, "-p", str(folder), "-c", str(configuration)]
    else:
        name, argv = "sendfile", [sys.executable, __file__, "serve", str(port), str(files)]
    with started(argv, stderr=subprocess.DEVNULL) as process:
        wait_port(port)
        yield name, f"http://127.0.0.1:{port}", process.pid


@contextlib.contextmanager
def limited(url: str, rate: int) -> Iterator[str]:
    """Put a proxy before the server at `url` that gives `rate` bytes a second; yields its URL."""
    port = free_port()
    argv = [sys.executable, __file__, "limit", str(port), url.rpartition(":")[2], str(rate)]
    with started(argv):
        wait_port(port)
        yield f"http://127.0.0.1:{port}"


def parts(urls: Sequence[str], size: int, folder: Path) -> Spent:
    """Fetch one file of `size` bytes with as many curls as there are `urls`, side by side, each its share of it."""
    cuts = [size * number // len(urls) for number in range(len(urls) + 1)]
    begin = time.perf_counter()
    with ExitStack() as stack:
        running = []
        for url, first, end in zip(urls, cuts, cuts[1:], strict=False):
            argv = [
                "curl",
                "--silent",
                "--fail",
                "--range",
                f"{first}-{end - 1}",
                "--output",
                str(folder / f"at{first}"),
            ]
            running.append(stack.enter_context(started([*argv, url])))
        codes = [process.wait(PARTS_S) for process in running]
    if any(codes):
        raise RuntimeError(f"curl ended with {codes}")
    return Spent(time.perf_counter() - begin)


class Connections:
    """Counts the connections that are open to a port, now and then, while the block runs; `most` is the result."""

    def __init__(self, port: int) -> None:
        self.most = 0
        self._suffix = f":{port:04X}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
            self.most = max(self.most, sum(row[2].endswith(self._suffix) and row[3] == "01" for row in rows))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Bucket:
    """A token bucket that several connections draw from; `take` sleeps while it is empty."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.full = rate * BURST_S
        self.tokens = 0.0
        self.at = time.monotonic()
        self.lock = threading.Lock()

    def take(self, count: int) -> None:
        """Draw `count` tokens, going into debt and sleeping it off, so that turns are fair."""
        with self.lock:
            now = time.monotonic()
            self.tokens = min(self.full, self.tokens + (now - self.at) * self.rate) - count
            self.at = now
            debt = -self.tokens / self.rate
        if debt > 0:
            time.sleep(debt)


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=64)


def _limit(port: int, upstream: int, rate: int) -> None:
    bucket = Bucket(rate)
    with _listen(port) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_forward, args=(client, upstream, bucket), daemon=True).start()


def _forward(client: socket.socket, upstream: int, bucket: Bucket) -> None:
    with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", upstream)) as server:
        # A small buffer: what the limit holds back waits at the server, not here.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_copy, args=(client, server, None), daemon=True).start()
        _copy(server, client, bucket)


def _copy(source: socket.socket, target: socket.socket, bucket: Bucket | None) -> None:
    view = memoryview(bytearray(PIECE))
    with contextlib.suppress(OSError):
        while count := source.recv_into(view):
            if bucket is not None:
                bucket.take(count)
            target.sendall(view[:count])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _serve(port: int, folder: Path) -> None:
    with _listen(port) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_send, args=(client, folder), daemon=True).start()


def _send(client: socket.socket, folder: Path) -> None:
    """Answer one GET, with a range if it asks for one, and close."""
    with client:
        lines = client.recv(65536).decode("latin-1").split("\r\n")
        path = folder / lines[0].split()[1].lstrip("/")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        with path.open("rb") as file:
            size = path.stat().st_size
            first, _, last = fields.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last or size - 1) + 1
            status = "206 Partial Content" if "range" in fields else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {end - begin}\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            while begin < end:
                begin += os.sendfile(client.fileno(), file.fileno(), begin, end - begin)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        _limit(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
