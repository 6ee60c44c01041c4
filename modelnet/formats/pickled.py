"""Tell a pickle by its opcodes (CPython, Lib/pickletools.py), for it runs code when it is loaded.

Protocols 2 and up begin with a marker, 0 and 1 with any opcode, so the opcodes are walked: a file is a pickle when
the walk meets an import (`GLOBAL`, `INST`, `STACK_GLOBAL`), whatever else the file may be, or when it begins with the
marker and is nothing else than opcodes up to its end. A pickle without marker and import is plain data and not told.
"""

from __future__ import annotations

import re

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource
from modelnet.formats.window import Window

__all__ = ["is_pickle"]

# The first import of real files is among their first ten opcodes. About 1 µs each.
MAX_OPCODES = 100_000
BUDGET = 8 * 1024 * 1024
BLOCK = 4096

NO_ARGUMENT = frozenset(b"(012RNbade}o]t)sulQ\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x94\x97\x98")
FIXED = {
    ord("J"): 4, ord("K"): 1, ord("M"): 2, ord("G"): 8, ord("h"): 1, ord("j"): 4, ord("q"): 1, ord("r"): 4,
    0x80: 1, 0x82: 1, 0x83: 2, 0x84: 4, 0x95: 8,
}  # fmt: skip
# Opcode → bytes of the length that precedes its argument.
COUNTED = {
    ord("T"): 4, ord("U"): 1, ord("X"): 4, ord("B"): 4, ord("C"): 1, 0x8A: 1, 0x8B: 4, 0x8C: 1, 0x8D: 8, 0x8E: 8,
    0x96: 8,
}  # fmt: skip
STRINGS = frozenset(b"SVTUX\x8c\x8d")
# PERSID is left out: no plain unpickler accepts it, and one safetensors length in 32 begins with its byte.
LINE = {
    ord("F"): re.compile(rb"[-+0-9.eEinfaINFAT_ ]+"), ord("I"): re.compile(rb"[-+0-9_ ]+"),
    ord("L"): re.compile(rb"[-+0-9_ ]+L?"), ord("S"): re.compile(rb"(?s:['\"].*)"), ord("V"): re.compile(rb"(?s:.*)"),
    ord("g"): re.compile(rb"[0-9]+"), ord("p"): re.compile(rb"[0-9]+"),
}  # fmt: skip
IMPORT = re.compile(rb"[A-Za-z_][\w.]*", re.ASCII)
GLOBAL, INST, STACK_GLOBAL, STOP, PROTO = ord("c"), ord("i"), 0x93, ord("."), 0x80


def is_pickle(source: ByteSource) -> bool:
    """Tell whether loading these bytes as a pickle would import something, or at least succeed."""
    window = Window(source, block=BLOCK, budget=BUDGET)
    head = window.read(0, min(2, source.size))
    is_marked = len(head) == 2 and head[0] == PROTO and head[1] <= 5
    strings = position = 0
    try:
        for _ in range(MAX_OPCODES):
            opcode = window.read(position, 1)[0]
            position += 1
            if opcode == STOP:
                return is_marked
            if opcode in {GLOBAL, INST}:
                module, position = _line(window, position)
                name, position = _line(window, position)
                return IMPORT.fullmatch(module) is not None and IMPORT.fullmatch(name) is not None
            # Two names on the stack or in the memo: what the opcode needs.
            if opcode == STACK_GLOBAL and strings >= 2:
                return True
            strings += opcode in STRINGS
            if opcode in LINE:
                argument, position = _line(window, position)
                if LINE[opcode].fullmatch(argument) is None:
                    return False
            elif opcode in FIXED:
                position += FIXED[opcode]
            elif opcode in COUNTED:
                width = COUNTED[opcode]
                position += width + int.from_bytes(window.read(position, width), "little")
            elif opcode not in NO_ARGUMENT:
                return False
    except MalformedError as error:
        # Past the end it is a piece of a pickle; with the budget spent it is nothing but opcodes so far.
        return is_marked or error.rule == "header-too-large"
    return True


def _line(window: Window, position: int) -> tuple[bytes, int]:
    """Return the bytes up to a newline and the offset after it."""
    parts: list[bytes] = []
    while True:
        buffer, index = window.hold(position, 1)
        end = buffer.find(b"\n", index)
        if end >= 0:
            return b"".join([*parts, buffer[index:end]]), position + end - index + 1
        parts.append(buffer[index:])
        position += len(buffer) - index
