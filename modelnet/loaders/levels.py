"""The ladder: how sure it is that what a runtime uses is what was hashed, strongest first."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Level"]


class Level(IntEnum):
    """What stands between the check and the use of a file. A smaller number is stronger.

    | level  | what happens                                           | in-place write | rename, link | second open |
    |--------|--------------------------------------------------------|----------------|--------------|-------------|
    | BYTES  | the bytes used are the bytes hashed, in our memory     | holds          | holds        | holds       |
    | SEALED | a copy in memory that nobody can write any more        | holds          | holds        | holds       |
    | VERITY | the kernel checks each page and refuses to write       | holds          | holds        | holds       |
    | HELD   | hashed through a descriptor that the runtime reopens   | open           | holds        | holds       |
    | COPY   | a private copy in a folder that only this user enters  | same user only | same user    | same user   |
    | CACHED | like HELD, and the hash is that of an earlier run      | open           | holds        | holds       |

    The last two columns are about the file in the store. A path in the folder of a `verified` model leads over a link,
    which the same user can replace; `Secured.path` has none on its way.
    """

    BYTES = 1
    SEALED = 2
    VERITY = 3
    HELD = 4
    COPY = 5
    CACHED = 6

    @property
    def label(self) -> str:
        """The level's name as options and JSON spell it."""
        return self.name.lower()
