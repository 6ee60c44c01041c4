"""What a publisher wrote is shown, not obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelnet
from modelnet_cli.main import run


def test_a_description_cannot_drive_the_terminal(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and line ends in free text are spelled out by `show`."""
    modelnet.init(alias="acme", home=home)
    source = tmp_path / "file"
    source.write_bytes(b"weights")
    modelnet.publish(source, name="m", version="1", metadata={"description": "a\x1b[31m\nforged  line"}, home=home)

    assert run(["show", "acme/m"]) == 0
    shown = capsys.readouterr().out
    assert "a\\x1b[31m\\nforged  line" in shown
    assert "\x1b" not in shown
