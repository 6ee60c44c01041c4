"""Names that a person takes for one another.

Names and aliases are ASCII by their grammar, so letters of other scripts never get this far (`modelnet.core.names`
refuses them). What is left: characters that look alike in common fonts, and slips of one key. Source for the pairs:
Unicode UTS 39, confusables.txt, the lines within ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["alike", "look_alikes"]

_FOLD = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "8": "b", "_": "-", ".": "-"})
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
SHORT = 3  # of names this short, one that differs in a letter is another name


def skeleton(name: str) -> str:
    """Return what is left of `name` when characters that look alike are made the same."""
    folded = name.lower().translate(_FOLD)
    for pair, single in _PAIRS:
        folded = folded.replace(pair, single)
    return folded.replace("-", "")


def alike(one: str, two: str) -> bool:
    """Tell whether two different names look the same, or are one slip apart: a letter more, less, other or swapped."""
    if one == two:
        return False
    return skeleton(one) == skeleton(two) or (min(len(one), len(two)) > SHORT and _one_slip(one, two))


def look_alikes(name: str, known: Iterable[str]) -> list[str]:
    """Return those of `known` that `name` may be taken for."""
    return sorted(other for other in known if alike(name, other))


def _one_slip(one: str, two: str) -> bool:
    """Tell whether the Damerau-Levenshtein distance is 1."""
    short, long = sorted((one, two), key=len)
    if len(long) - len(short) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[start : start + 2][::-1] == long[start : start + 2]
    return short[start + 1 :] == long[start + 1 :] or (swapped and short[start + 2 :] == long[start + 2 :])
