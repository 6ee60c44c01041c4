"""Read single fields of a configuration in JSON, however large the rest of it is (RFC 8259).

Only brackets and strings are followed, in one pass, and only the values that are asked for are built: a vocabulary of
tens of megabytes costs its bytes, and nesting and size are refused before a parser sees them. The grammar inside other
values is not checked, for a reader that finds it broken reads nothing.

Rules: `json-too-large`, `json-too-deep`, `not-json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource

__all__ = ["MAX_JSON", "MAX_VALUE", "is_of_layers", "read_fields"]

MAX_JSON = 64 * 1024 * 1024  # the largest vocabularies (tokenizer.json) have 35 MB
MAX_VALUE = 4 * 1024 * 1024  # of one field; several templates, each of at most 1 MiB
MAX_DEPTH = 64
MAX_BRACKETS = 4_000_000  # twice those of the largest vocabulary; about 0.3 µs each
MAX_KEYS = 200_000  # with a value that is no plain one, or spelt with escapes; about 3 µs each
MAX_KEY = 4096

BLANK = rb"[ \t\r\n]*+"
SPACE = re.compile(BLANK)
QUOTED = rb'"(?:[^"\\]++|\\.)*+"'
STRING = re.compile(QUOTED, re.DOTALL)
FLAT = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
# A key's text whose escapes are of no letter, so that it is what it looks like or no name of ours.
OTHER_KEY = rb'(?:[^"\\]++|\\u(?!00)[0-9a-fA-F]{4}|\\["\\/bfnrt])*+"'
PLAIN = rb'[^ \t\r\n,:"\[\]{}]++'
SCALAR = re.compile(PLAIN)
# What Keras writes for an object that it builds again (keras/src/saving/serialization_lib.py).
LAYERS = frozenset(["class_name", "registered_name", "module", "keras_version"])
OPENING = {ord("{"): ord("}"), ord("["): ord("]")}


def read_fields(source: ByteSource, wanted: Collection[str]) -> dict[str, list[Any]]:
    """Return the values of some fields of the outermost object, each as often as it is there.

    Which one of several counts is for the reader to say, so all do. Raises: `MalformedError`.
    """
    if source.size > MAX_JSON:
        _refuse("more JSON than is read", "json-too-large", 0)
    return _Scan(_utf8(source.read(0, source.size))).fields(wanted)


def is_of_layers(source: ByteSource) -> bool:
    """Tell whether this is the configuration of a model whose layers Keras builds. Raises: `MalformedError`."""
    return bool(read_fields(source, LAYERS))


def _others(wanted: Collection[str]) -> re.Pattern[bytes]:
    """Match fields that are not wanted and have plain values, as in a vocabulary of a million words."""
    names = b"|".join(re.escape(name.encode()) for name in sorted(wanted))
    return re.compile(
        rb'(?:"(?!(?:' + names + rb')")' + OTHER_KEY + BLANK + b":" + BLANK + b"(?:" + QUOTED + b"|" + PLAIN + b")"
        + BLANK + b"," + BLANK + b")*+",
        re.DOTALL,
    )  # fmt: skip


def _utf8(content: bytes) -> bytes:
    """Return the text as UTF-8: json.loads() takes UTF-16 and UTF-32 too, where every other byte is 0."""
    encoding = json.detect_encoding(content)
    if encoding == "utf-8":
        return content
    try:
        return content.decode(encoding).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise MalformedError(f"not {encoding}", rule="not-json", offset=0) from error


class _Scan:
    """A cursor over the text."""

    __slots__ = ("brackets", "content", "position")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0
        self.brackets = 0

    def fields(self, wanted: Collection[str]) -> dict[str, list[Any]]:
        """Return the wanted fields, the whole text having been followed to its end."""
        found: dict[str, list[Any]] = {}
        self._space()
        if self._next() == ord("{"):
            for key in self._keys(_others(wanted)):
                start = self.position
                self._value()
                if key in wanted:
                    found.setdefault(key, []).append(self._built(start))
        else:
            self._value()
        self._space()
        if self.position != len(self.content):
            _refuse("more after the end of the JSON", "not-json", self.position)
        return found

    def _keys(self, others: re.Pattern[bytes]) -> Iterator[str]:
        """Yield the keys of an object but some of `others`, each at its value, which the caller passes over."""
        self.position += 1
        self._space()
        if self._next() == ord("}"):
            self.position += 1
            return
        for _ in range(MAX_KEYS):
            self._match(others)
            start = self.position
            self._string()
            end = self.position
            self._expect(b":")
            yield str(self._built(start, end)) if end - start <= MAX_KEY else ""
            self._space()
            if self._next() == ord("}"):
                self.position += 1
                return
            self._expect(b",")
        _refuse("more JSON than is read", "json-too-large", self.position)

    def _built(self, start: int, end: int | None = None) -> Any:
        text = self.content[start : self.position if end is None else end]
        if len(text) > MAX_VALUE:
            _refuse("a field is larger than what is read of one", "json-too-large", start)
        try:
            return json.loads(text.decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise MalformedError("not JSON", rule="not-json", offset=start) from error

    def _value(self) -> None:
        """Pass over one value."""
        byte = self._next()
        if byte == ord('"'):
            self._string()
        elif byte in OPENING:
            self._nested()
        else:
            self._match(SCALAR)

    def _nested(self) -> None:
        closing: list[int] = []
        while True:
            byte = self._next()
            self.position += 1
            self.brackets += 1
            if byte in OPENING:
                closing.append(OPENING[byte])
            elif not closing or byte != closing.pop():
                _refuse("a bracket or a string that does not end", "not-json", self.position - 1)
            if not closing:
                return
            if len(closing) > MAX_DEPTH:
                _refuse(f"JSON that is nested deeper than {MAX_DEPTH}", "json-too-deep", self.position)
            if self.brackets > MAX_BRACKETS:
                _refuse("more JSON than is read", "json-too-large", self.position)
            self._match(FLAT)

    def _string(self) -> None:
        self._match(STRING)

    def _space(self) -> None:
        self._match(SPACE)

    def _expect(self, token: bytes) -> None:
        self._space()
        if self.content[self.position : self.position + 1] != token:
            _refuse("not JSON", "not-json", self.position)
        self.position += 1
        self._space()

    def _next(self) -> int:
        return self.content[self.position] if self.position < len(self.content) else -1

    def _match(self, pattern: re.Pattern[bytes]) -> None:
        found = pattern.match(self.content, self.position)
        if found is None:
            _refuse("not JSON", "not-json", self.position)
        self.position = found.end()


def _refuse(message: str, rule: str, offset: int) -> NoReturn:
    raise MalformedError(message, rule=rule, offset=offset)
