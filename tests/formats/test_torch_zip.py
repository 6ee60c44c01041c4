"""The PyTorch zip reader against Python's zipfile, and archives that two readers could understand differently."""

import io
import struct
import zipfile

import numpy as np
import pytest

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, SpanKind
from modelnet.formats.torch_zip import members, read_layout
from tests.formats.corpus import CountingSource, arrays, torch_file

GOOD = torch_file()
PLAIN = torch_file(descriptors=False)


def rule(content: bytes) -> str | None:
    """Return the rule that refuses these bytes."""
    with pytest.raises(MalformedError) as caught:
        read_layout(BytesSource(content))
    assert caught.value.offset is not None
    return caught.value.rule


def patched(content: bytes, at: int, form: str, value: int) -> bytes:
    """Replace one number."""
    width = struct.calcsize(form)
    return content[:at] + struct.pack(form, value) + content[at + width :]


def directory(content: bytes) -> int:
    """Where the central directory begins."""
    return int(struct.unpack_from("<I", content, content.rfind(b"PK\x05\x06") + 16)[0])


def with_zip64(content: bytes) -> bytes:
    """The same archive with a zip64 record and locator, and sentinels in the end record, as for a file over 4 GiB."""
    end = content.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HII", content, end + 10)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65_535, 65_535, 2**32 - 1, 2**32 - 1, 0)
    return content[:end] + record + locator + last


@pytest.mark.parametrize("content", [GOOD, PLAIN, with_zip64(GOOD)], ids=["descriptors", "plain", "zip64"])
def test_extents_are_the_stored_members(content: bytes) -> None:
    """Each storage's bytes are a span at a multiple of 64; all else is header or padding."""
    layout = read_layout(BytesSource(content))
    originals = [array.tobytes() for array in arrays().values()]
    assert [content[span.start : span.end] for span in layout.tensors] == originals
    assert [span.name for span in layout.tensors] == [f"archive/data/{index}" for index in range(len(originals))]
    assert all(span.start % 64 == 0 for span in layout.tensors)
    kinds = {span.name: span.kind for span in layout.spans if span.name}
    assert kinds["archive/data.pkl"] is SpanKind.HEADER
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert [info.filename for info in archive.infolist()] == [m.name for m in members(BytesSource(content))]


def test_a_compressed_member_is_one_span() -> None:
    """A deflated member is its compressed bytes, never a tensor."""
    content = torch_file(compressed=True)
    (span,) = [span for span in read_layout(BytesSource(content)).spans if span.name == "archive/code/model.py"]
    assert span.kind is SpanKind.HEADER
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert span.end - span.start == archive.getinfo("archive/code/model.py").compress_size


def test_tensor_data_is_never_read() -> None:
    """A large storage costs the block of its local header."""
    content = torch_file({f"w{index}": np.zeros(1 << 20, np.float32) for index in range(8)})
    source = CountingSource(content)
    read_layout(source)
    # The search for the end record takes 64 KiB.
    assert source.bytes_read < 70_000


def test_members_with_zip64_sizes_are_read() -> None:
    """Sizes that a local header and its entry keep in a zip64 field are found there."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        with archive.open("m/data/0", "w", force_zip64=True) as member:
            member.write(b"0123456789")
    (span,) = read_layout(BytesSource(stream.getvalue())).tensors
    assert stream.getvalue()[span.start : span.end] == b"0123456789"


def test_an_archive_without_a_pickle_is_not_pytorchs() -> None:
    """A zip of something else is refused, its members are still to be had."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", "{}")
    assert rule(stream.getvalue()) == "no-data-pkl"
    assert [member.name for member in members(BytesSource(stream.getvalue()))] == ["config.json"]


