"""Row 33 to its end, over real nodes: a forced fork, quarantine at every follower, and the recovery that ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet import TrustError
from modelnet.core.freshness import Status
from modelnet.errors import ModelnetError
from modelnet.fetching import Fetcher
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.home import Home
from modelnet.stores.http import HttpSource
from modelnet.stores.local import open_store
from modelnet.syncing import sync
from modelnet_registry.keyops import recover
from modelnet_registry.log.fsck import check_logs
from tests.registry.test_keyops import Publisher
from tests.store.stage import serving


def follow(home: Path, pid: str, *urls: str) -> Replicas:
    """Sync a store with nodes, whatever they show."""
    replicas = Replicas(open_store(home))
    fetcher = Fetcher([HttpSource.parse(url) for url in urls], SILENT)
    try:
        sync(replicas, pid, fetcher)
    except ModelnetError:
        assert replicas.known(pid)
    finally:
        fetcher.close()
    return replicas


def test_threat_33_forced_fork_quarantine_and_recovery(tmp_path: Path) -> None:
    """Two copies of one store publish offline; who hears both quarantines; the recovery sheet ends it for all."""
    acme = Publisher(tmp_path / "acme")
    acme.publish("1")
    copy = Publisher.__new__(Publisher)
    copy.pid, copy.model = acme.pid, acme.model
    copy.home = acme.desk.copied(tmp_path / "copy").home
    acme.publish("2")
    copy.publish("2-other")
    copy.publish("3-other")
    followers = [tmp_path / "bob", tmp_path / "carol"]
    with serving(acme.home.root) as ours, serving(copy.home.root) as theirs:
        for home, order in zip(followers, ((ours, theirs), (theirs, ours)), strict=True):
            follow(home, acme.pid, *order)
            replicas = follow(home, acme.pid, *order)
            assert replicas.standing(acme.pid).status is Status.QUARANTINED
            assert replicas.evidence(acme.pid)
        # The publisher hears of it from a follower, and cannot go on as if nothing had happened.
        with serving(followers[0]) as bob:
            follow(acme.home.root, acme.pid, bob)
        with pytest.raises(TrustError) as caught:
            acme.publish("4")
        assert caught.value.rule == "quarantined"

        recover(acme.sheet, show=acme.show, home=acme.home)
        acme.publish("4")
        for home in followers:
            replicas = follow(home, acme.pid, ours)
            standing = replicas.standing(acme.pid)
            assert standing.epoch == 1
            assert standing.status is not Status.QUARANTINED
            newest = replicas.view(acme.pid).newest("m")
            assert newest is not None
            assert newest.event.release.version == "4"
            assert check_logs(Home(home)) == []
            # The other branch is history: what it has to say is not listened to any more.
            assert follow(home, acme.pid, theirs, ours).standing(acme.pid).epoch == 1
    # The copy is in an epoch that is over.
    with pytest.raises(TrustError) as caught:
        copy.desk.open(heads=lambda _: [acme.desk.head])
    assert caught.value.rule == "fork"
