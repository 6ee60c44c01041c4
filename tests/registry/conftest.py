"""A store, a running node over it, and a client, for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelnet_registry.http.connection import DEFAULT_LIMITS, Limits
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.message import Door
from modelnet_registry.http.server import Server
from tests.registry.stock import Client, Stock

Serve = Callable[..., tuple[Server, Client]]


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """Give an empty store."""
    stock = Stock(tmp_path)
    yield stock
    stock.store.index.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a way to run a server for the rest of the test."""
    with ExitStack() as stack:

        def start(
            door: Door, *, host: str = "127.0.0.1", limits: Limits = DEFAULT_LIMITS, max_connections: int = 256
        ) -> tuple[Server, Client]:
            server = stack.enter_context(Server(door, host, limits=limits, max_connections=max_connections))
            client = Client(server.url)
            stack.callback(client.close)
            return server, client

        yield start


@pytest.fixture
def get(stock: Stock, serve: Serve) -> Client:
    """Give a client of a node that serves `stock`."""
    return serve(Doors(stock.store))[1]
