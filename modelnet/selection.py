"""Which bytes of a release a pull is asked for: every file, files by name, or tensors by name.

    entries = select_files(manifest, ["*.safetensors"])
    chosen = select_tensors(trees, ["model.layers.0.*"], chunks)    # what each file then needs: chunk numbers

Tensors are found through the file's own header, read in verified chunks and no others. A file that was brought in part
has its full size; what was not asked for is a hole, which hashes to nothing that was signed: `verify` says how much is
absent, and a loader that meets it refuses.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modelnet.core.filetree import FileTree
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.variants import AUTO, Variant, choose, files_of
from modelnet.errors import MalformedError, UsageError
from modelnet.formats import READERS, onnx
from modelnet.formats.layout import Layout, Span, SpanKind, cover

__all__ = ["ChunkSource", "available_memory", "select_files", "select_tensors", "select_variant"]

SHOWN = 8  # names in an error
Chunks = Callable[[FileTree, Sequence[int]], Mapping[int, bytes]]
"""A file and chunk numbers → their verified bytes."""


@dataclass(frozen=True, slots=True)
class ChunkSource:
    """A `ByteSource` over a file that may be anywhere: its chunks are asked for when they are read."""

    tree: FileTree
    chunks: Chunks

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.tree.entry.size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""
        if offset < 0 or length < 0 or length > self.size - offset:
            raise MalformedError(
                "the file ends too early", rule="truncated", path=self.tree.entry.path, offset=offset,
                wanted=f"{length} bytes", got=self.size,
            )  # fmt: skip
        if not length:
            return b""
        indexes = range(self.tree.index_at(offset), self.tree.index_at(offset + length - 1) + 1)
        content = self.chunks(self.tree, indexes)
        begin = offset - self.tree.offsets[indexes[0]]
        return b"".join(content[index] for index in indexes)[begin : begin + length]


def select_variant(manifest: Manifest, wanted: str | None) -> Variant | None:
    """Return the variant that is asked for, None for all files; raises what `modelnet.core.variants.choose` raises."""
    if wanted is None:
        return None
    return choose(manifest.variants, wanted, available_memory() if wanted == AUTO else None)


def select_files(manifest: Manifest, only: Sequence[str], variant: Variant | None = None) -> list[FileEntry]:
    """Return the files of a variant (all without one) that match one of the globs `only` (all without any).

    Raises `UsageError` where that is none.
    """
    kept = set(files_of(variant, manifest.variants if variant else (), [entry.path for entry in manifest.files]))
    entries = [
        entry
        for entry in manifest.files
        if entry.path in kept and (not only or any(fnmatch.fnmatchcase(entry.path, glob) for glob in only))
    ]
    if not entries:
        raise UsageError(
            "no file of the release matches", rule="only", got=", ".join(only),
            hint="its files: " + ", ".join(entry.path for entry in manifest.files[:SHOWN]),
        )  # fmt: skip
    return entries


def available_memory() -> int | None:
    """Return how many bytes a model may take here: three quarters of what is free; None where that is not told."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024 * 3 // 4
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # what is free is not told
    except (OSError, ValueError, AttributeError):
        return None


def select_tensors(trees: Sequence[FileTree], globs: Sequence[str], chunks: Chunks) -> list[set[int] | None]:
    """Return for each file the chunks that hold its header and its tensors that match one of `globs`.

    None stands for a whole file: one without tensors, such as a configuration. A file with tensors of which none
    matches needs no chunk at all. Raises `UsageError` when nothing matches anywhere.
    """
    layouts = _layouts(trees, chunks)
    chosen: list[set[int] | None] = []
    names: list[str] = []
    found = False
    for tree, layout in zip(trees, layouts, strict=True):
        if layout is None or not layout.tensors:
            chosen.append(None)
            continue
        names += [span.name for span in layout.tensors]
        wanted = [span for span in layout.tensors if any(fnmatch.fnmatchcase(span.name, glob) for glob in globs)]
        if not wanted:
            chosen.append(set())
            continue
        found = True
        # What is no tensor is what a reader needs to make sense of the others.
        wanted += [span for span in layout.spans if span.kind is not SpanKind.TENSOR]
        chosen.append({index for span in wanted for index in _covering(tree, span)})
    if not found:
        raise UsageError(
            "no tensor of the release matches", rule="tensors", got=", ".join(globs),
            hint="its tensors: " + ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
            if names else "no file of it has tensors that can be told apart; choose files with --only",
        )  # fmt: skip
    return chosen


def _covering(tree: FileTree, span: Span) -> range:
    return range(tree.index_at(span.start), tree.index_at(span.end - 1) + 1)


def _layout(tree: FileTree, chunks: Chunks) -> Layout | None:
    """Return what a file's header says, if the publisher found a reader for it; nothing else is looked into."""
    reader = READERS.get(tree.entry.format or "")
    if reader is None:
        return None
    try:
        return reader(ChunkSource(tree, chunks))
    except MalformedError:
        return None


def _layouts(trees: Sequence[FileTree], chunks: Chunks) -> list[Layout | None]:
    """Return what each file holds: by its own header, else by that of the ONNX model that keeps its tensors there."""
    layouts = [_layout(tree, chunks) for tree in trees]
    places = {tree.entry.path: number for number, tree in enumerate(trees)}
    external: dict[int, list[Span]] = {}
    for tree in trees:
        if tree.entry.format != "onnx":
            continue
        try:
            located = onnx.external_spans(ChunkSource(tree, chunks))
        except MalformedError:
            continue
        folder = tree.entry.path.rpartition("/")[0]
        for location, spans in located.items():
            if (number := places.get(f"{folder}/{location}" if folder else location)) is not None:
                external.setdefault(number, []).extend(spans)
    for number, known in external.items():
        if layouts[number] is None:
            try:
                layouts[number] = Layout("onnx-data", cover(trees[number].entry.size, known))
            except MalformedError:
                continue  # the model is wrong about it: the file comes whole
    return layouts
