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

__all__ = ["MAX_OPCODES", "MAX_PICKLE", "is_code", "strange_imports"]

MAX_PICKLE = 32 * 1024 * 1024  # the description of the largest models' tensors is some MB
MAX_OPCODES = 2_000_000  # about 1 µs each; a tensor takes about 50

# The names that torch's restricted loader knows for itself (torch 2.15, `_get_allowed_globals` in
# torch/_weights_only_unpickler.py). Protocols up to 2 call the builtins by their older module.
TENSORS = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|(builtins|__builtin__) (set|bytearray|complex)|_codecs encode"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor"
    r"|meta_tensor_no_storage|nested_tensor|wrapper_subclass|device_tensor_from_(cpu_tensor|numpy))"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.serialization _get_layout"
    r"|torch\.nn\.parameter Parameter|torch\.storage (TypedStorage|UntypedStorage|_LegacyStorage)"
    r"|torch(\.cuda)? (BFloat16|Bool|Byte|Char|ComplexDouble|ComplexFloat|Double|Float|Half|Int|Long|Short)Storage"
    r"|torch(\.cuda)?(\.sparse)? (BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Tensor"
    r"|torch (Size|device|Tensor|UntypedStorage|(QInt32|QInt8|QUInt2x4|QUInt4x2|QUInt8)Storage)"
    r"|torch (bfloat16|bool|b?complex(32|64|128)|bits(16|1x8|2x4|4x2|8)|double|float(8_\w+|4_\w+|16|32|64)?|half)"
    r"|torch (long|short|u?int[1-8]|u?int(16|32|64)|int|q(int8|int32|uint8|uint2x4|uint4x2))"
    r"|torch (strided|sparse_(coo|csr|csc|bsr|bsc)|per_(tensor|channel)_(affine|symmetric)"
    r"|per_channel_affine_float_qparams)",
    re.ASCII,
)
OTHER_NAMES = frozenset(["STACK_GLOBAL", "EXT1", "EXT2", "EXT4"])


def strange_imports(content: bytes, *, limit: int = MAX_OPCODES) -> tuple[list[str], int]:
    """Return what a pickle of a model's tensors would import beside what tensors need, and the opcodes looked at.

    An opcode that hides a name counts as one, and so does what is not read: broken bytes, or more than `limit` opcodes.
    """
    found: dict[str, None] = {}
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
            count += 1
            if count > limit:
                found["more than can be looked at"] = None
                break
            if opcode.name in ("GLOBAL", "INST") and not TENSORS.fullmatch(str(argument)):
                found[str(argument).replace(" ", ".")[:120]] = None
            elif opcode.name in OTHER_NAMES:
                found[f"a name hidden by {opcode.name}"] = None
    except (ValueError, OverflowError, MemoryError) as error:
        found[f"not to be read: {str(error)[:80]}"] = None
    return list(found), count


def is_code(source: ByteSource) -> bool:
    """Tell whether an unpickler that is given these bytes would call something, or at least accept them as marked."""
    return pickled.walk(source).is_code
