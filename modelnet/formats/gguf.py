"""Spans of a GGUF file, versions 2 and 3, little endian (ggml-org/ggml, docs/gguf.md).

    "GGUF" | u32 version | i64 n_tensors | i64 n_kv | key-values | tensor infos | padding | tensor data

A key-value is a string, a u32 type and a value; a string is a u64 length and bytes; an array is a u32 type, a u64 count
and the items. A tensor info is a name, u32 n_dims, u64 dimensions (fastest first), u32 ggml type and a u64 offset
from the start of the data. Data begins at a multiple of `general.alignment` (default 32) and so does each tensor; as in
llama.cpp, tensors follow each other with no more than that padding between them, and no more after the last.

Rules: `magic`, `version`, `big-endian`, `too-many-keys`, `too-many-tensors`, `key`, `duplicate-key`, `value-type`,
`string-too-long`, `array-too-long`, `nested-array`, `alignment`, `name`, `duplicate-name`, `dims`, `unknown-dtype`,
`size-mismatch`, `misaligned`, `overlap`, `hole`, `truncated`, `trailing-bytes`, `header-too-large`.
"""

from __future__ import annotations

from modelnet.formats.layout import ByteSource, Layout, Span, SpanKind
from modelnet.formats.window import MAX_SPANS, U64, Window, refusal

__all__ = ["GGML_TYPES", "MAX_HEADER", "read_layout", "texts"]

# Real headers reach some 30 MB: a vocabulary of 262,144 strings, its scores and types, merges, a chat template.
MAX_HEADER = 256 * 1024 * 1024
# Real files have under 200 keys; each is kept to find a second one of its name.
MAX_KEYS = 65_536
MAX_KEY = 65_535  # docs/gguf.md: at most 2^16 - 1 bytes
MAX_STRING = 64 * 1024 * 1024
# In all arrays together: the largest vocabulary with its merges has about 800,000. Bounds the time, about 0.1 µs each.
MAX_STRINGS = 8_000_000
# llama.cpp stops at 63 (GGML_MAX_NAME), stable-diffusion.cpp and ComfyUI-GGUF at 127.
MAX_NAME = 127
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_ALIGNMENT = 1024 * 1024
DEFAULT_ALIGNMENT = 32
BLOCK = 256 * 1024

STRING, ARRAY, UINT32 = 8, 9, 4
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# ggml_type: name, elements of a block, bytes of a block (`GGML_QUANT_SIZES` of gguf-py).
GGML_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


def read_layout(source: ByteSource) -> Layout:
    """Return the header, each tensor's extent without its padding, and the padding.

    Raises: `MalformedError` for a file that the format, llama.cpp, or one of the limits above, does not allow.
    """
    walk = _Walk(source)
    n_tensors, n_keys = walk.counts()
    alignment = walk.key_values(n_keys)
    tensors = walk.tensor_infos(n_tensors)
    header = walk.position
    data = _padded(header, alignment)
    if data > source.size and tensors:
        raise refusal("the file ends before its data", "truncated", header, wanted=data, got=source.size)
    spans = [Span(0, header, SpanKind.HEADER)]
    position, due = header, data
    for span in sorted(tensors, key=lambda span: (span.start, span.end)):
        start, end = data + span.start, data + span.end
        if span.start % alignment:
            raise refusal(f"tensor {span.name!r} is not aligned", "misaligned", start, wanted=alignment)
        if start != due:
            rule = "overlap" if start < due else "hole"
            raise refusal(f"tensor {span.name!r} is not where the one before it ends", rule, start, wanted=due)
        if end > source.size:
            raise refusal(f"tensor {span.name!r} ends after the file", "truncated", start, wanted=end, got=source.size)
        due = _padded(end, alignment)
        if end == start:
            continue
        if start > position:
            spans.append(Span(position, start, SpanKind.PADDING))
        spans.append(Span(start, end, SpanKind.TENSOR, span.name, span.dtype, span.shape))
        position = end
    if source.size > max(due, position):
        raise refusal("bytes follow the last tensor", "trailing-bytes", due, wanted=due, got=source.size)
    if source.size > position:
        spans.append(Span(position, source.size, SpanKind.PADDING))
    return Layout("gguf", tuple(spans))


def texts(source: ByteSource, prefix: bytes, *, limit: int) -> dict[str, tuple[int, bytes | None]]:
    """Return the strings whose key begins with `prefix`: their offset, and their bytes if they are at most `limit`.

    Raises: `MalformedError` as `read_layout` does for what stands before them.
    """
    walk = _Walk(source)
    _, n_keys = walk.counts()
    found: dict[str, tuple[int, bytes | None]] = {}
    for _ in range(n_keys):
        key = walk.key()
        kind = walk.kind()
        start = walk.position
        walk.skip_value(kind)
        if key.startswith(prefix) and kind == STRING:
            length = walk.position - start - 8
            found[key.decode()] = (start + 8, walk.window.read(start + 8, length) if length <= limit else None)
    return found


def _padded(position: int, alignment: int) -> int:
    return position + -position % alignment


