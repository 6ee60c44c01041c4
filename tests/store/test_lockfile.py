"""The lock file: it comes back as written, it refuses what it cannot pin, and mistakes in it are said."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet.core.names import Floor, Locator, parse_reference
from modelnet.errors import MalformedError, UnavailableError, UsageError
from modelnet.lockfile import Lock

PID = "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
ONE = Locator.of(PID, "tiny", "1.0", "ab" * 32, Floor(5, bytes(32)))
TWO = Locator.of(PID, "tiny", "2.0", "cd" * 32)


def test_what_is_locked_comes_back(tmp_path: Path) -> None:
    """Names are kept side by side; a locked one gives its version, bytes and floor."""
    path = tmp_path / "modelnet.lock"
    Lock.load(path).save(parse_reference("acme/tiny"), ONE)
    Lock.load(path).save(parse_reference(f"{PID}/tiny"), TWO)
    Lock.load(path).save(parse_reference(f"{PID}/tiny@2.0"), TWO)
    lock = Lock.load(path)
    assert lock.find(parse_reference("acme/tiny")) == parse_reference(str(ONE))
    assert lock.find(parse_reference("acme/tiny@1.0")) == parse_reference(str(ONE))
    assert lock.find(parse_reference(f"{PID}/tiny")) == parse_reference(str(TWO))
    assert lock.find(parse_reference("acme/other")) is None
    for other in ("acme/tiny@2.0", "acme/tiny@latest", f"modelnet:{PID}/tiny@2.0?m={'ab' * 32}"):
        with pytest.raises(UsageError, match="locked to another"):
            lock.find(parse_reference(other))


@pytest.mark.parametrize(
    "text",
    [
        "[[release]]", "release = 3", "release = [3]", '[[release]]\nname = "acme/tiny"',
        f'[[release]]\nname = "acme/tiny"\nlocator = "modelnet:{PID}/tiny@1"',
        f'[[release]]\nname = "acme/tiny@1"\nlocator = "{TWO}"', f'[[release]]\nname = "acme/big"\nlocator = "{TWO}"',
        f'[[release]]\nname = "acme/tiny"\nlocator = "{TWO}"\nmore = 1', "[[release]]\nname = 1\nlocator = 2",
        "[", "\0",
    ],
)  # fmt: skip
def test_a_broken_lock_locks_nothing_quietly(tmp_path: Path, text: str) -> None:
    """What cannot be read in full is an error with the file's name, never an unlocked pull."""
    path = tmp_path / "modelnet.lock"
    path.write_text(text)
    with pytest.raises(MalformedError, match="not a lock file") as caught:
        Lock.load(path)
    assert caught.value.path == str(path)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A folder in the place of the file, bytes that are no text, a huge file, a folder that is not there."""
    with pytest.raises(UnavailableError):
        Lock.load(tmp_path)
    path = tmp_path / "modelnet.lock"
    path.write_bytes(b"\xff")
    with pytest.raises(MalformedError):
        Lock.load(path)
    path.write_bytes(b"#" * 1_100_000)
    with pytest.raises(MalformedError, match="too large"):
        Lock.load(path)
    with pytest.raises(UnavailableError, match="cannot write"):
        Lock.load(tmp_path / "no" / "modelnet.lock").save(parse_reference("acme/tiny"), ONE)
