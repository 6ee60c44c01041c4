"""Without anything hostile in the way."""

from __future__ import annotations

from tests.transfer.hostile import Kind, Proxy
from tests.transfer.scene import Scene
from tests.transfer.world import attempt


def test_pull_through_a_proxy_that_changes_nothing(scene: Scene) -> None:
    """The proxy itself is transparent, and every kind of request is made."""
    with Proxy(scene.node) as proxy:
        got = attempt(scene.world.v1, scene.home, [proxy.url]).whole(scene.world.files_v1)
    assert got.plan.fetched < got.plan.total  # equal chunks are fetched once
    assert set(proxy.kinds_asked) == set(Kind)
    assert [report.state for report in got.sources] == ["ok"]


def test_second_pull_asks_for_news_only(scene: Scene) -> None:
    """A release that is here and whole is not asked for again; whether it was revoked meanwhile is."""
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    with Proxy(scene.node) as proxy:
        got = attempt(scene.world.v1, scene.home, [proxy.url]).whole(scene.world.files_v1)
    assert (got.plan.fetched, got.plan.present) == (0, got.plan.total)
    assert proxy.paths_asked
    assert all(path.startswith(f"/log/{scene.world.pid}/") for path in proxy.paths_asked)


def test_update_fetches_what_changed(scene: Scene) -> None:
    """The second version takes from the first what both have."""
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    got = attempt(scene.world.v2, scene.home, [scene.node]).whole(scene.world.files_v2)
    assert 0 < got.plan.fetched < 0.6 * got.plan.total
