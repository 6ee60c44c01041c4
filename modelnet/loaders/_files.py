"""What loaders accept where a library has a file name: a reference, or the path of a file that is signed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from modelnet.core.manifest import FileEntry, Manifest
from modelnet.errors import UsageError
from modelnet.loaders._trusted import PREFIX, Trusted, find_path, parse_target, trust, unsigned
from modelnet.loaders.reading import VerifiedReader
from modelnet.loaders.securing import open_signed
from modelnet.policies import Policies, Terms
from modelnet.puller import Knowledge

__all__ = ["Opened", "open_file", "trust_file"]


@dataclass(frozen=True, slots=True)
class Opened:
    """One file of a release that passed the gate, opened for verified reading."""

    reader: VerifiedReader
    manifest: Manifest
    terms: Terms
    knowledge: Knowledge = field(default_factory=Knowledge)


def trust_file(
    name: str | os.PathLike[str],
    *,
    suffixes: tuple[str, ...] = (),
    home: str | os.PathLike[str] | None = None,
    policy: Policies | None = None,
) -> tuple[Trusted, FileEntry]:
    """Return the release and the entry of the file that `name` means.

    `name` is a reference with `#file`, a reference of a release with one file of `suffixes`, or a path inside the
    folder of a release. Raises `TrustError` (rule `unsigned`) for a path that belongs to none.
    """
    text = os.fspath(name)
    if not isinstance(name, str) or (not text.startswith(PREFIX) and Path(text).exists()):
        found = find_path(text, home=home, policy=policy)
        if found is None or not found[1]:
            raise unsigned(text)
        return found[0], found[0].entry(found[1])
    target = parse_target(text)
    trusted = trust(target.reference, home=home, policy=policy, only=[target.file] if target.file else [])
    if target.file is not None:
        return trusted, trusted.entry(target.file)
    fitting = [entry for entry in trusted.manifest.files if entry.path.endswith(suffixes)]
    if len(fitting) != 1:
        raise UsageError(
            f"the release has {len(fitting)} files for this loader", rule="only", path=text,
            hint="choose one with #file: " + ", ".join(entry.path for entry in (fitting or trusted.manifest.files)[:8]),
        )  # fmt: skip
    return trusted, fitting[0]


def open_file(
    name: str | os.PathLike[str],
    *,
    suffixes: tuple[str, ...] = (".safetensors",),
    home: str | os.PathLike[str] | None = None,
    policy: Policies | None = None,
) -> Opened:
    """Open the file that `name` means for verified reading; the caller closes the reader."""
    trusted, entry = trust_file(name, suffixes=suffixes, home=home, policy=policy)
    tree = trusted.store.tree(entry)
    reader = VerifiedReader(open_signed(trusted.base, tree), tree, source=str(trusted.base))
    return Opened(reader, trusted.manifest, trusted.terms, trusted.knowledge)
