"""Main path 4: a reference → files that any runtime may open, because they passed the gate.

    with modelnet.verified("acme/tiny-llama") as model:
        load_file(model / "model.safetensors")

The release passes the gate; every file is hashed against its signed chunk list and its content looked at; only then is
there a path. The folder that `model` stands for holds links to descriptors of this process (`/proc/<pid>/fd/N`), each
at the strongest level of the ladder that applies (`modelnet.loaders.levels`): `model.level` is the weakest of them.
Nobody can change what a sealed file holds, and renaming or replacing the files in the store changes nothing here. The
links are only as safe as this user's other processes are honest; `model.file(path).path` is a path without any.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

from modelnet import __version__
from modelnet.content import Finding, Severity, check_release, refuse
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.release import Release
from modelnet.errors import UnavailableError, UsageError
from modelnet.gate import Knowledge
from modelnet.loaders import sealed
from modelnet.loaders._trusted import Trusted, matches, parse_target, trust
from modelnet.loaders.levels import Level
from modelnet.loaders.reading import OneByOne, VerifiedReader, new_pool
from modelnet.loaders.securing import SEAL_LIMIT, Secured, has_descriptor_paths, private_copy, secure
from modelnet.loaders.verdicts import Verdicts
from modelnet.policies import Policies
from modelnet.stores.local import LocalStore

__all__ = ["VerifiedModel", "as_level", "is_verified", "verified"]

DESCRIPTOR = "/proc/self/fd/"
MAX_HELD = 256  # descriptors of one model; 1,024 is what a process may usually have
SPARE = 64  # descriptors that are left for the store, the check itself and the runtime


def verified(
    ref: str,
    policy: Policies | None = None,
    pull: bool = True,  # noqa: FBT001, FBT002  (the documented signature)
    *,
    only: str | Sequence[str] = (),
    level: Level | str | None = None,
    peers: Sequence[str] = (),
    home: str | os.PathLike[str] | None = None,
) -> VerifiedModel:
    """Return the release `ref` as a folder of verified files, for a `with` block.

    `ref` is a locator or `publisher/name[@version]`, with or without `modelnet:` before it and `#file` after it.
    `policy` stands for what `policy.toml` in the store says; nothing else lets code through. With `pull` what is
    missing is fetched, from `peers` or those that are known; without, what is here is used offline and
    `model.knowledge` says how old what is known about it is. `only` is a glob, or several, and keeps files that match
    one. `level` asks for one level of the ladder instead of the strongest that applies.

    Raises `TrustError` (not signed, not let through by the gate, content that would run code), `IntegrityError` naming
    file, tensor, offset and source at the first difference, `UnavailableError`; and then nothing was handed out.
    """
    target = parse_target(ref)
    globs = [*([only] if isinstance(only, str) else only), *([target.file] if target.file else [])]
    trusted = trust(target.reference, home=home, policy=policy, pull=pull, peers=peers, only=globs)
    return VerifiedModel(trusted, only=globs, level=as_level(level))


_open: weakref.WeakSet[VerifiedModel] = weakref.WeakSet()


def is_verified(path: str) -> bool:
    """Tell whether `path` leads to a file of a model that is open in this process: it was verified already."""
    models = [model for model in list(_open) if model.is_open]
    if path.startswith(DESCRIPTOR):
        return any(path == one.path for model in models for one in model.held)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (links are what these folders hold)
    return any(absolute.is_relative_to(model.path) for model in models)


def as_level(level: Level | str | None) -> Level | None:
    """Return the level that `level` names; raise `UsageError` for one that a folder cannot have."""
    if isinstance(level, str):
        try:
            level = Level[level.upper()]
        except KeyError:
            known = ", ".join(one.label for one in Level if one is not Level.BYTES)
            raise UsageError(f"no such level: {level!r}", rule="level", hint=f"levels: {known}") from None
    if level is not None and not isinstance(level, Level):
        raise UsageError("a level is named", rule="level", wanted="a Level or its name", got=repr(level)[:80])
    if level is Level.BYTES:
        raise UsageError(
            "files with a path cannot be at level bytes", rule="level", hint="use modelnet.loaders.safetensors"
        )
    return level


class VerifiedModel(os.PathLike[str]):
    """The files of a release, verified and held until the `with` block ends; stands for the folder they are in.

    `model / "config.json"` is a path; `levels` says for each file how sure it is, `findings` what the content check
    had to say, `warnings` what the gate had, `knowledge` how old what is known about revocations is.
    """

    def __init__(self, trusted: Trusted, *, only: Sequence[str] = (), level: Level | None = None) -> None:
        """Verify every file of `trusted` that `only` keeps; use `verified` to make one."""
        self.release: Release = trusted.release
        self.manifest: Manifest = trusted.manifest
        self.knowledge: Knowledge = trusted.knowledge
        self.warnings: tuple[str, ...] = trusted.warnings
        self.source: Path = trusted.base
        self.files: tuple[FileEntry, ...] = _chosen(trusted, only)
        self.findings: tuple[Finding, ...] = ()
        self._secured: dict[str, Secured] = {}
        self._folder: Path | None = None
        self._finish = weakref.finalize(self, _clean, os.getpid(), self._secured, None)
        try:
            self._open(trusted, level)
        except BaseException:
            self.close()
            raise
        finally:
            trusted.store.index.close()

    def _open(self, trusted: Trusted, level: Level | None) -> None:
        verdicts = Verdicts(trusted.store.home.root / "verdicts.sqlite")
        held = sorted(self.files, key=lambda entry: -entry.size)[: _room()] if level is not Level.COPY else []
        if held and not has_descriptor_paths():
            if level is not None:
                raise UnavailableError("this system gives descriptors no paths", rule="level", wanted=level.label)
            held = []
        with new_pool() as pool:
            room = sealed.room()
            for entry in held:
                sealable = min(SEAL_LIMIT, room)
                one = secure(
                    trusted.base, entry, partial(trusted.store.tree, entry), level=level, verdicts=verdicts, pool=pool,
                    may_change=trusted.layout == "store", sealable=sealable, room=room,
                )  # fmt: skip
                self._secured[entry.path] = one
                room -= entry.size if one.level is Level.SEALED else 0
        copied = [entry for entry in self.files if entry.path not in self._secured]
        self._make_folder(trusted)
        self.findings = tuple(self._look(trusted, copied, verdicts))
        refuse(self.findings, allowed=trusted.terms.allow_code, manifest=self.manifest)

    def _look(self, trusted: Trusted, copied: Sequence[FileEntry], verdicts: Verdicts) -> Iterator[Finding]:
        """Yield what the content check has to say; what it said about a file with a cached verdict is cached too."""
        looked: list[str] = []
        for path, one in self._secured.items():
            judged = self._judged(path)
            known = verdicts.findings(one.handle, one.entry.cid, judged) if one.level is Level.CACHED else None
            if known is None:
                looked.append(path)
            else:
                yield from (Finding(rule, Severity(kind), path, at, detail) for rule, kind, at, detail in known)
        looked += [entry.path for entry in copied]
        with contextlib.closing(OneByOne(looked, partial(self._reader, trusted.store))) as readers:
            found = check_release(readers, self.manifest, resolve=trusted.resolve)
        yield from found
        for path in looked:
            if path in self._secured and self._secured[path].level in (Level.HELD, Level.CACHED):
                told = [(one.rule, str(one.severity), one.offset, one.detail) for one in found if one.path == path]
                one = self._secured[path]
                verdicts.judge(one.handle, one.entry.cid, self._judged(path), told)

    def _reader(self, store: LocalStore, path: str) -> VerifiedReader:
        try:
            if (one := self._secured.get(path)) is not None:
                return one.reader()
            handle = os.open(self.path / path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=path) from error
        return VerifiedReader(handle, store.tree(self._entry(path)), source=str(self.source))

    def _judged(self, path: str) -> str:
        """Return what a cached finding depends on beside the content: the rules of this version, release and name."""
        return f"{__version__} {self.release.manifest} {path}"

    def _make_folder(self, trusted: Trusted) -> None:
        """Lay out the folder: links to the held files, and copies of those that cannot be held."""
        folder = Path(tempfile.mkdtemp(prefix="modelnet-", dir=_memory_folder()))
        self._folder = folder
        _open.add(self)
        self._finish.detach()
        self._finish = weakref.finalize(self, _clean, os.getpid(), self._secured, folder)
        for entry in self.files:
            target = folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.path in self._secured:
                target.symlink_to(self._secured[entry.path].shared_path)
            else:
                private_copy(trusted.base, trusted.store.tree(entry), target)
        for base, _, _ in os.walk(folder):
            os.chmod(base, 0o500)  # noqa: PTH101

    @property
    def held(self) -> tuple[Secured, ...]:
        """The files that are held by a descriptor."""
        return tuple(self._secured.values())

    @property
    def is_open(self) -> bool:
        """Whether the folder is still there."""
        return self._folder is not None

    @property
    def path(self) -> Path:
        """The folder; gone when the `with` block ends."""
        if self._folder is None:
            raise ValueError("the verified model is closed")
        return self._folder

    @property
    def levels(self) -> Mapping[str, Level]:
        """For each file its level of the ladder."""
        return {
            entry.path: self._secured[entry.path].level if entry.path in self._secured else Level.COPY
            for entry in self.files
        }

    @property
    def level(self) -> Level:
        """The weakest level among the files."""
        return max(self.levels.values())

    def file(self, path: str) -> Secured:
        """Return one held file: its descriptor, its level and a path `/proc/self/fd/N` without any folder."""
        if (found := self._secured.get(path)) is None:
            raise UsageError("the model holds no such file", rule="only", path=path)
        return found

    def __truediv__(self, path: str | os.PathLike[str]) -> Path:
        name = path if isinstance(path, str) else PurePath(path).as_posix()
        return self.path / self._entry(name).path

    def _entry(self, path: str) -> FileEntry:
        for entry in self.files:
            if entry.path == path:
                return entry
        raise UsageError(
            "the release has no such file", rule="only", path=path,
            hint="its files: " + ", ".join(entry.path for entry in self.files[:8]),
        )  # fmt: skip

    def __fspath__(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Path]:
        return (self.path / entry.path for entry in self.files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files and remove the folder; what has them open keeps them."""
        self._finish()
        self._folder = None

    def __repr__(self) -> str:
        return f"<verified {self.manifest.name}@{self.manifest.version}: {len(self.files)} files, {self.level.label}>"


def _chosen(trusted: Trusted, only: Sequence[str]) -> tuple[FileEntry, ...]:
    chosen = [entry for entry in trusted.manifest.files if matches(entry.path, only)]
    if not chosen:
        trusted.entry(", ".join(only))  # says which files there are
    return tuple(chosen)


def _room() -> int:
    """Return how many files may be held by a descriptor each: others of this process want some too."""
    if not has_descriptor_paths():
        return MAX_HELD
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_HELD
    return max(0, min(MAX_HELD, limit - len(os.listdir(DESCRIPTOR)) - SPARE))  # noqa: PTH208


def _memory_folder() -> str | None:
    """Return a folder that no disk stands behind, where the system has one."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):  # noqa: S108  (0700 inside it, by mkdtemp)
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def _clean(owner: int, secured: dict[str, Secured], folder: Path | None) -> None:
    while secured:
        secured.popitem()[1].close()
    if folder is None or os.getpid() != owner:  # a forked child has copies of the descriptors, not of the folder
        return
    for base, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(base, 0o700)  # noqa: PTH101
    shutil.rmtree(folder, ignore_errors=True)
