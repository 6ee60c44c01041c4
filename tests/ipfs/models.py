"""One release with a file of every format, each with tensors of many chunks."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from modelnet.formats import read_layout_strict
from modelnet.formats.layout import BytesSource, SpanKind
from tests.formats.corpus import corpus, gguf_file, onnx_file, safetensors_file, tflite_file, torch_file

__all__ = ["large_tensors", "release_files"]

CHUNK = 256 * 1024


def _tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "embed": rng.standard_normal((400, 512)).astype(np.float32),  # 800 kB: four chunks
        "norm": rng.standard_normal(512).astype(np.float32),
        "head": rng.standard_normal((331, 640)).astype(np.float32),  # its last chunk is short
    }


@functools.cache
def release_files(seed: int = 0) -> Mapping[str, bytes]:
    """Return the files by path: every format large and small, text, an empty file, and bytes without format.

    Another seed gives other tensors. Kept, because some of the writers do not write the same bytes twice.
    """
    rng = np.random.default_rng(seed)
    payloads = [array.tobytes() for array in _tensors(seed + 3).values()]
    files = {
        "model.safetensors": safetensors_file(_tensors(seed + 1)),
        "quantised/model.gguf": gguf_file(_tensors(seed + 2)),
        "model.tflite": tflite_file(payloads),
        "onnx/model.onnx": onnx_file(_tensors(seed + 4)),
        "pytorch_model.bin": torch_file(_tensors(seed + 5)),
        "config.json": b'{"architectures": ["M"]}\n',
        "empty.txt": b"",
        "plain.bin": rng.bytes(900_000),
        "twice/plain.bin": rng.bytes(10) * 70_000,
    }
    return files | {f"small/{name.replace('/', '-')}": content for name, content in corpus().items()}


def large_tensors(content: bytes) -> list[tuple[int, int]]:
    """Return where the tensors lie that have more than one chunk, as [start, end)."""
    spans = read_layout_strict(BytesSource(content)).spans
    return [(span.start, span.end) for span in spans if span.kind is SpanKind.TENSOR and span.end - span.start > CHUNK]
