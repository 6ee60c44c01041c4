"""A pickle is told by what an unpickler would do: whatever CPython follows up to a call is code, and little else is."""

from __future__ import annotations

import io
import pickle
import random
import re
from pydoc_data import topics

import pytest

from modelnet.content.pickles import strange_imports
from modelnet.formats import BytesSource
from modelnet.formats.pickled import walk
from tests.scan import samples
from tests.scan.samples import blocked

TAIL = b"cos\nsystem\n(S'true'\ntR."
DISGUISED = {
    "hexadecimal": b"I0x1\n0",
    "a tab in a number": b"I\t1\n0",
    "a hexadecimal long": b"L0x1\n0",
    "infinity": b"Finfinity\n0",
    "a signed place": b"Np+1\n0",
    "a spaced place": b"Np 1\n0",
    "marked": b"\x80\x02I0x1\n0",
    "after a NUL": b"I1\0anything\n0",
    "a Windows program": b"MZ\x000",
    "a bzip2 file": b"BZh\0\0" + bytes(0x685A) + b"0",
    "a TFLite model": b"U\x09\0\0TFL3\0\0\0" + b"0",
    "a second pickle": b"L119547037146038801333356L\n.I1001\n.",
    "a mark that is dropped": b"(0",
    "a place that is read": b"N\x94h\x0000",
}


@pytest.mark.parametrize("case", DISGUISED)
@pytest.mark.parametrize("name", ["model.bin", "model.tflite", "vocab.txt"])
def test_a_pickle_may_begin_with_anything_that_an_unpickler_takes(case: str, name: str) -> None:
    """Spellings of numbers, magics of other formats, and opcodes that undo themselves hide nothing."""
    assert "pickle" in blocked(DISGUISED[case] + TAIL, name)
    assert "pickle" in blocked(samples.zipped({"member": DISGUISED[case] + TAIL}), "model.zip")


def test_one_string_may_be_both_names() -> None:
    """STACK_GLOBAL takes two values, however they came onto the stack."""
    code = b"__import__('os').system('true')"
    call = b"\x93\x8c\x04pass\x8c" + bytes([len(code)]) + code + b"\x86R."
    for start in (b"\x8c\x06timeit2", b"\x8c\x06timeitq\x00h\x00", b"Vtimeit\n\x940h\x00h\x00", b"S'timeit'\n2"):
        for marker in (b"", b"\x80\x04"):
            assert blocked(marker + start + call, "w.bin") == {"pickle"}, (marker, start)


def test_changing_what_was_imported_is_a_call() -> None:
    """`sys.path.append` needs no REDUCE, `os.environ[...] = ...` neither."""
    for content in (
        b"csys\npath\nV/tmp\na.",
        b"csys\npath\n(V/tmp\ne.",
        b"cos\nenviron\nVA\nVB\ns.",
        b"cos\nenviron\n(VA\nVB\nu.",
        b"cjson\ndecoder\n}b.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
    ):
        assert blocked(content, "w.bin") == {"pickle"}, content


FRAGMENTS = (
    *(b"N ) ] } ( ( 0 0 1 2 t l d e u a s b \x85 \x86 \x87 \x88 \x89 \x8f \x90 \x91 \x94 R o \x81 \x92 .".split()),
    *(b"I0x1\n I-0o7\n I01\n I1_0\n I\t1\n I1\0x\n I010\n L5L\n".split(b" ")),
    *(b"L\f0b1\n F1e5\n F.5\n Fnan\n FInfinity\n F1_0\n".split(b" ")),
    *(b"p0\n p+1\n p0_1\n g1\n g0\n g+0\n q\x00 h\x00 h\x01 r\x00\x00\x00\x00 j\x00\x00\x00\x00".split(b" ")),
    *(b"Va\n S'a'\n S\"b\"\n U\x01a X\x01\0\0\0a \x8c\x01a K\x01 M\0\0 J\0\0\0\0 G\0\0\0\0\0\0\0\0".split(b" ")),
    *(b"c0\n x\n", b"cm\nn\n", b"im\nn\n", b"\x93", b"\x80\x02", b"\x80\x04", b"\x80\x06"),
    *(b"I 1 \n", b"p 1\n", b"g 1 \n", b"L1 L\n"),
    *(b"\x95\x01\0\0\0\0\0\0\0", b"B\x01\0\0\0a", b"C\x01a", b"\x96\x01\0\0\0\0\0\0\0a", b"F 1 \n"),
    *(b"Q", b"\x97", b"\x98"),
)  # fmt: skip


