"""What a pickle would do, read from its opcodes and never run (CPython, Lib/pickletools.py).

Weights need a handful of names to be rebuilt; a pickle that imports nothing else is what torch's own restricted loader
accepts (`torch.load(weights_only=True)`). Everything else is code.
"""

from __future__ import annotations

import io
import pickletools
import re

from modelnet.formats import pickled
from modelnet.formats.layout import ByteSource

__all__ = ["is_code", "strange_imports"]

MAX_PICKLE = 32 * 1024 * 1024  # the description of the largest models' tensors is some MB
MAX_OPCODES = 2_000_000  # about 1 µs each
HEAD = 1024 * 1024  # of an unmarked file: what it would run stands near its beginning

# The names that torch's restricted loader knows for tensors (torch/_weights_only_unpickler.py).
TENSORS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor"
    r"|meta_tensor_no_storage|nested_tensor|wrapper_subclass)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.serialization _get_layout"
    r"|torch\.nn\.parameter Parameter|torch\.storage (TypedStorage|UntypedStorage|_LegacyStorage)"
    r"|torch (Size|device|Tensor|BFloat16Storage|BoolStorage|ByteStorage|CharStorage|ComplexDoubleStorage"
    r"|ComplexFloatStorage|DoubleStorage|FloatStorage|HalfStorage|IntStorage|LongStorage|QInt32Storage|QInt8Storage"
    r"|QUInt4x2Storage|QUInt8Storage|ShortStorage|UntypedStorage"
    r"|bfloat16|bool|complex(32|64|128)|double|float(8_\w+|16|32|64)?|half|int|int(8|16|32|64)|long|short"
    r"|uint(8|16|32|64)|quint8|qint8|qint32|strided|sparse_coo|sparse_csr)",
    re.ASCII,
)
CALLS = frozenset(["REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "PERSID", "BINPERSID"])
OTHER_NAMES = frozenset(["STACK_GLOBAL", "EXT1", "EXT2", "EXT4"])


def strange_imports(content: bytes) -> list[str]:
    """Return what a pickle of a model's tensors would import beside what tensors need; an opcode that hides it too."""
    found: dict[str, None] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count > MAX_OPCODES:
                found["more than can be looked at"] = None
                break
            if opcode.name in ("GLOBAL", "INST") and not TENSORS.fullmatch(str(argument)):
                found[str(argument).replace(" ", ".")[:120]] = None
            elif opcode.name in OTHER_NAMES:
                found[f"a name hidden by {opcode.name}"] = None
    except (ValueError, OverflowError, MemoryError) as error:
        found[f"not to be read: {str(error)[:80]}"] = None
    return list(found)


def is_code(source: ByteSource) -> bool:
    """Tell whether an unpickler that is given these bytes would call something, or at least accept them.

    Protocols 0 and 1 have no marker, and a list of words may begin with an import's opcode by chance; it counts only
    when a call is reached before the first byte that is no opcode.
    """
    if not pickled.is_pickle(source):
        return False
    head = source.read(0, min(HEAD, source.size))
    if head[:1] == b"\x80":
        return True
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            if opcode.name in CALLS:
                return True
    except (ValueError, OverflowError, MemoryError):
        return len(head) < source.size and len(head) == HEAD  # all opcodes so far, and more to come
    return False
