"""Spans of a safetensors file, read as its specification says (huggingface/safetensors, README, "Format").

    u64le N | N bytes of JSON, "{" first, perhaps padded with spaces | data

Each entry of the JSON is `name: {dtype, shape, data_offsets: [begin, end]}`, offsets counted from byte 8 + N;
`__metadata__` holds strings by name. Rules beyond JSON's own: the ranges are adjacent from 0 and end at the end of the
file, so that nothing hides between or after them; `end - begin` is what `dtype` and `shape` make; no name comes twice.

The header is walked entry by entry on its bytes, so that deep nesting, huge integers and long lists are refused after
a few kilobytes and never become Python objects.

Rules: `truncated`, `header-too-large`, `not-json`, `not-utf-8`, `duplicate-key`, `unknown-dtype`, `size-mismatch`,
`overlap`, `hole`, `trailing-bytes`, `too-many-tensors`, `too-much-metadata`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from modelnet.formats.layout import ByteSource, Layout, Span, SpanKind
from modelnet.formats.window import MAX_SPANS, Window, refusal

__all__ = ["DTYPE_BITS", "MAX_HEADER", "read_layout"]

# The reference reader's own limit (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs).
MAX_HEADER = 100_000_000
# One entry is some 100 bytes and a name; tensors have few dimensions. Keeps what json.loads sees small.
MAX_ENTRY = 4_096
# Training tools keep whole configurations in one metadata string; decoding one makes two copies of it.
MAX_STRING = 16 * 1024 * 1024
# Metadata has some dozens of keys; each is kept to find a second one of its name.
MAX_METADATA_KEYS = 65_536

# Names as the format spells them (`Dtype` in safetensors/src/tensor.rs).
DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

SPACE = re.compile(rb"[ \t\n\r]*+")
# Possessive, so that a string of a million escapes keeps no million ways back (RFC 8259 §7).
STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrtu][^"\\\x00-\x1f]*+)*+"')
FIELDS = frozenset({"dtype", "shape", "data_offsets"})


def read_layout(source: ByteSource) -> Layout:
    """Return the header and each tensor's exact extent.

    Raises: `MalformedError` for a file that the format, or one of the limits above, does not allow.
    """
    window = Window(source, block=8, budget=MAX_HEADER + 8)
    length = window.u64(0)
    if length > MAX_HEADER:
        raise refusal("the header is too large", "header-too-large", 0, wanted=f"at most {MAX_HEADER}", got=length)
    header = _Header(window.read(8, length))
    spans = header.walk(data=8 + length)
    position = 8 + length
    result = [Span(0, position, SpanKind.HEADER)]
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if span.start != position:
            rule = "overlap" if span.start < position else "hole"
            raise refusal(
                f"tensor {span.name!r} is not adjacent to the one before it", rule, span.start, wanted=position
            )
        if span.end > source.size:
            raise refusal(f"tensor {span.name!r} ends after the file", "truncated", span.start, got=source.size)
        # A tensor without elements has no bytes, so no span.
        if span.end > span.start:
            result.append(span)
        position = span.end
    if position != source.size:
        raise refusal("bytes follow the last tensor", "trailing-bytes", position, wanted=position, got=source.size)
    return Layout("safetensors", tuple(result))


class _Header:
    """A cursor over the header's JSON; every refusal names the byte of the file."""

    __slots__ = ("position", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.position = 0

    def walk(self, *, data: int) -> list[Span]:
        """Return the tensors' spans in the header's order, empty ones too; `data` is where the data begins."""
        spans: list[Span] = []
        if self.text[:1] != b"{":
            self._refuse("the header does not start with an object", "not-json")
        for name in self._keys():
            if name == "__metadata__":
                self._metadata()
            elif len(spans) >= MAX_SPANS:
                self._refuse("the header names too many tensors", "too-many-tensors")
            else:
                spans.append(self._entry(name, data))
        if self.position != len(self.text):
            self._refuse("the header goes on after its object", "not-json")
        return spans

    def _metadata(self) -> None:
        for count, _ in enumerate(self._keys()):
            if count >= MAX_METADATA_KEYS:
                self._refuse("the header holds too much metadata", "too-much-metadata")
            self._string()

    def _keys(self) -> Iterator[str]:
        """Yield the keys of an object, each at its value, which the caller passes over."""
        seen: set[str] = set()
        self._token(b"{")
        if self._follows(b"}"):
            return
        while True:
            key = self._string()
            if key in seen:
                self._refuse(f"key {key[:80]!r} comes twice", "duplicate-key")
            seen.add(key)
            self._token(b":")
            yield key
            if not self._follows(b","):
                break
        self._token(b"}")

    def _entry(self, name: str, data: int) -> Span:
        start = self.position
        # An entry holds no nested object and its strings no brace, so the first "}" ends it.
        end = self.text.find(b"}", start, start + MAX_ENTRY) + 1
        if not end:
            self._refuse("an entry does not end where one must", "not-json")
        try:
            fields = _decoder.decode(self.text[start:end].decode())
        except UnicodeDecodeError:
            self._refuse("an entry is not UTF-8", "not-utf-8")
        except (ValueError, RecursionError) as error:
            rule = "duplicate-key" if isinstance(error, _DuplicateKeyError) else "not-json"
            raise refusal(f"entry {name!r} is not a tensor's", rule, 8 + start) from error
        if not isinstance(fields, dict) or fields.keys() != FIELDS:
            self._refuse(f"entry {name!r} has other fields than a tensor's", "not-json")
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        if not _all_sizes(shape) or not _all_sizes(offsets) or len(offsets) != 2:
            self._refuse(f"entry {name!r} holds something else than sizes", "not-json")
        if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
            self._refuse(f"tensor {name!r} has an unknown dtype", "unknown-dtype", got=dtype)
        begin, stop = offsets
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
            # The reference multiplies in 64 bits and refuses an overflow, even when a later dimension is 0.
            if bits >= 1 << 64:
                self._refuse(f"tensor {name!r} is larger than any file", "size-mismatch")
        if begin > stop or bits != 8 * (stop - begin):
            self._refuse(
                f"tensor {name!r} is not as large as its shape",
                "size-mismatch",
                wanted=f"{bits} bits",
                got=stop - begin,
            )
        self.position = end
        self._skip_space()
        return Span(data + begin, data + stop, SpanKind.TENSOR, name, dtype, tuple(shape))

    def _string(self) -> str:
        found = STRING.match(self.text, self.position)
        if found is None or found.end() - found.start() > MAX_STRING:
            self._refuse("a string was expected, or ends nowhere", "not-json")
        try:
            text = json.loads(found[0].decode())
            # serde_json refuses a lone surrogate, Python's reader does not.
            text.encode()
        except UnicodeError:
            self._refuse("a string is not UTF-8", "not-utf-8")
        except ValueError as error:
            raise refusal("a string has a broken escape", "not-json", 8 + self.position) from error
        self.position = found.end()
        self._skip_space()
        return str(text)

    def _token(self, token: bytes) -> None:
        if not self._follows(token):
            self._refuse("the header is not the JSON of one", "not-json", wanted=token.decode())

    def _follows(self, token: bytes) -> bool:
        if self.text[self.position : self.position + 1] != token:
            return False
        self.position += 1
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        found = SPACE.match(self.text, self.position)
        self.position = self.position if found is None else found.end()

    def _refuse(self, message: str, rule: str, *, wanted: object = None, got: object = None) -> NoReturn:
        raise refusal(message, rule, 8 + self.position, wanted=wanted, got=got)


class _DuplicateKeyError(ValueError):
    """Two fields of one entry have the same name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _DuplicateKeyError
    return fields


def _size(digits: str) -> int:
    """Return a JSON integer as a size: no sign (serde_json reads `-0` as a float) and no more than 64 bits."""
    if digits.startswith("-") or len(digits) > 20 or (size := int(digits)) >= 1 << 64:
        raise ValueError(digits[:40])
    return size


def _no_number(text: str) -> NoReturn:
    raise ValueError(text[:40])


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_size, parse_float=_no_number, parse_constant=_no_number
)


def _all_sizes(value: object) -> bool:
    # `type` and not `isinstance`: True is an int to Python.
    return isinstance(value, list) and all(type(item) is int for item in value)
