"""What loaders accept where a library has a file name: a reference, or the path of a file that is signed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from modelnet.content import check_release, refuse
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.errors import MalformedError, UsageError
from modelnet.formats import ByteSource, sniff
from modelnet.gate import Knowledge
from modelnet.loaders._trusted import PREFIX, Trusted, find_path, parse_target, trust, unsigned
from modelnet.loaders.levels import Level
from modelnet.loaders.reading import VerifiedReader, memory_of, new_pool
from modelnet.loaders.securing import open_signed
from modelnet.loading import VerifiedModel, as_level
from modelnet.policies import Policies, Terms

__all__ = ["Held", "Opened", "check_format", "hold", "open_entry", "open_file", "read_whole", "trust_file"]

T = TypeVar("T")
_KEPT: list[VerifiedModel] = []  # until the process ends
SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")  # llama.cpp's own naming


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
    sparse: bool = False,
) -> tuple[Trusted, FileEntry]:
    """Return the release and the entry of the file that `name` means; with `sparse`, also one that is here in part.

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
    only = [target.file] if target.file else []
    trusted = trust(target.reference, home=home, policy=policy, only=only, sparse=sparse)
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
    sparse: bool = True,
) -> Opened:
    """Open the file that `name` means for verified reading; the caller closes the reader.

    Unless `sparse` is false, a file of which only some tensors are here is opened too; reading the others is refused.
    """
    return open_entry(*trust_file(name, suffixes=suffixes, home=home, policy=policy, sparse=sparse))


def open_entry(trusted: Trusted, entry: FileEntry) -> Opened:
    """Open one file of a release that passed the gate."""
    tree = trusted.store.tree(entry)
    trusted.store.index.close()
    handle = open_signed(trusted.base, tree.entry)
    reader = VerifiedReader(handle, tree, source=str(trusted.base), holes=trusted.layout == "part")
    return Opened(reader, trusted.manifest, trusted.terms, trusted.knowledge)


@dataclass(slots=True)
class Held:
    """One file at a level of the ladder; `path` may be opened by any library of this process."""

    path: str
    level: Level
    model: VerifiedModel
    kept: bool = False

    def keep(self, owner: T) -> T:
        """Hold the file for as long as `owner` lives: it may open the path again, which must not mean another file."""
        try:
            if vars(owner).setdefault("_modelnet_held", self.model) is not self.model:
                vars(owner).setdefault("_modelnet_beside", []).append(self.model)  # an adapter, a draft, a projector
        except TypeError:  # an extension type takes no attribute, and says to nobody when it goes
            _KEPT.append(self.model)
        self.kept = True
        return owner


@contextmanager
def hold(
    name: str | os.PathLike[str],
    suffixes: tuple[str, ...],
    *,
    level: Level | str | None = None,
    home: str | os.PathLike[str] | None = None,
    policy: Policies | None = None,
    formats: Collection[str] = (),
) -> Iterator[Held]:
    """Give the verified file that `name` means, with the other parts when it is the first of a split GGUF.

    What has the path open, or mapped, when the block ends keeps the file; what may open it later has to `keep` it.
    Raises `MalformedError` (rule `format`) for a file of none of `formats`, before a library meets it.
    """
    trusted, entry = trust_file(name, suffixes=suffixes, home=home, policy=policy)
    parts = _parts(trusted, entry.path)
    model = VerifiedModel(trusted, only=parts, level=as_level(level))
    alone = len(parts) == 1 and model.level is not Level.COPY
    try:
        for part in parts if formats else ():
            with contextlib.closing(open_entry(trusted, trusted.entry(part)).reader) as reader:
                check_format(reader, part, formats)
    except BaseException:
        model.close()
        raise
    held = Held(model.file(entry.path).path if alone else str(model / entry.path), model.level, model)
    try:
        yield held
    finally:
        if not held.kept:
            model.close()


def check_format(source: ByteSource, path: str, formats: Collection[str]) -> None:
    """Raise `MalformedError` for content that is of none of `formats`."""
    kind = sniff(source)
    if kind not in formats:
        raise MalformedError(
            "a file of another format than this loader reads", rule="format", path=path, wanted=" or ".join(formats),
            got=kind or "no format that is known",
        )  # fmt: skip


def _parts(trusted: Trusted, path: str) -> list[str]:
    found = SPLIT.fullmatch(path)
    if found is None:
        return [path]
    parts = [f"{found['stem']}-{part:05}-of-{found['count']}.gguf" for part in range(1, int(found["count"]) + 1)]
    return [trusted.entry(part).path for part in parts]


def read_whole(trusted: Trusted, entries: Sequence[FileEntry]) -> dict[str, memoryview]:
    """Return the content of files by path, the very bytes that were hashed, once the gate has looked at them."""
    content: dict[str, memoryview] = {}
    trees = [(entry, trusted.store.tree(entry)) for entry in entries]
    trusted.store.index.close()
    with new_pool() as pool:
        for entry, tree in trees:
            reader = VerifiedReader(open_signed(trusted.base, tree.entry), tree, source=str(trusted.base))
            try:
                view = memoryview(memory_of(entry.size))
                reader.read_into(0, view, pool)
            finally:
                reader.close()
            content[entry.path] = view
    findings = check_release(
        {path: MemorySource(view) for path, view in content.items()}, trusted.manifest, resolve=trusted.resolve
    )
    refuse(findings, allowed=trusted.terms.allow_code, manifest=trusted.manifest)
    return content


@dataclass(frozen=True, slots=True)
class MemorySource:
    """A `ByteSource` over memory that is not copied."""

    view: memoryview

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.view)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""
        if offset < 0 or length < 0 or offset + length > len(self.view):
            raise MalformedError(
                "the file ends too early", rule="truncated", offset=offset, wanted=f"{length} bytes", got=self.size
            )
        return bytes(self.view[offset : offset + length])
