"""Where modelnet keeps its state: `$MODELNET_HOME`, else the platform's folder for user data.

keys/                                  private keys (0600)
index.sqlite                           the index (WAL)
models/<publisher>/<name>/<version>/   pulled files, 0444: this is the store
logs/<publisher>/<epoch>/              replicas of publishers' logs, C2SP tiles; our own too
logs/<publisher>/negatives, evidence   signed statements that count without a log
partial/<manifest>/                    pulls that are going on; files at their final size
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from modelnet.arguments import given_path
from modelnet.core.cid import Cid

__all__ = ["Home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The folders and files of one store."""

    root: Path

    @classmethod
    def find(cls, home: Path | str | None = None) -> Self:
        """Return `home`, or what `$MODELNET_HOME` says, or the platform's default."""
        if home is not None:
            return cls(given_path(home, "home").expanduser().absolute())
        if chosen := os.environ.get("MODELNET_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        if sys.platform == "darwin":
            return cls(Path.home() / "Library" / "Application Support" / "modelnet")
        if sys.platform == "win32":
            return cls(Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "modelnet")
        return cls(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "modelnet")

    def holds(self, path: Path) -> bool:
        """Tell whether `path` is in the home or is it, whatever links lead there."""
        return path.resolve().is_relative_to(self.root.resolve())

    @property
    def index(self) -> Path:
        """The SQLite index."""
        return self.root / "index.sqlite"

    @property
    def keys(self) -> Path:
        """The folder of private keys."""
        return self.root / "keys"

    @property
    def models(self) -> Path:
        """The folder that pulled releases are laid out in."""
        return self.root / "models"

    @property
    def logs(self) -> Path:
        """The folder of log replicas."""
        return self.root / "logs"

    def log(self, pid: str, epoch: int = 0) -> Path:
        """Return the folder of one publisher's log as it is after `epoch` recoveries."""
        return self.logs / pid / str(epoch)

    def release(self, pid: str, name: str, version: str) -> Path:
        """Return the folder of one pulled release; `+` stands for `/`, which no name holds otherwise."""
        return self.models / pid / name.replace("/", "+") / version

    def partial(self, manifest: Cid) -> Path:
        """Return the folder that the pull of `manifest` writes into."""
        return self.root / "partial" / str(manifest)
