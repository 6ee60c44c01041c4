"""ONNX Runtime: sessions over bytes that were hashed in our memory, external data included.

    from modelnet.loaders import onnxruntime
    session = onnxruntime.session("acme/vad#silero_vad.onnx", providers=["CPUExecutionProvider"])

The library is given the model as bytes and external tensors as buffers, and never a path. Level: `bytes`.
Libraries of custom operators are programs; the gate refuses them like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from modelnet.errors import UsageError
from modelnet.formats import onnx
from modelnet.loaders._files import MemorySource, check_format, read_whole, trust_file
from modelnet.loaders._library import need
from modelnet.loaders._trusted import Trusted
from modelnet.loaders.choosing import vouched
from modelnet.policies import Policies

__all__ = ["session"]

MAX_MODEL = (1 << 31) - 1  # bytes; protobuf's own limit
ORT_MAGIC = b"ORTM"  # the library's own flatbuffers format, at byte 4


def session(
    name: str | os.PathLike[str],
    sess_options: Any = None,
    providers: Sequence[Any] | None = None,
    *,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Return an `onnxruntime.InferenceSession`; `sess_options`, `providers` and `options` are its own.

    Raises `IntegrityError` naming file, tensor and offset before the library sees a byte that was not signed.
    """
    library = need("onnxruntime")
    with verified_content(name, sess_options, policy=policy, home=home) as (content, prepared), vouched():
        return library.InferenceSession(content, prepared, providers, **options)


@contextmanager
def verified_content(
    name: str | os.PathLike[str],
    sess_options: Any = None,
    *,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[bytes, Any]]:
    """Give the verified model, and the options that a session must be made with inside the block.

    The library has only the addresses of external data, and copies it while it makes the session.
    """
    trusted, entry = trust_file(name, suffixes=(".onnx",), policy=policy, home=home)
    if entry.size > MAX_MODEL:
        raise UsageError("an ONNX file is at most 2 GiB", rule="size", path=entry.path, got=entry.size)
    content = read_whole(trusted, [entry])[entry.path]
    if content[4:8] != ORT_MAGIC:
        check_format(MemorySource(content), entry.path, ("onnx",))
    external = _external(trusted, entry.path, content)
    if external:
        sess_options = sess_options or need("onnxruntime").SessionOptions()
        with vouched():
            sess_options.add_external_initializers_from_files_in_memory(
                list(external), list(external.values()), [len(part) for part in external.values()]
            )
    yield bytes(content), sess_options
    del external


def _external(trusted: Trusted, path: str, content: memoryview) -> dict[str, memoryview]:
    """Return the verified content of each external file that the model names, under that name."""
    wanted = onnx.external_spans(MemorySource(content))
    entries = {location: trusted.entry(PurePosixPath(path).with_name(location).as_posix()) for location in wanted}
    whole = read_whole(trusted, list(entries.values()))
    return {location: whole[entry.path] for location, entry in entries.items()}
