"""Referees in Go: golang.org/x/mod judges our notes and proofs, as Go judges its own checksum database.

judge = build()              or skip with the reason; the binary is kept in .cache/engines
judge.open(note, keys)       the text, or `Refused`
judge.record(…), judge.tree(…)
build_tessera()              Tessera's fsck, for a log in a folder that is served over HTTP
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Referee", "Refused", "build", "build_program", "build_tessera"]

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / ".cache" / "engines"
_BUILD_LIMIT_S = 300.0  # 5 s with the module at hand
_RUN_LIMIT_S = 60.0


class Refused(Exception):  # noqa: N818
    """Go says no; the text is its reason."""


@dataclass(frozen=True)
class Referee:
    """The built program."""

    binary: Path

    def open(self, note: bytes, keys: Sequence[str]) -> str:
        """Return the text that `note.Open` gives for these verifier keys."""
        return self._ask(Kind="open", Note=note.decode(), Keys=list(keys))

    def record(self, index: int, size: int, leaf: bytes, root: bytes, proof: Sequence[bytes]) -> None:
        """Return when `tlog.CheckRecord` accepts the inclusion proof."""
        self._ask(
            Kind="record", Proof=_base64(*proof), Size=size, Root=_base64(root)[0], Index=index, Leaf=_base64(leaf)[0]
        )

    def tree(self, before: int, after: int, old: bytes, new: bytes, proof: Sequence[bytes]) -> None:
        """Return when `tlog.CheckTree` accepts the consistency proof."""
        self._ask(
            Kind="tree", Proof=_base64(*proof), Size=after, Root=_base64(new)[0], Index=before, Leaf=_base64(old)[0]
        )

    def _ask(self, **request: object) -> str:
        line = json.dumps(request).encode() + b"\n"
        ran = subprocess.run([self.binary], input=line, capture_output=True, check=True, timeout=_RUN_LIMIT_S)
        answer: str = json.loads(ran.stdout)
        if not answer.startswith("ok"):
            raise Refused(answer.removeprefix("no "))
        return answer.removeprefix("ok")


def build() -> Referee:
    """Return the referee, built from this folder if it was not before; skip the test where that cannot be."""
    return Referee(build_program(HERE, "referee", "."))


def build_tessera() -> Path:
    """Return Tessera's `fsck`, which checks a whole log over HTTP; skip the test where it cannot be built."""
    return build_program(HERE / "tessera", "tessera-fsck", "github.com/transparency-dev/tessera/cmd/fsck")


def build_program(folder: Path, name: str, package: str) -> Path:
    """Return the program of a Go module in `folder`, built once for each content of its files; else skip the test."""
    sources = sorted(path for path in folder.iterdir() if path.suffix in {".mod", ".sum", ".go"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    binary = ENGINES / f"{name}-{digest}"
    if os.access(binary, os.X_OK):
        return binary
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"{name} is not built: go is missing")
    ENGINES.mkdir(parents=True, exist_ok=True)
    made = ENGINES / f"{name}-{digest}.{os.getpid()}"
    # GOWORK=off: a workspace above this checkout must not change what is built.
    environment = {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    try:
        ran = subprocess.run(
            [go, "build", "-trimpath", "-o", made, package],
            check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=_BUILD_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"{name} is not built: go build took more than {_BUILD_LIMIT_S:.0f} s")
    if ran.returncode:
        pytest.skip(f"{name} is not built: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
    # The rename makes it appear whole, also to a test worker that looks at this moment.
    made.replace(binary)
    return binary


def _base64(*values: bytes) -> list[str]:
    return [base64.b64encode(value).decode() for value in values]
