"""What `bench_load.py` times, each in a process of its own: `python loadjobs.py NAME '{"argument": ...}'`."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jobs import _CLOCK, JOBS, clock, register

MIB = 1024 * 1024


@register
def write_model(path: str, size: int, tensors: int) -> None:
    """Write a safetensors file of `tensors` F32 tensors of the same size."""
    each = size // tensors // 4
    header: dict[str, Any] = {}
    for number in range(tensors):
        begin = number * each * 4
        header[f"w{number:04}"] = {"dtype": "F32", "shape": [each], "data_offsets": [begin, begin + each * 4]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(7)
    with clock(), Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(random.integers(0, 1 << 32, each, np.uint32).tobytes() for _ in range(tensors))


@register
def load_verified(home: str) -> dict[str, Any]:
    """Load all tensors by reference: gate, read, hash, arrays."""
    from modelnet.loaders import safetensors

    base = _peak()
    with clock():
        tensors = safetensors.load_file("bench/bench", home=home)
    return {"tensors": len(tensors), "_base": base}


@register
def load_plain(path: str) -> dict[str, Any]:
    """Load all tensors as the library does, by memory map, and touch every page."""
    import safetensors.numpy

    base = _peak()
    with clock():
        tensors = safetensors.numpy.load_file(path)
        touched = sum(int(array.view(np.uint8)[::4096].sum(dtype=np.int64) > 0) for array in tensors.values())
    return {"tensors": touched, "_base": base}


@register
def read(path: str) -> None:
    """Read the file into memory with one thread."""
    with clock(), Path(path).open("rb", buffering=0) as file:
        # Not a bytearray, which would be filled with zeros first.
        buffer = mmap.mmap(-1, Path(path).stat().st_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view, position = memoryview(buffer), 0
        while count := file.readinto(view[position:]):
            position += count


@register
def verified_folder(home: str, level: str | None) -> dict[str, Any]:
    """Open the release as a folder at a level of the ladder."""
    import modelnet

    modelnet.verified  # noqa: B018  (imported now)
    with clock():
        model = modelnet.verified("bench/bench", level=level, home=home)
    said = model.level.label
    model.close()
    return {"level": said}


@register
def reload_cached(home: str) -> dict[str, Any]:
    """Open a release whose verdict is cached, again and again: what a load costs beside the library's own part."""
    import time

    import modelnet

    def timed() -> float:
        begin = time.perf_counter()
        with modelnet.verified("bench/bench", level="cached", home=home) as model:
            return time.perf_counter() - begin if model.level.label == "cached" else 0.0

    timed()
    with clock():
        took = sorted(timed() for _ in range(25))
    return {"_extra": took[12]}


@register
def one_tensor(home: str, tensor: str) -> dict[str, Any]:
    """Load one tensor and say how many bytes were read for it."""
    from modelnet.loaders import safetensors

    safetensors.safe_open  # noqa: B018  (imported now)
    before = _read_bytes()
    with clock(), safetensors.safe_open("bench/bench", home=home) as file:
        array = file.get_tensor(tensor)
    return {"bytes": array.nbytes, "read": _read_bytes() - before}


def _read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def _peak() -> int:
    from common import peak_of

    return peak_of()


if __name__ == "__main__":
    said = JOBS[sys.argv[1]](**json.loads(sys.argv[2])) or {}
    print(json.dumps({**_CLOCK, "peak": _peak(), **said}))
