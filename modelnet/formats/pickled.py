r"""Tell a pickle by what an unpickler would do with it (CPython, Modules/_pickle.c and Lib/pickle.py): it runs code.

Protocols 2 and up begin with a marker, 0 and 1 with any opcode, and a list of words may begin like one. So the opcodes
are walked with a stack, marks and a memo of kinds instead of values, as far as an unpickler gets:

>>> from modelnet.formats.layout import BytesSource
>>> walk(BytesSource(b"cos\nsystem\n(S'id'\ntR.")).reach.name
'RUNS'
>>> walk(BytesSource(b"cat\ndog\nbird\n")).reach.name  # BUILD needs two values, and there is one
'NOWHERE'

Wherever the two unpicklers differ, or more is needed to know whether they would go on, the walk goes on: it may follow
bytes that they refuse, and must never refuse what they follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import ClassVar

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource
from modelnet.formats.window import Window

__all__ = ["MAX_OPCODES", "Reach", "Walk", "is_pickle", "walk"]

# The first import of real files is among their first ten opcodes. About 1 µs each.
MAX_OPCODES = 100_000
BUDGET = 8 * 1024 * 1024
BLOCK = 4096
MAX_PROTOCOL = 5
# A piece of plain data of fewer is nothing: tensors at random begin with a marker and a length beyond their end.
MIN_OPCODES = 6
MAX_DIGITS = 4300  # of a memo's number; int() of Python reads no more

# Opcodes that push a value, and how its bytes are told: none, a fixed number, or those that a length counts.
CONSTANTS = frozenset(b"N)]}\x88\x89\x8f")
FIXED = {ord("J"): 4, ord("K"): 1, ord("M"): 2, ord("G"): 8}
COUNTED = {
    ord("T"): 4, ord("U"): 1, ord("X"): 4, ord("B"): 4, ord("C"): 1, 0x8A: 1, 0x8B: 4, 0x8C: 1, 0x8D: 8, 0x8E: 8,
    0x96: 8,
}  # fmt: skip
STRINGS = frozenset(b"TUX\x8c\x8d")
# What int(text, 0), strtol(text, 0) and float() take; all read C strings, so what follows a NUL is not looked at.
TAIL = rb"[ \t\r\v\f]*+(?:\x00(?s:.*+))?+"
INTEGER = rb"[ \t\r\v\f]*+[-+]?+(?:0[xX][0-9a-fA-F_]++|0[oO][0-7_]++|0[bB][01_]++|[0-9][0-9_]*+)"
NUMBERS = {
    ord("I"): re.compile(rb"(?:" + INTEGER + rb")?+" + TAIL),
    ord("L"): re.compile(INTEGER + rb"[ \t\r\v\f]*+L?+" + TAIL),
    ord("F"): re.compile(
        rb"[ \t\r\v\f]*+[-+]?+(?:inf(?:inity)?+|nan|[0-9_]*+(?:\.[0-9_]*+)?+(?:e[-+]?+[0-9_]++)?+)" + TAIL,
        re.IGNORECASE,
    ),
}
MEMO_NUMBER = re.compile(rb"[ \t\r\v\f]*+([-+]?+[0-9][0-9_]*+)" + TAIL)
QUOTES = (b"'", b'"')


class Kind(Enum):
    """As much of a value as decides whether an unpickler goes on."""

    PLAIN = 0
    TEXT = 1  # what STACK_GLOBAL takes as a name
    FOREIGN = 2  # imported, or made by what was: its methods are somebody else's code


class Reach(IntEnum):
    """How far an unpickler gets, and what that means."""

    NOWHERE = 0  # it refuses the bytes before it calls anything
    LOADS = 1  # plain data, or a piece of it
    IMPORTS = 2  # it imports something, and the file ends
    RUNS = 3  # it calls what it imported or returns it, or there are more opcodes than are walked


@dataclass(frozen=True, slots=True)
class Walk:
    """`is_marked` when the bytes begin as protocol 2 to 5; `opcodes` were walked."""

    reach: Reach
    is_marked: bool
    opcodes: int

    @property
    def is_code(self) -> bool:
        """Whether these bytes are a pickle and nothing else by chance; a marked one needs no call to be told."""
        return self.reach is Reach.RUNS or (self.is_marked and self.reach is not Reach.NOWHERE)


def is_pickle(source: ByteSource) -> bool:
    """Tell whether loading these bytes as a pickle would import something, or at least succeed; unmarked data not."""
    found = walk(source)
    return found.is_code or found.reach is Reach.IMPORTS


def walk(source: ByteSource, *, limit: int = MAX_OPCODES) -> Walk:
    """Follow at most `limit` opcodes; what has more is taken for the worst."""
    window = Window(source, block=BLOCK, budget=BUDGET)
    head = window.read(0, min(2, source.size))
    is_marked = len(head) == 2 and head[0] == 0x80 and head[1] <= MAX_PROTOCOL
    machine = _Machine(window, is_marked=is_marked)
    reach, count, is_cut = Reach.RUNS, 0, False
    try:
        while count < limit:
            if machine.position == source.size:
                reach, is_cut = machine.reach, bool(machine.stack)
                break
            count += 1
            machine.step()
    except _Refused:
        reach = Reach.LOADS if machine.has_stopped else Reach.NOWHERE
    except _Runs:
        pass
    except MalformedError as error:
        # Past the end it is a piece of a pickle; when no more can be read it is nothing but opcodes so far.
        is_cut = error.rule == "truncated"
        reach = machine.reach if is_cut else Reach.RUNS
    if is_cut and count < MIN_OPCODES and reach is Reach.LOADS and not machine.has_stopped:
        reach = Reach.NOWHERE
    # With the marker no text begins, and importing alone may run a module.
    if is_marked and machine.reach is Reach.IMPORTS:
        reach = Reach.RUNS
    return Walk(reach, is_marked, count)


class _Refused(Exception):  # noqa: N818 - a verdict, not an error
    """An unpickler raises here."""


class _Runs(Exception):  # noqa: N818 - a verdict, not an error
    """An unpickler calls something here."""


class _Machine:
    """An unpickler's stack, marks and memo, of kinds; `step` raises `_Refused` or `_Runs` where it ends."""

    __slots__ = ("fence", "has_stopped", "is_marked", "marks", "memo", "position", "reach", "stack", "window")

    def __init__(self, window: Window, *, is_marked: bool) -> None:
        self.window = window
        self.is_marked = is_marked
        self.position = 0
        self.reach = Reach.LOADS
        self.has_stopped = False
        self.stack: list[Kind] = []
        self.marks: list[int] = []
        self.fence = 0  # nothing below the last mark is within reach
        self.memo: dict[int, Kind] = {}

    def step(self) -> None:
        """Do what the opcode at `position` does."""
        opcode = self.window.read(self.position, 1)[0]
        self.position += 1
        if opcode in CONSTANTS:
            self.stack.append(Kind.PLAIN)
        elif opcode in FIXED:
            self.window.hold(self.position, FIXED[opcode])
            self.position += FIXED[opcode]
            self.stack.append(Kind.PLAIN)
        elif opcode in COUNTED:
            width = COUNTED[opcode]
            length = int.from_bytes(self.window.read(self.position, width), "little")
            self.position = min(self.position + width + length, self.window.size)
            self.stack.append(Kind.TEXT if opcode in STRINGS else Kind.PLAIN)
        elif opcode in NUMBERS:
            if NUMBERS[opcode].fullmatch(self._line()) is None:
                raise _Refused
            self.stack.append(Kind.PLAIN)
        elif opcode in self.OPCODES:
            self.OPCODES[opcode](self)
        else:
            raise _Refused

    def _line(self) -> bytes:
        """Return the bytes up to a newline and go on after it."""
        parts: list[bytes] = []
        while True:
            buffer, index = self.window.hold(self.position, 1)
            end = buffer.find(b"\n", index)
            if end >= 0:
                self.position += end - index + 1
                return b"".join([*parts, buffer[index:end]])
            parts.append(buffer[index:])
            self.position += len(buffer) - index

    def _need(self, count: int) -> None:
        if len(self.stack) - self.fence < count:
            raise _Refused

    def _replace(self, count: int, kind: Kind) -> None:
        """Take `count` values and push one."""
        self._need(count)
        del self.stack[len(self.stack) - count :]
        self.stack.append(kind)

    def _call(self, count: int) -> None:
        """Call the lowest of `count` values; what was not imported cannot be called."""
        self._need(count)
        raise _Runs if self.stack[-count] is Kind.FOREIGN else _Refused

    def _change(self, count: int) -> None:
        """Take values off and give them to the one below, by a method of its own."""
        self._need(count + 1)
        if self.stack[-count - 1] is Kind.FOREIGN:
            raise _Runs
        if count:
            del self.stack[-count:]

    def _unmark(self) -> int:
        """Drop the last mark and return how many values were above it."""
        if not self.marks:
            raise _Refused
        count = len(self.stack) - self.marks.pop()
        self.fence = self.marks[-1] if self.marks else 0
        return count

    def _mark(self) -> None:
        self.marks.append(len(self.stack))
        self.fence = len(self.stack)

    def _pop(self) -> None:
        if self.marks and self.fence == len(self.stack):
            self._unmark()
        else:
            self._need(1)
            self.stack.pop()

    def _pop_mark(self) -> None:
        count = self._unmark()
        del self.stack[len(self.stack) - count :]

    def _dup(self) -> None:
        self._need(1)
        self.stack.append(self.stack[-1])

    def _text(self) -> None:
        self._line()
        self.stack.append(Kind.TEXT)

    def _quoted(self) -> None:
        if not self._line().startswith(QUOTES):
            raise _Refused
        self.stack.append(Kind.TEXT)

    def _number(self, width: int) -> int:
        """Return a place of the memo: of `width` bytes, or of a line where that is 0."""
        if width:
            self.position += width
            return int.from_bytes(self.window.read(self.position - width, width), "little")
        found = MEMO_NUMBER.fullmatch(self._line())
        if found is None or len(found[1]) > MAX_DIGITS:
            raise _Refused
        try:
            return int(found[1].replace(b"_", b""))
        except ValueError as error:
            raise _Refused from error

    def _get(self, width: int) -> None:
        place = self._number(width)
        if place not in self.memo:
            raise _Refused
        self.stack.append(self.memo[place])

    def _put(self, width: int) -> None:
        place = self._number(width)
        self._need(1)
        if place < 0:
            raise _Refused
        self.memo[place] = self.stack[-1]

    def _memoize(self) -> None:
        self._need(1)
        self.memo[len(self.memo)] = self.stack[-1]

    def _imported(self) -> None:
        self.reach = Reach.IMPORTS
        self.stack.append(Kind.FOREIGN)

    def _given(self, width: int) -> None:
        """Push what a caller has registered under a number of `width` bytes, or hands over.

        By default there is nothing and an unpickler raises. Only behind a marker are these bytes more than chance.
        """
        if not self.is_marked:
            raise _Refused
        self.position += width
        self.stack.append(Kind.FOREIGN)

    def _names(self) -> None:
        for _ in range(2):
            try:
                name = self._line().decode()
            except UnicodeDecodeError as error:
                raise _Refused from error
            # No module and no attribute is called "" or has a control character in its name.
            if not name or not name.isprintable():
                raise _Refused

    def _global(self) -> None:
        self._names()
        self._imported()

    def _stack_global(self) -> None:
        self._need(2)
        if self.stack[-2:] != [Kind.TEXT, Kind.TEXT]:
            raise _Refused
        del self.stack[-2:]
        self._imported()

    def _inst(self) -> None:
        self._names()
        self._unmark()
        raise _Runs

    def _proto(self) -> None:
        self.position += 1
        if self.window.read(self.position - 1, 1)[0] > MAX_PROTOCOL:
            raise _Refused

    def _skip(self, width: int) -> None:
        # A frame's length bounds what is read at once, and is no border.
        self.window.hold(self.position, width)
        self.position += width

    def _stop(self) -> None:
        """End one pickle; another may follow, as in a file of torch before 1.6."""
        self._need(1)
        if self.reach is Reach.IMPORTS:
            raise _Runs
        self.has_stopped = True
        self.stack.clear()
        self.marks.clear()
        self.fence = 0

    OPCODES: ClassVar[dict[int, Callable[[_Machine], None]]] = {
        ord("("): _mark, ord("0"): _pop, ord("1"): _pop_mark, ord("2"): _dup, ord("."): _stop,
        ord("S"): _quoted, ord("V"): _text, ord("c"): _global, 0x93: _stack_global, ord("i"): _inst, 0x80: _proto,
        ord("g"): lambda self: self._get(0), ord("h"): lambda self: self._get(1), ord("j"): lambda self: self._get(4),
        ord("p"): lambda self: self._put(0), ord("q"): lambda self: self._put(1), ord("r"): lambda self: self._put(4),
        0x94: _memoize, 0x95: lambda self: self._skip(8),
        0x82: lambda self: self._given(1), 0x83: lambda self: self._given(2),
        0x84: lambda self: self._given(4),
        ord("t"): lambda self: self._replace(self._unmark(), Kind.PLAIN),
        ord("l"): lambda self: self._replace(self._unmark(), Kind.PLAIN),
        ord("d"): lambda self: self._replace(self._unmark(), Kind.PLAIN),
        0x91: lambda self: self._replace(self._unmark(), Kind.PLAIN),
        0x85: lambda self: self._replace(1, Kind.PLAIN), 0x86: lambda self: self._replace(2, Kind.PLAIN),
        0x87: lambda self: self._replace(3, Kind.PLAIN),
        ord("a"): lambda self: self._change(1), ord("b"): lambda self: self._change(1),
        ord("s"): lambda self: self._change(2), ord("e"): lambda self: self._change(self._unmark()),
        ord("u"): lambda self: self._change(self._unmark()), 0x90: lambda self: self._change(self._unmark()),
        ord("R"): lambda self: self._call(2), 0x81: lambda self: self._call(2), 0x92: lambda self: self._call(3),
        ord("o"): lambda self: self._call(max(1, self._unmark())),
        # What the caller's own function makes of a value, and buffers that it hands over.
        ord("Q"): lambda self: self._replace(1, Kind.FOREIGN), 0x97: lambda self: self._given(0),
        0x98: lambda self: self._replace(1, Kind.PLAIN),
    }  # fmt: skip
