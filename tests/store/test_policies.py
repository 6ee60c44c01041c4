"""The operator's policy: what may be written, what it means, and that a mistake in it is never read as leniency."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet.core.freshness import HARD_MAX_S
from modelnet.errors import MalformedError
from modelnet.policies import Policies, Terms, load_policies, load_witnesses
from modelnet.stores.home import Home

PID = "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"


def test_defaults_where_there_is_no_file(tmp_path: Path) -> None:
    """A new machine has the strict table and asks for no witnesses."""
    assert load_policies(Home(tmp_path)).of(PID) == Terms() == Policies().general
    assert Terms().hard_max_s == HARD_MAX_S
    assert load_witnesses(Home(tmp_path)).quorum is None


def test_publishers_have_terms_of_their_own(tmp_path: Path) -> None:
    """What stands for all holds for one, unless that one's table says otherwise; the pid outweighs the alias."""
    (tmp_path / "policy.toml").write_text(
        f"hard_max_days = 365\nstrict = true\n[publisher.acme]\naccept_stale = true\n"
        f'[publisher."{PID}"]\nquarantined = "pinned"\nallow_code = ["{"ab" * 32}"]\n'
    )
    policies = load_policies(Home(tmp_path))
    year = 365 * 24 * 3600
    assert policies.general == Terms(hard_max_s=year, strict=True)
    assert policies.of("other", "acme") == Terms(hard_max_s=year, strict=True, accept_stale=True)
    wanted = Terms(hard_max_s=year, strict=True, quarantined="pinned", allow_code=frozenset({"ab" * 32}))
    assert policies.of(PID, "acme") == wanted
    assert wanted.as_fields()["hard_max_days"] == 365


@pytest.mark.parametrize(
    "text",
    [
        "accept_stales = true", "accept_stale = 1", "hard_max_days = 0", "hard_max_days = 1.5", "hard_max_days = true",
        "hard_max_days = 99999", 'quarantined = "ok"', 'revoked_ancestor = "allow"', f'allow_code = ["{"ab" * 32}"]',
        "revoked = true", "[publisher]\nacme = 1", "[publisher.ACME]\n", '[publisher.acme]\nallow_code = ["ab"]',
        "[publisher.acme]\nallow_code = true", "publisher = 3", "accept_stale = true\naccept_stale = false", "[", "\0",
        "a = " + "[" * 100_000,
    ],
)  # fmt: skip
def test_a_mistake_is_refused_whole(tmp_path: Path, text: str) -> None:
    """A policy that cannot be read in full counts for nothing: the error says which key and which file."""
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(MalformedError) as caught:
        load_policies(Home(tmp_path))
    assert caught.value.rule == "policy"
    assert "policy.toml" in str(caught.value)


def test_files_are_bounded_and_read_errors_are_said(tmp_path: Path) -> None:
    """A folder, a huge file and bytes that are no text are refusals, not crashes."""
    path = tmp_path / "policy.toml"
    path.write_bytes(b"#" * 300_000)
    with pytest.raises(MalformedError, match="too large"):
        load_policies(Home(tmp_path))
    path.write_bytes(b"\xff")
    with pytest.raises(MalformedError, match="UTF-8"):
        load_policies(Home(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(MalformedError, match="not a regular file"):
        load_policies(Home(tmp_path))


def test_witnesses_come_from_the_tlog_policy(tmp_path: Path) -> None:
    """The file is C2SP's; an error names the file and the line."""
    key = "wit.example/w1+bfcce4ce+BPIJG3kHEImxsANVkG7KuXhoJnG1c5Dum8BjuVeWtclO"
    (tmp_path / "policy").write_text(f"witness w1 {key}\nquorum w1\n")
    assert [witness.name for witness in load_witnesses(Home(tmp_path)).witnesses] == [b"w1"]
    (tmp_path / "policy").write_text(f"witness w1 {key}\nquorum w2\n")
    with pytest.raises(MalformedError, match="line 2"):
        load_witnesses(Home(tmp_path))
