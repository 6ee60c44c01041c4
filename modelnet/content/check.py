"""The content part of the gate: what a file is, whatever it is called, and what loading it would do.

    check_content(source, "model.safetensors")        → findings of one file
    check_release({path: source, ...}, manifest)      → those of a release, and what its files need of each other

Nothing is executed or unpacked to disk, and everything is read in bounded pieces. A finding of severity `block`
refuses the file unless the operator's policy lists its SHA-256 under `allow_code`; see `refuse`.

Rules: `pickle`, `pickle-weights`, `torchscript`, `archive`, `zip-bomb`, `hdf5`, `keras`, `native-code`, `source-code`,
`polyglot`, `format`, `header`, `json`, `template`, `template-code`, `auto-map`, `preset`, `external-data`,
`base-model`, `path`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from modelnet.content import archives, templates
from modelnet.content.finding import Finding, Severity
from modelnet.content.kinds import COMPRESSED, PROGRAMS, is_hdf5, kind_of
from modelnet.content.pickles import is_code
from modelnet.content.sources import named_code
from modelnet.core.cid import Cid
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.errors import MalformedError, TrustError
from modelnet.formats import READERS, onnx, sniff
from modelnet.formats.layout import ByteSource

__all__ = ["check_content", "check_release", "refuse"]

# What a runtime will parse a file as because of its name.
EXPECTED = {
    ".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx", ".tflite": "tflite", ".litertlm": None,
}  # fmt: skip
PEEK = 512

Resolve = Callable[[str], Cid | None]


def check_content(source: ByteSource, path: str) -> list[Finding]:
    """Return what is to be said about one file; `path` is its name in the release.

    Raises only what reading `source` raises.
    """
    if not source.size:
        return []
    suffix = PurePosixPath(path).suffix.lower()
    found = [*_by_name(path, source.read(0, min(PEEK, source.size)))]
    # First of all: a file may be a pickle and have the magic of something else.
    if is_code(source):
        return [*found, _block("pickle", path, 0, f"a pickle, which runs code when it is loaded{_named(suffix)}")]
    kind = kind_of(source)
    found += _by_kind(source, path, kind)
    wanted = EXPECTED.get(suffix)
    if kind in READERS and kind != wanted and is_hdf5(source):
        found.append(_block("hdf5", path, None, f"{kind} that is HDF5 too"))
    if kind == "tflite" and archives.is_zip_at_the_end(source):
        found += archives.check_appended_zip(source, path)
    elif kind not in ("zip", "torch-zip") and archives.is_zip_at_the_end(source):
        found.append(_block("polyglot", path, None, f"{kind or 'a file'} that ends as a zip, which some readers open"))
    if wanted is not None and kind != wanted and not any(one.severity is Severity.BLOCK for one in found):
        found.append(_block("format", path, 0, f"called {suffix}, but it is {kind or 'nothing known'}"))
    return found


def _by_kind(source: ByteSource, path: str, kind: str | None) -> Iterable[Finding]:
    """Return what is to be said about a file that is no pickle, by what it is."""
    if kind in ("zip", "torch-zip"):
        return archives.check_zip(source, path)
    if kind == "tar":
        return archives.check_tar(source, path)
    if kind in COMPRESSED:
        return archives.check_compressed(source, path, kind)
    if kind == "hdf5":
        return [_block("hdf5", path, 0, "HDF5, in which Keras keeps layers that hold code")]
    if kind == "npy":
        return archives.check_array(source, path)
    if kind in PROGRAMS:
        return [_block("native-code", path, 0, f"a program ({PROGRAMS[kind]})")]
    if kind in READERS:
        return _header(source, path, kind)
    if templates.is_text_template(path):
        return _template(source, path)
    if kind == "json" or path.lower().endswith(".json"):
        return templates.check_json(source, path)
    return ()


def _by_name(path: str, head: bytes) -> Iterator[Finding]:
    for rule, detail in named_code(path, head):
        yield _block(rule, path, 0, detail)
    if PurePosixPath(path).name == "preset.ini":
        yield Finding("preset", Severity.WARN, path, 0, "llama.cpp takes a server's arguments from a file of this name")


def _header(source: ByteSource, path: str, kind: str) -> Iterator[Finding]:
    try:
        READERS[kind](source)
    except MalformedError as error:
        yield _block("header", path, error.offset, f"{kind}, {error.rule}: {error.message}")
        return
    if kind == "gguf":
        yield from templates.check_gguf(source, path)


def _template(source: ByteSource, path: str) -> Iterator[Finding]:
    try:
        yield from templates.check_template(templates.read_template(source), path, None)
    except MalformedError as error:
        yield _block("template-code", path, 0, error.message)


def _named(suffix: str) -> str:
    return f" (called {suffix})" if suffix and suffix not in (".pkl", ".pickle") else ""


def check_release(
    sources: Mapping[str, ByteSource],
    manifest: Manifest | None = None,
    *,
    listed: Collection[str] | None = None,
    resolve: Resolve = lambda _: None,
) -> list[Finding]:
    """Return the findings of `sources` (by path), and of what they need of other files and releases.

    External data of ONNX must be another file of the release: of `manifest`, or of `listed` where there is none.
    A base model must be a manifest that the release's own lineage (`derived_from`) names; `resolve` gives the manifest
    of a reference that is known here.
    """
    found: list[Finding] = []
    if listed is None:
        listed = set(sources) if manifest is None else {entry.path for entry in manifest.files}
    lineage = () if manifest is None else manifest.extra.get("derived_from", ())
    bases = {str(one.get("manifest")) for one in lineage if isinstance(one, Mapping)}
    for path, source in sources.items():
        here = check_content(source, path)
        found += here
        if sniff(source) == "onnx":
            found += _external(source, path, listed)
        for base in templates.base_models(source, path):
            if base not in bases and str(resolve(base)) not in bases:
                found.append(_block("base-model", path, None, f"needs {base[:120]!r}, which its lineage does not name"))
    return found


def _external(source: ByteSource, path: str, listed: Collection[str]) -> Iterator[Finding]:
    try:
        wanted = onnx.external_spans(source)
    except MalformedError as error:
        yield _block("external-data", path, error.offset, error.message)
        return
    for location in wanted:
        other = PurePosixPath(path).with_name(location).as_posix()
        if other not in listed:
            yield _block("external-data", path, None, f"needs {other!r}, which is no file of the release")


def refuse(findings: Sequence[Finding], *, allowed: Collection[str], manifest: Manifest) -> None:
    """Raise `TrustError` for the first finding that blocks a file whose SHA-256 (hex) is not among `allowed`."""
    entries: dict[str, FileEntry] = {entry.path: entry for entry in manifest.files}
    blocking = [
        one for one in findings if one.severity is Severity.BLOCK and entries[one.path].sha256.hex() not in allowed
    ]
    if blocking:
        first = blocking[0]
        digest = entries[first.path].sha256.hex()
        raise TrustError(
            f"content that the gate does not let through: {first.detail}", rule=first.rule, path=first.path,
            offset=first.offset,
            hint=f'to load it all the same, add allow_code = ["{digest}"] for its publisher to policy.toml',
        )  # fmt: skip


def _block(rule: str, path: str, offset: int | None, detail: str) -> Finding:
    return Finding(rule, Severity.BLOCK, path, offset, detail)