class _Walk:
    """A cursor over the header."""

    __slots__ = ("position", "strings", "window")

    def __init__(self, source: ByteSource) -> None:
        self.window = Window(source, block=BLOCK, budget=MAX_HEADER)
        self.position = 0
        self.strings = 0

    def counts(self) -> tuple[int, int]:
        """Read magic, version and counts; return the numbers of tensors and of key-values."""
        if self.window.read(0, 4) != b"GGUF":
            raise refusal("not a GGUF file", "magic", 0)
        version = self.window.u32(4)
        if version not in {2, 3}:
            # A big-endian file is told by its version (docs/gguf.md, "Historical state of affairs").
            rule = "big-endian" if not version & 0xFFFF and version else "version"
            raise refusal("not a little-endian GGUF file of version 2 or 3", rule, 4, wanted="2 or 3", got=version)
        n_tensors, n_keys = self.window.u64(8), self.window.u64(16)
        if n_tensors > min(MAX_SPANS, self.window.size // 24):
            raise refusal("the header claims too many tensors", "too-many-tensors", 8, got=n_tensors)
        if n_keys > min(MAX_KEYS, self.window.size // 13):
            raise refusal("the header claims too many keys", "too-many-keys", 16, got=n_keys)
        self.position = 24
        return n_tensors, n_keys

    def key_values(self, count: int) -> int:
        """Pass over the key-values and return the alignment."""
        alignment = DEFAULT_ALIGNMENT
        keys: set[bytes] = set()
        for _ in range(count):
            start = self.position
            key = self.key()
            if key in keys:
                raise refusal(f"key {key[:80]!r} comes twice", "duplicate-key", start)
            keys.add(key)
            kind = self.kind()
            if key == b"general.alignment":
                alignment = self.window.u32(self.position)
                if kind != UINT32 or alignment.bit_count() != 1 or alignment > MAX_ALIGNMENT:
                    raise refusal("the alignment is not a power of two", "alignment", start, got=alignment)
            self.skip_value(kind)
        return alignment

    def key(self) -> bytes:
        """Read the key of a key-value."""
        return self._name(MAX_KEY, "key")

    def kind(self) -> int:
        """Read the type of its value."""
        return self._u32()

    def tensor_infos(self, count: int) -> list[Span]:
        """Return the tensors with extents counted from the start of the data, in the file's order."""
        names: set[bytes] = set()
        tensors = []
        for _ in range(count):
            start = self.position
            name = self._name(MAX_NAME, "name")
            if name in names:
                raise refusal(f"tensor {name!r} comes twice", "duplicate-name", start)
            names.add(name)
            n_dims = self._u32()
            if n_dims > MAX_DIMS:
                raise refusal(f"tensor {name!r} has too many dimensions", "dims", start, wanted=MAX_DIMS, got=n_dims)
            dims = [self._u64() for _ in range(n_dims)]
            kind, offset = self._u32(), self._u64()
            if kind not in GGML_TYPES:
                raise refusal(f"tensor {name!r} has an unknown type", "unknown-dtype", start, got=kind)
            dtype, elements, block = GGML_TYPES[kind]
            if (dims[0] if dims else 1) % elements:
                raise refusal(f"rows of {name!r} are not whole blocks", "size-mismatch", start, wanted=elements)
            length = block
            for dim in dims:
                length *= dim
                # ggml keeps element counts in int64, so even a product with a later 0 must not leave it.
                if length >= 1 << 63:
                    raise refusal(f"tensor {name!r} is larger than any file", "size-mismatch", start)
            end = offset + length // elements
            if end > self.window.size:
                raise refusal(f"tensor {name!r} ends after the file", "truncated", start, got=end)
            # ggml lists the fastest dimension first; other formats list it last.
            tensors.append(Span(offset, end, SpanKind.TENSOR, name.decode(), dtype, tuple(reversed(dims))))
        return tensors

    def _name(self, limit: int, rule: str) -> bytes:
        start = self.position
        length = self._u64()
        if not 0 < length <= limit:
            raise refusal(f"a {rule} has a bad length", rule, start, wanted=f"1 to {limit}", got=length)
        name = self.window.read(self.position, length)
        self.position += length
        try:
            name.decode()
        except UnicodeDecodeError as error:
            raise refusal(f"a {rule} is not UTF-8", rule, start) from error
        return name

    def skip_value(self, kind: int) -> None:
        """Pass over the value of a key."""
        start = self.position
        if kind == ARRAY:
            kind, count = self._u32(), self._u64()
            if kind == ARRAY:
                raise refusal("an array of arrays, which no reader supports", "nested-array", start)
            if kind == STRING:
                self._skip_strings(count)
                return
        elif kind == STRING:
            self._skip_strings(1)
            return
        else:
            count = 1
        if kind not in VALUE_BYTES:
            raise refusal("a value of unknown type", "value-type", start, got=kind)
        if count > (self.window.size - self.position) // VALUE_BYTES[kind]:
            raise refusal("an array is longer than the file", "array-too-long", start, got=count)
        self.position += count * VALUE_BYTES[kind]

    def _skip_strings(self, count: int) -> None:
        self.strings += count
        if count > (self.window.size - self.position) // 8 or self.strings > MAX_STRINGS:
            raise refusal("an array is longer than the file, or than any vocabulary", "array-too-long", self.position)
        unpack = U64.unpack_from
        while count:
            # One pass over what the window holds: tokenisers have hundreds of thousands of short strings.
            buffer, index = self.window.hold(self.position, 8)
            begin, last = index, len(buffer) - 8
            while count and index <= last:
                length = unpack(buffer, index)[0]
                if length > MAX_STRING:
                    raise refusal("a string is too long", "string-too-long", self.position, got=length)
                index += 8 + length
                count -= 1
            self.position += index - begin
        if self.position > self.window.size:
            raise refusal("a string ends after the file", "truncated", self.position, got=self.window.size)

    def _u32(self) -> int:
        value = self.window.u32(self.position)
        self.position += 4
        return value

    def _u64(self) -> int:
        value = self.window.u64(self.position)
        self.position += 8
        return value