class _CalledError(Exception):
    """Something that was imported is used."""


class _Foreign:
    """What is imported: every use of it is a call."""

    def _called(self, *_: object) -> None:
        raise _CalledError

    __call__ = __setstate__ = append = extend = add = __setitem__ = _called


def _uses(unpickler: type, content: bytes) -> bool:
    """Tell whether CPython comes to use what these bytes import, or returns it."""

    class Probe(unpickler):  # type: ignore[misc]
        def find_class(self, _module: str, _name: str) -> object:
            return _Foreign()

    try:
        return isinstance(Probe(io.BytesIO(content)).load(), _Foreign)
    except _CalledError:
        return True
    except Exception:  # noqa: BLE001 - whatever stops it, it called nothing before
        return False


def test_whatever_cpython_would_call_is_code() -> None:
    """Both unpicklers, given opcodes in any order, never come to a call that the walk does not see."""
    rng = random.Random(20)
    used = 0
    for _ in range(40_000):
        content = b"".join(rng.choices(FRAGMENTS, k=rng.randint(0, 5)))
        content += rng.choice((b"", b"cm\nn\n", b"cm\nn\n)R.", b"cm\nn\nNb.", b"(cm\nn\no.", b"Va\n2\x93)R."))
        if _uses(pickle.Unpickler, content) or _uses(pickle._Unpickler, content):
            used += 1
            assert walk(BytesSource(content)).is_code, content
    assert used > 500


def test_whatever_cpython_takes_for_a_number_is_one() -> None:
    """Arguments of digits, signs, spaces and NUL in any order never stop the walk where an unpickler goes on."""
    rng = random.Random(21)
    pieces = [b"0", b"1", b"7", *(bytes([byte]) for byte in b"xob_ \t\f\0L+-.eN\r\v"), b"inf", b"nan", b"inity"]
    used = 0
    for _ in range(40_000):
        start = rng.choice((b"I", b"L", b"F", b"Np", b"Np0\ng", b"S", b"V", b"S'"))
        content = start + b"".join(rng.choices(pieces, k=rng.randint(0, 5))) + b"\ncm\nn\n)R."
        if _uses(pickle.Unpickler, content) or _uses(pickle._Unpickler, content):
            used += 1
            assert walk(BytesSource(content)).is_code, content
    assert used > 2000


def test_lists_of_words_are_no_pickles() -> None:
    """Labels of images, and lists of words at random: some in a thousand do read as a change of what they import."""
    for labels in (b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n", b"cat\ndog\nbird\n"):
        assert blocked(labels, "labels.txt") == set()
    words = sorted({word for text in topics.topics.values() for word in re.findall(r"\b[a-z]{3,}\b", text)})
    rng = random.Random(8000)
    lists = ["\n".join(rng.choices(words, k=50)).encode() + b"\n" for _ in range(8000)]
    assert sum(walk(BytesSource(one)).is_code for one in lists) < 40
    assert sum(walk(BytesSource(one.title())).is_code for one in lists) < 8


def test_bytes_at_random_are_no_pickles() -> None:
    """A file of torch holds thousands of storages, and none may be refused by chance."""
    rng = random.Random(300)
    content = rng.randbytes(1 << 20)
    starts = [rng.randrange(len(content) - 300) for _ in range(100_000)]
    starts += [match.start() for match in re.finditer(rb"\x80[\x00-\x05]", content[:-300])]
    found = [content[at : at + 300] for at in starts if walk(BytesSource(content[at : at + 300])).is_code]
    assert len(found) <= 1


def test_what_torch_loads_as_weights_only_is_weights() -> None:
    """Its own list of names: sets, byte arrays, quantisation schemes, storages of a GPU."""
    for name in (
        b"builtins\nset", b"__builtin__\nset", b"builtins\nbytearray", b"_codecs\nencode", b"torch\nper_tensor_affine",
        b"torch.cuda\nHalfStorage", b"torch.sparse\nFloatTensor", b"torch\nuint4", b"torch\nbits1x8",
        b"torch\nfloat8_e4m3fn",
        b"torch._utils\n_rebuild_device_tensor_from_numpy", b"torch\nFloatTensor", b"torch\nQUInt2x4Storage",
    ):  # fmt: skip
        assert strange_imports(b"\x80\x02c" + name + b"\n.")[0] == [], name
    for name in (b"builtins\neval", b"torch\nload", b"torch.cuda\nset_device", b"torch\nhub", b"torch.sparse\nmm"):
        assert strange_imports(b"\x80\x02c" + name + b"\n.")[0] == [name.decode().replace("\n", ".")]