CD = directory(GOOD)
END = GOOD.rfind(b"PK\x05\x06")
SECOND = GOOD.index(b"PK\x01\x02", CD + 4)
PLAIN_CD = directory(PLAIN)
Z64 = with_zip64(GOOD)
REFUSED = {
    "empty": (b"", "end-record"),
    "no end record": (GOOD[:END], "end-record"),
    "end record cut": (GOOD[:-1], "end-record"),
    "trailing bytes": (GOOD + b"x", "end-record"),
    "leading bytes": (b"#!" + GOOD, "directory"),
    "end record in the comment": (torch_file(comment=b"PK\x05\x06" + bytes(18)), "directory"),
    "end record half in the comment": (torch_file(comment=b"PK\x05\x06"), "end-record"),
    "another disk": (patched(GOOD, END + 4, "<H", 1), "end-record"),
    "counts differ": (patched(GOOD, END + 8, "<H", 1), "end-record"),
    "count too large": (patched(patched(GOOD, END + 8, "<H", 60_000), END + 10, "<H", 60_000), "too-many-members"),
    "count too small": (patched(patched(GOOD, END + 8, "<H", 1), END + 10, "<H", 1), "directory"),
    "directory moved": (patched(GOOD, END + 16, "<I", CD - 1), "directory"),
    "directory after the file": (patched(GOOD, END + 16, "<I", 2**31), "directory"),
    "sentinels without zip64": (patched(GOOD, END + 16, "<I", 2**32 - 1), "zip64"),
    "zip64 record elsewhere": (patched(Z64, len(Z64) - 42 + 8, "<Q", 0), "zip64"),
    "zip64 record of 2^64 - 1": (patched(Z64, len(Z64) - 42 + 8, "<Q", 2**64 - 1), "zip64"),
    "zip64 record disagrees": (patched(Z64, len(Z64) - 22 + 16, "<I", CD - 8), "zip64"),
    "zip64 directory of 2^63": (patched(Z64, END + 48, "<Q", 2**63), "directory"),
    "entry signature": (patched(GOOD, CD, "<I", 0), "directory"),
    "name past the directory": (patched(GOOD, CD + 28, "<H", 65_535), "directory"),
    "name twice": (GOOD[:CD] + GOOD[CD:].replace(b"data/1", b"data/0"), "duplicate-name"),
    "names differ": (GOOD[:CD] + GOOD[CD:].replace(b"data/1", b"data/9"), "local-mismatch"),
    "methods differ": (patched(GOOD, CD + 10, "<H", 8), "local-mismatch"),
    "flags differ": (patched(GOOD, CD + 8, "<H", 0), "local-mismatch"),
    "encrypted": (patched(GOOD, CD + 8, "<H", 9), "encrypted"),
    "stored in two sizes": (patched(GOOD, CD + 20, "<I", 3), "size-mismatch"),
    "sizes differ from the local": (
        patched(patched(PLAIN, PLAIN_CD + 20, "<I", 3), PLAIN_CD + 24, "<I", 3), "local-mismatch"
    ),
    "check sums differ": (patched(PLAIN, PLAIN_CD + 16, "<I", 3), "local-mismatch"),
    "local signature": (patched(GOOD, 0, "<I", 0), "local-mismatch"),
    "size of 2^31": (patched(patched(GOOD, SECOND + 20, "<I", 2**31), SECOND + 24, "<I", 2**31), "out-of-bounds"),
    "size in no zip64 field": (patched(GOOD, SECOND + 20, "<I", 2**32 - 1), "zip64"),
    "offset outside": (patched(GOOD, SECOND + 42, "<I", 2**31), "out-of-bounds"),
    "two entries of one header": (patched(GOOD, SECOND + 42, "<I", 0), "local-mismatch"),
    "member longer than its room": (patched(patched(GOOD, CD + 20, "<I", 200), CD + 24, "<I", 200), "overlap"),
    "member shorter than its room": (patched(patched(GOOD, CD + 20, "<I", 0), CD + 24, "<I", 0), "hole"),
    "extra field longer than the member": (patched(GOOD, 28, "<H", 65_535), "overlap"),
    "no members but bytes": (b"hidden" + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0, 0, 0, 6, 0), "hole"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_attack_is_refused_by_its_rule(case: str) -> None:
    """An archive that two readers could understand differently is refused by the rule that it breaks."""
    content, expected = REFUSED[case]
    assert rule(content) == expected


def test_a_member_without_a_directory_entry_is_refused() -> None:
    """Dropping an entry leaves bytes that belong to no member."""
    third = GOOD.index(b"PK\x01\x02", SECOND + 4)
    size, count = END - CD - (third - SECOND), struct.unpack_from("<H", GOOD, END + 8)[0] - 1
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, size, CD, 0)
    assert rule(GOOD[:SECOND] + GOOD[third:END] + end) == "hole"
