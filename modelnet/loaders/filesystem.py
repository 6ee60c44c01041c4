"""`modelnet://` for fsspec: the files of releases, every byte that is read checked first.

    fsspec.open("modelnet://acme/tiny@1.0/config.json")
    fsspec.filesystem("modelnet").cat_file("acme/tiny@1.0/model.safetensors", start=0, end=8)

A path is `publisher/name@version/file`; without a version the name is the shortest that is known here. Ranges are read
chunk by chunk; a file that is not here is fetched from the known peers when it is first opened. Read only. Level:
`bytes`.
The content check is made when a file is opened, as for every loader.
"""

from __future__ import annotations

import io
import re
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem

from modelnet.content import check_release, refuse
from modelnet.core.identity import PID
from modelnet.errors import ModelnetError, UsageError
from modelnet.loaders._files import open_entry, trust_file
from modelnet.loaders._trusted import PREFIX, Trusted, trust
from modelnet.loaders.reading import VerifiedReader
from modelnet.policies import Policies

__all__ = ["ModelnetFileSystem"]

PATH = re.compile(r"(?P<release>[^/]+/[^@]+@[^/]+)(?:/(?P<file>.+))?")


class VerifiedFile(io.RawIOBase):
    """A verified reader as a seekable file."""

    def __init__(self, reader: VerifiedReader) -> None:
        """Own `reader`."""
        self._reader = reader
        self._position = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._reader.size

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can seek."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset`."""
        self._position = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with verified bytes as far as there are any."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._position))
        self._reader.read_into(self._position, view[:count])
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._reader.close()
        super().close()


class ModelnetFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Releases as folders, read only."""

    protocol: ClassVar[str] = "modelnet"
    root_marker: ClassVar[str] = ""
    cachable: ClassVar[bool] = False  # the store knows what changed; an instance costs nothing

    def __init__(self, *, home: str | None = None, policy: Policies | None = None, **options: Any) -> None:
        """Read from the store in `home`, else the default one, under `policy`, else the operator's."""
        super().__init__(**options)
        self._home, self._policy = home, policy

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002  (fsspec's signature)
        """List the files and folders at `path`."""
        release, inside, trusted = self._trusted(path)
        found: dict[str, dict[str, Any]] = {}
        for entry in trusted.manifest.files:
            if inside and entry.path != inside and not entry.path.startswith(f"{inside}/"):
                continue
            if entry.path == inside:
                name, size, kind = inside, entry.size, "file"
            else:
                rest = entry.path.removeprefix(f"{inside}/" if inside else "")
                first, slash, _tail = rest.partition("/")
                name = f"{inside}/{first}" if inside else first
                size, kind = (0, "directory") if slash else (entry.size, "file")
            found[name] = {"name": f"{release}/{name}", "size": size, "type": kind}
            if kind == "file":
                found[name] |= {"blake3": entry.blake3.hex(), "sha256": entry.sha256.hex()}
        if not found:
            raise FileNotFoundError(path)
        listed = sorted(found.values(), key=lambda one: str(one["name"]))
        return listed if detail else [one["name"] for one in listed]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size, type and digests of what is at `path`."""
        release, inside, _trusted = self._trusted(path)
        if not inside:
            return {"name": release, "size": 0, "type": "directory"}
        listed: list[dict[str, Any]] = self.ls(path)
        if listed[0]["name"] == f"{release}/{inside}" and listed[0]["type"] == "file":
            return listed[0]
        return {"name": f"{release}/{inside}", "size": 0, "type": "directory"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes `[start, end)`: only the chunks they lie in are read."""
        with self._raw(path) as file:
            first, last, _step = slice(start, end).indices(file.size)
            file.seek(first)
            return file.read(max(0, last - first)) or b""

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise UsageError("releases are read only", rule="mode", wanted="rb", got=mode)
        return io.BufferedReader(self._raw(path))

    def _raw(self, path: str) -> VerifiedFile:
        release, inside = self._parts(path)
        name = f"{_reference(release)}#{inside}"
        trusted, entry = trust_file(name, home=self._home, policy=self._policy, sparse=True)
        opened = open_entry(trusted, entry)
        try:
            findings = check_release({inside: opened.reader}, opened.manifest, resolve=trusted.resolve)
            refuse(findings, allowed=opened.terms.allow_code, manifest=opened.manifest)
        except BaseException:
            opened.reader.close()
            raise
        return VerifiedFile(opened.reader)

    def _parts(self, path: str) -> tuple[str, str]:
        stripped = self._strip_protocol(path)
        if (found := PATH.fullmatch(stripped)) is not None:
            return found["release"], found["file"] or ""
        publisher, *parts = stripped.split("/")
        if not publisher or not parts or not all(parts):
            raise FileNotFoundError(path)
        # Without a version nothing says where the name ends: the shortest that is known here, else one part.
        for count in range(1, len(parts) + 1):
            release = "/".join([publisher, *parts[:count]])
            if self._is_known(release):
                return release, "/".join(parts[count:])
        return f"{publisher}/{parts[0]}", "/".join(parts[1:])

    def _is_known(self, release: str) -> bool:
        try:
            trusted = trust(_reference(release), home=self._home, policy=self._policy, pull=False, sparse=True)
        except UsageError:
            return False
        except ModelnetError as error:
            return error.rule != "missing"  # what is refused is known too, and the caller hears why
        trusted.store.index.close()
        return True

    def _trusted(self, path: str) -> tuple[str, str, Trusted]:
        release, inside = self._parts(path)
        trusted = trust(_reference(release), home=self._home, policy=self._policy, only=[inside] if inside else [])
        trusted.store.index.close()
        return release, inside, trusted


def _reference(release: str) -> str:
    return f"{PREFIX}{release}" if PID.match(release) else release
