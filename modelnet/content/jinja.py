"""Read a Jinja template as Jinja's lexer does (jinja2/lexer.py) and say what in it no chat needs.

A template can reach the interpreter only by the names of attributes: `__class__`, `mro`. They are looked for where
names stand, in strings, and where a string is put together or spelt with escapes. What a program will name cannot be
decided for good; what is here refuses every way that is known, and text outside of tags is only text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["needless"]

BEGIN = re.compile(r"\{[{%#]")
RAW = re.compile(r"\{%[-+]?\s*+raw\s*+[-+]?%\}")
END_RAW = re.compile(r"\{%[-+]?\s*+endraw\s*+[-+]?%\}")
ENDS = {"{{": ("}}", "-}}"), "{%": ("%}", "-%}", "+%}")}
TOKEN = re.compile(
    r"(?P<space>\s++)|(?P<name>[^\W\d]\w*+)|(?P<number>\d++)"
    r"""|(?P<string>'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+")|(?P<sign>.)""",
    re.DOTALL,
)
PAIRS = {"(": ")", "[": "]", "{": "}"}

# Attributes that lead from a value to the interpreter, and functions that take a name.
DANGEROUS = frozenset(["mro", "subclasses", "globals", "builtins", "popen", "subprocess", "getattr", "eval", "exec"])
OTHER_FILES = frozenset(["import", "include", "extends", "from"])
DUNDER = re.compile("__")
DOTTED = re.compile(r"[\w.]++")
# Escapes of a string: a letter, digit or underscore that is spelt with one has something to hide.
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(N)\{|.)", re.DOTALL)
MAX_NAME = 64  # characters of what is put together that are kept; longer than each name that is looked for
JOINING = frozenset("~+")
COMPUTING = frozenset("~+*%|")
NO_VALUES = frozenset(["in", "and", "or", "not", "if", "else", "elif", "is", "set", "for"])


class Token(NamedTuple):
    """One name, number, string (without its quotes) or sign."""

    kind: str
    text: str


def needless(text: str) -> str | None:
    """Return what the template uses that no chat needs, or None."""
    try:
        for tag in _tags(text):
            if found := _first(tag):
                return found
    except _UnreadableError as error:
        return str(error)
    return None


class _UnreadableError(ValueError):
    """The template is none to Jinja, or has what cannot be followed."""


def _tags(text: str) -> Iterator[list[Token]]:
    position = 0
    while found := BEGIN.search(text, position):
        start = found.start()
        if found[0] == "{#":
            position = text.find("#}", start + 2) + 2
            if position == 1:
                raise _UnreadableError("a comment that does not end")
        elif raw := RAW.match(text, start):
            end = END_RAW.search(text, raw.end())
            if end is None:
                raise _UnreadableError("a raw block that does not end")
            # Not every engine knows raw blocks: what is in one is looked at too, as far as it can be read.
            yield from _inside(text[raw.end() : end.start()])
            position = end.end()
        else:
            tag, position = _tag(text, start)
            yield tag


def _inside(text: str) -> Iterator[list[Token]]:
    position = 0
    while found := BEGIN.search(text, position):
        try:
            tag, position = _tag(text, found.start()) if found[0] in ENDS else ([], found.end())
        except _UnreadableError:
            return
        yield tag


def _tag(text: str, start: int) -> tuple[list[Token], int]:
    """Return the tokens of the tag that begins at `start`, and where it ends: not inside of strings or brackets."""
    ends = ENDS[text[start : start + 2]]
    position = start + 2
    # A sign that drops the space before the tag belongs to its beginning.
    position += text[position : position + 1] in {"-", "+"}
    closing: list[str] = []
    tokens: list[Token] = []
    while position < len(text):
        if not closing:
            for end in ends:
                if text.startswith(end, position):
                    return tokens, position + len(end)
        found = TOKEN.match(text, position)
        if found is None or found["sign"] in {"'", '"'}:
            raise _UnreadableError("a string that does not end")
        position = found.end()
        kind, value = str(found.lastgroup), found[0]
        if kind == "sign" and value in PAIRS:
            closing.append(PAIRS[value])
        elif kind == "sign" and value in PAIRS.values() and (not closing or closing.pop() != value):
            raise _UnreadableError(f"a {value!r} that closes nothing")
        if kind != "space":
            tokens.append(Token(kind, value[1:-1] if kind == "string" else value))
    raise _UnreadableError("a tag that does not end")


