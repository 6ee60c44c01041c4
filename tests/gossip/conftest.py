"""Two connected Kubos for the tests of gossip over pubsub; one pair for all tests of a worker."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from tests.engines import Kubo, kubo_daemon, need_kubo
from tests.registry.conftest import serve, stock

__all__ = ["kubos", "serve", "stock"]


@pytest.fixture(scope="session")
def kubos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kubo, Kubo]]:
    """Give two Kubos of one private swarm."""
    need_kubo()
    key = secrets.token_hex(32)
    with (
        kubo_daemon(tmp_path_factory.mktemp("kubo-a"), swarm_key=key) as a,
        kubo_daemon(tmp_path_factory.mktemp("kubo-b"), swarm_key=key) as b,
    ):
        b.run("swarm", "connect", json.loads(a.run("id"))["Addresses"][0])
        yield a, b
