r"""Tell NumPy files whose data is a pickle from those that are numbers (numpy/lib/format.py, "Format Version 1.0").

    \x93NUMPY | major, minor | u16 (from version 2 on u32) length | a Python literal | data

The literal is read as NumPy reads it, and a dtype is let through when it is spelt as `np.save` spells one: everything
else, such as `object`, `O8` or `f4,O`, may be an array of objects, which is kept as a pickle.
"""

from __future__ import annotations

import ast
import re

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource

__all__ = ["MAX_ARRAY_HEADER", "strange_dtype"]

MAX_ARRAY_HEADER = 10_000  # NumPy's own limit for what it evaluates (`_MAX_HEADER_SIZE`)
MAX_FIELDS = 4096  # more than a header has room for
# `dtype.str`: byte order, kind, bytes of an item, and the unit of dates.
DTYPE = re.compile(r"[<>=|]?(?:[biufcSUVMm][0-9]{1,9}|[?])(?:\[[0-9a-zA-Z/]{1,20}\])?", re.ASCII)
PYTHON_2_LONG = re.compile(r"(?<=[0-9])L\b")
FIELDS = {"descr", "fortran_order", "shape"}


def strange_dtype(source: ByteSource) -> str | None:
    """Return why an array may hold pickled objects, or None for one of plain numbers; `source` begins with the magic.

    Raises: `MalformedError` for a header that no version of the format has.
    """
    start = source.read(0, min(12, source.size))
    width = {1: 2, 2: 4, 3: 4}.get(start[6] if len(start) == 12 else 0)
    if width is None:
        raise MalformedError("a NumPy file of an unknown version", rule="npy-version", offset=6)
    length = int.from_bytes(start[8 : 8 + width], "little")
    if length > MAX_ARRAY_HEADER:
        return f"a header of {length} bytes, which is more than is looked at"
    if 8 + width + length > source.size:
        raise MalformedError("a NumPy file that ends in its header", rule="truncated", offset=8, got=length)
    text = source.read(8 + width, length).decode("utf-8" if start[6] == 3 else "latin-1", "replace")
    # What np.save writes has no escapes but in names of fields; a warning of Python's parser is avoided with them.
    if "\\" in text:
        return "a header with escapes"
    try:
        header = ast.literal_eval(text if start[6] == 3 else PYTHON_2_LONG.sub("", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise MalformedError("a NumPy header that is no literal", rule="npy-header", offset=8) from error
    if not isinstance(header, dict) or header.keys() != FIELDS:
        raise MalformedError("a NumPy header with other fields", rule="npy-header", offset=8)
    return _strange(header["descr"])


def _strange(described: object) -> str | None:
    """Return the first dtype in a description that is not spelt as `np.save` spells plain ones."""
    pending = [described]
    for _ in range(MAX_FIELDS):
        if not pending:
            return None
        one = pending.pop()
        if isinstance(one, list) and all(isinstance(field, tuple) and len(field) in {2, 3} for field in one):
            pending += [field[1] for field in one]  # (name, dtype) or (name, dtype, shape)
        elif isinstance(one, tuple) and len(one) == 2:
            pending.append(one[0])  # (dtype, shape)
        elif not isinstance(one, str) or DTYPE.fullmatch(one) is None:
            return f"a dtype of {str(one)[:40]!r}"
    return "more fields than are looked at"
