"""fs-verity: the kernel keeps a Merkle tree of a file, checks each page and lets nobody write any more.

Linux, where the file system has the feature (ext4 with `-O verity`, btrfs, f2fs): the kernel's own documentation,
filesystems/fsverity.rst. Once a file has it the content behind its inode cannot change, so hashing it once is enough.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

__all__ = ["enable", "is_enabled"]

# include/uapi/linux/fsverity.h: _IOW('f', 133, struct fsverity_enable_arg), _IOWR('f', 134, struct fsverity_digest).
ENABLE, MEASURE = 0x40806685, 0xC0046686
# version, hash_algorithm (SHA-256), block_size, salt_size, salt_ptr, sig_size, reserved, sig_ptr, reserved
ARGUMENT = struct.Struct("=IIIIQIIQ88x")
DIGEST = struct.Struct("=HH64x")
SHA256, BLOCK = 1, 4096
# The file system, the kernel or the file will not have it; each is an answer and no failure.
NO = {
    errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EACCES, errno.EROFS,
    errno.ETXTBSY, errno.EMSGSIZE, errno.EBUSY, errno.ENOSPC, errno.ENODATA,
}  # fmt: skip


def is_enabled(handle: int) -> bool:
    """Tell whether the open file is under fs-verity."""
    return _ioctl(handle, MEASURE, bytearray(DIGEST.pack(0, 64)))


def enable(handle: int) -> bool:
    """Put the open file under fs-verity if its file system can; tell whether it is now."""
    if is_enabled(handle):
        return True
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else BLOCK
    _ioctl(handle, ENABLE, bytearray(ARGUMENT.pack(1, SHA256, min(page, BLOCK), 0, 0, 0, 0, 0)))
    return is_enabled(handle)


def _ioctl(handle: int, request: int, argument: bytearray) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(handle, request, argument)
    except OSError as error:
        if error.errno not in NO:
            raise
        return False
    return True