def _first(tag: list[Token]) -> str | None:
    """Return the first thing in a tag that no chat needs."""
    if tag and tag[0].kind == "name" and tag[0].text in OTHER_FILES:
        return tag[0].text
    joined = ""
    for index, token in enumerate(tag):
        before = tag[index - 1] if index else Token("sign", "")
        after = tag[index + 1] if index + 1 < len(tag) else Token("sign", "")
        if token.kind == "name" and (found := _name(token.text, before, after, tag[index + 2 : index + 4])):
            return found
        if token.kind == "string":
            if found := _string(token.text, before, after):
                return found
            is_joined = before.kind == "string" or (
                before.text in JOINING and index >= 2 and tag[index - 2].kind == "string"
            )
            joined = (joined[-MAX_NAME:] if is_joined else "") + token.text
            if is_joined and (found := _named(joined)):
                return found
    return _computed(tag)


def _name(name: str, before: Token, after: Token, then: list[Token]) -> str | None:
    if DUNDER.search(name) or name in DANGEROUS:
        return name
    if name == "attr" and (before.text == "|" or after.text == "("):
        return "attr"
    if name == "os" and after == Token("sign", "."):
        return "os."
    # map(attribute=...) and its like look up whatever they are given.
    plain = len(then) == 2 and then[0].kind in {"string", "number"} and then[1].text in {")", ","}
    return "a computed attribute" if name == "attribute" and after.text == "=" and not plain else None


def _string(text: str, before: Token, after: Token) -> str | None:
    for escape in ESCAPE.finditer(text):
        digits = escape[1] or escape[2] or escape[3]
        code = int(digits, 16) if digits else int(escape[4], 8) if escape[4] else None
        if escape[5] or (code is not None and code < 128 and (chr(code).isalnum() or chr(code) == "_")):
            return escape[0]
    # A character by its number: '%c' % 95, '{:c}'.format(95).
    if ("%c" in text and after.text in {"%", "|"}) or ":c}" in text:
        return text
    # One underscore is for replace("-", "_"); anywhere else it is a piece of something.
    is_argument = before.text in {"(", ","} and after.text in {")", ","}
    if text.strip("_") == "" and text and not is_argument:
        return text
    return _named(text)


def _named(text: str) -> str | None:
    text = text.replace("\\\n", "")
    if found := DUNDER.search(text):
        return text[found.start() :]
    parts = text.split(".") if DOTTED.fullmatch(text) else []
    return next((part for part in parts if part in DANGEROUS or part == "attr"), None)


@dataclass(slots=True)
class _Bracket:
    """What stands directly in a bracket; of `x['a' ~ y]` it is a subscript with a string and a sign that computes."""

    is_subscript: bool
    has_string: bool = False
    is_computing: bool = False
    is_slice: bool = False


def _computed(tag: list[Token]) -> str | None:
    """Return a subscript that puts a string together, which is how a name is kept from being seen."""
    brackets = [_Bracket(is_subscript=False)]
    before = Token("sign", "")
    for token in tag:
        inner = brackets[-1]
        if token.kind == "string":
            inner.has_string = True
        elif token.kind == "sign" and token.text in PAIRS:
            is_value = before.kind == "string" or before.text in PAIRS.values()
            is_value = is_value or (before.kind == "name" and before.text not in NO_VALUES)
            brackets.append(_Bracket(is_subscript=token.text == "[" and is_value))
        elif token.kind == "sign" and token.text in PAIRS.values():
            brackets.pop()
            if inner.is_subscript:
                if inner.has_string and inner.is_computing and not inner.is_slice:
                    return "a computed subscript"
            else:
                brackets[-1].has_string |= inner.has_string
                brackets[-1].is_computing |= inner.is_computing
        elif token.kind == "sign":
            inner.is_computing |= token.text in COMPUTING
            inner.is_slice |= token.text == ":"
        before = token
    return None
