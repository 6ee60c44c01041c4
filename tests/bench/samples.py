"""Model files to measure with: bf16 weights of a language model as safetensors, and bytes without structure.

The same seed gives the same bytes. Weights are normally distributed, because a compressor sees that (we have none,
others do); nothing repeats, so deduplication helps nobody. Files are written in pieces: memory does not grow with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np

__all__ = ["write_random", "write_safetensors", "write_shards"]

PIECE = 4 * 1024 * 1024  # values drawn at once
VOCABULARY_SHARE = 0.25  # of the file: one large embedding, as small models have


def _quantiles() -> np.ndarray:
    """Return the bf16 bits of a normal distribution's 65,536 quantiles: indexed by random numbers, they are weights."""
    normal = NormalDist(0.0, 0.02)
    values = np.array([normal.inv_cdf((number + 0.5) / 65536) for number in range(65536)], dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _shapes(size: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the names and shapes of a decoder's tensors, about `size` bytes of bf16 in all."""
    hidden = 2048 if size >= 256 * 1024 * 1024 else 512
    left = size - 4096
    rows = int(size * VOCABULARY_SHARE) // (2 * hidden)
    yield "model.embed_tokens.weight", [rows, hidden]
    left -= rows * hidden * 2
    parts = [
        ("input_layernorm.weight", [hidden]),
        ("self_attn.q_proj.weight", [hidden, hidden]),
        ("self_attn.k_proj.weight", [hidden // 4, hidden]),
        ("self_attn.v_proj.weight", [hidden // 4, hidden]),
        ("self_attn.o_proj.weight", [hidden, hidden]),
        ("post_attention_layernorm.weight", [hidden]),
        ("mlp.gate_proj.weight", [4 * hidden, hidden]),
        ("mlp.up_proj.weight", [4 * hidden, hidden]),
        ("mlp.down_proj.weight", [hidden, 4 * hidden]),
    ]
    each = sum(2 * int(np.prod(shape)) for _, shape in parts)
    layer = 0
    while left >= each:
        yield from ((f"model.layers.{layer}.{name}", shape) for name, shape in parts)
        layer += 1
        left -= each
    if left >= 2 * hidden:
        yield "lm_head.weight", [left // (2 * hidden), hidden]


def write_safetensors(path: Path, size: int, seed: int = 1) -> int:
    """Write a safetensors file of about `size` bytes; return how many it has."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in _shapes(size):
        length = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + length]}
        position += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    table = _quantiles()
    draw = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = position // 2
        while left:
            count = min(left, PIECE)
            file.write(table[draw.integers(0, 65536, count, dtype=np.uint16)].data)
            left -= count
    return path.stat().st_size


def write_shards(folder: Path, count: int, size: int, seed: int = 1) -> int:
    """Write a model of `count` shards of about `size` bytes each and a small configuration; return all bytes."""
    folder.mkdir()
    config = folder / "config.json"
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 2048}))
    shards = [folder / f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    return config.stat().st_size + sum(
        write_safetensors(shard, size, seed + number) for number, shard in enumerate(shards)
    )


def write_random(path: Path, size: int, seed: int = 1) -> int:
    """Write `size` random bytes, in which no format reader finds anything."""
    draw = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as file:
        left = size
        while left:
            count = min(left, 2 * PIECE)
            file.write(draw.integers(0, 256, count, dtype=np.uint8).data)
            left -= count
    return size
