"""Paths: the same file on every system, or no file at all."""

from __future__ import annotations

import random
import tracemalloc
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.paths import MAX_PART, MAX_PATH, check_path, check_paths
from modelnet.errors import MalformedError

GOOD = [
    "model.safetensors",
    "a/b/c/d.bin",
    ".gitattributes",
    "..name",
    "a..b",
    "...a",
    "name with spaces.txt",
    "größe.bin",
    "模型/权重.safetensors",
    "नमूना.gguf",
    "الملف.txt",
    "\N{FAMILY}.txt",
    "👩‍💻.md",  # joined by U+200D
    "می‌خواهم.txt",  # U+200C, which Persian spelling needs
    "console.txt",
    "com.txt",
    "com10",
    "auxiliary",
    "nul_",
    "lpt",
    "-rf",
    "~",
    "$HOME",
    "%2e%2e",
    "a'b`c;d&e(f)[g]{h}!.txt",
    "x" * MAX_PART,
    "é" * (MAX_PART // 2),
    "/".join(["d" * 200] * 5),
    "/".join(["d" * 127] * 8),
]

BAD = {
    "empty": "",
    "root": "/",
    "absolute": "/etc/passwd",
    "two slashes": "//server/share",
    "parent": "..",
    "traversal": "../x",
    "traversal inside": "a/../b",
    "traversal at the end": "a/..",
    "here": ".",
    "here inside": "a/./b",
    "empty part": "a//b",
    "slash at the end": "a/",
    "backslash": "a\\b",
    "backslash traversal": "..\\x",
    "drive": "C:/x",
    "drive relative": "C:x",
    "stream": "a.txt:hidden",
    "device": "con",
    "device upper": "CON",
    "device mixed": "cOn.TXT",
    "device with extension": "nul.tar.gz",
    "device with a space": "aux .txt",
    "device in a folder": "a/prn/b",
    "port": "COM1",
    "port 0": "com0.bin",
    "superscript port": "com¹",
    "superscript printer": "LPT³.txt",
    "console input": "CONIN$",
    "console output": "conout$.txt",
    "dot at the end": "a.",
    "dot at the end of a folder": "a./b",
    "three dots": "...",
    "space at the end": "a ",
    "space at the end of a folder": "a /b",
    "only a space": " ",
    "NUL": "a\x00b",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "delete": "a\x7f",
    "C1 control": "a\x9bb",
    "question mark": "a?",
    "star": "*",
    "pipe": "a|b",
    "quote": 'a"b',
    "angle": "<a>",
    "NFD": unicodedata.normalize("NFD", "é"),
    "NFD Hangul": unicodedata.normalize("NFD", "한"),
    "Kelvin sign": "\u212a",
    "Angstrom sign": "\u212b",
    "right-to-left override": "a\u202etxt.exe",
    "left-to-right mark": "a\u200e",
    "right-to-left mark": "a\u200f",
    "Arabic letter mark": "a\u061c",
    "isolate": "a\u2066b",
    "pop": "a\u202c",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "lone surrogate": "a\ud800",
    "low surrogate, as os.fsdecode makes it": "a\udcff",
    "part of 256 bytes": "x" * 256,
    "part of 256 bytes in 128 letters": "é" * 128,
    "path of 1025 bytes": "/".join(["d" * 127] * 8) + "/e"[:1] + "e",
}


@pytest.mark.parametrize("path", GOOD)
def test_good(path: str) -> None:
    """Ordinary names of every script pass as they are."""
    assert check_path(path) == path
    assert check_paths([path]) == [path]


@pytest.mark.parametrize("path", BAD.values(), ids=BAD.keys())
def test_bad(path: str) -> None:
    """A name that some system reads as another, or cannot hold, is refused with a reason that can be printed."""
    with pytest.raises(MalformedError) as caught:
        check_path(path)
    assert caught.value.rule == "path"
    str(caught.value).encode()


def test_lengths_are_exact() -> None:
    """1,024 bytes and parts of 255 bytes pass, one more of either does not."""
    longest = "/".join(["d" * 203] * 4 + ["d" * 208])
    assert len(longest) == MAX_PATH
    check_path(longest)
    with pytest.raises(MalformedError):
        check_path(longest + "d")


@given(st.text(max_size=40))
def test_what_passes_stays_inside(path: str) -> None:
    """Any text that passes is a relative path below its folder, on POSIX and on Windows alike."""
    try:
        check_path(path)
    except MalformedError:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        pure = kind(path)
        assert not pure.is_absolute()
        assert not pure.drive
        assert ".." not in pure.parts
        assert pure.as_posix() == path
    assert path.encode().decode() == path
    assert unicodedata.normalize("NFC", path) == path


COLLIDING = [
    ["a", "a"],
    ["a", "A"],
    ["a/b", "A/c"],
    ["a/b", "a/B"],
    ["readme.md", "README.md"],
    ["a", "a/b"],
    ["a/b/c", "a/b"],
    ["A", "a/b"],
    ["ß", "SS"],
    ["\u017f", "s"],
    ["é", "É"],
    ["\u03c3", "\u03c2"],
    ["ﬁ", "fi"],
    ["x/é/1", "x/É/2"],
    ["\u1e9e", "ss"],
]


@pytest.mark.parametrize("paths", COLLIDING)
def test_collisions(paths: list[str]) -> None:
    """Names that differ only in case, files twice, and a file that is a folder too are refused in either order."""
    for order in (paths, paths[::-1], ["other/file", *paths, "zz"]):
        with pytest.raises(MalformedError):
            check_paths(order)


def test_side_by_side() -> None:
    """A sorted list comes back; shared folders and shared beginnings are no collision."""
    paths = ["a/b", "a/c", "a.b", "ab", "a-b", "b/a", "b/A1", "c"]
    random.Random(1).shuffle(paths)
    assert check_paths(paths) == sorted(paths)
    assert check_paths([]) == []


def test_sorted_by_bytes() -> None:
    """The order is that of the UTF-8 bytes, beyond the basic plane too."""
    paths = ["\U0001f600", "\uffee", "z", "é", "a/z", "a.z"]
    assert check_paths(paths) == sorted(paths, key=str.encode)


def slowly_collide(paths: list[str]) -> bool:
    """Tell whether paths collide by comparing every pair of files and folders."""
    if len(set(paths)) < len(paths):
        return True
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    names = folders | set(paths)
    folded = {unicodedata.normalize("NFC", name.casefold()) for name in names}
    return bool(folders & set(paths)) or len(folded) < len(names)


@given(st.lists(st.lists(st.sampled_from("aAbßé.") | st.just("SS"), min_size=1, max_size=3).map("/".join), max_size=6))
def test_every_pair_counts(paths: list[str]) -> None:
    """A set of paths is refused exactly when some two of its files and folders collide."""
    paths = [path.replace(".", ".x") for path in paths]
    try:
        assert check_paths(paths) == sorted(paths)
    except MalformedError:
        assert slowly_collide(paths)
    else:
        assert not slowly_collide(paths)


def test_deep_paths_are_cheap() -> None:
    """Paths of five hundred folders cost memory in proportion to their length, not to its square."""
    paths = [f"{number:04x}/" + "/".join("d" * 500) for number in range(400)]
    tracemalloc.start()
    try:
        check_paths(paths)
        assert tracemalloc.get_traced_memory()[1] < 10 * sum(map(len, paths))
    finally:
        tracemalloc.stop()
