"""Variants: which files a choice means, what fits into a memory, and what is no variant."""

from __future__ import annotations

from typing import Any

import pytest

from modelnet.core.variants import AUTO, Variant, choose, files_of, read_variants
from modelnet.errors import MalformedError, UnavailableError, UsageError

PATHS = ["config.json", "q4.gguf", "q8.gguf", "shared.bin"]
FIELDS: dict[str, Any] = {
    "q8": {"files": ["q8.gguf", "shared.bin"], "min_memory": 800, "bits": 8.5, "quant": "Q8_0"},
    "q4": {"files": ["q4.gguf", "shared.bin"], "min_memory": 400, "bits": 4.5},
}


def test_a_variant_has_its_files_and_what_belongs_to_none() -> None:
    """Shared files come with each of them, the others' do not; without a choice all come."""
    variants = read_variants(FIELDS, PATHS)
    assert [variant.name for variant in variants] == ["q4", "q8"]
    assert files_of(choose(variants, "q4"), variants, PATHS) == ["config.json", "q4.gguf", "shared.bin"]
    assert files_of(None, variants, PATHS) == PATHS
    assert files_of(choose((), AUTO), (), PATHS) == PATHS


@pytest.mark.parametrize(("memory", "name"), [(None, "q8"), (800, "q8"), (799, "q4"), (400, "q4")])
def test_auto_takes_the_finest_that_fits(memory: int | None, name: str) -> None:
    """More bits for each parameter are better, as long as the machine can hold them."""
    chosen = choose(read_variants(FIELDS, PATHS), AUTO, memory)
    assert chosen is not None
    assert chosen.name == name


def test_what_cannot_be_chosen() -> None:
    """A name that there is not is told with those that there are; too small a machine with the smallest one."""
    variants = read_variants(FIELDS, PATHS)
    with pytest.raises(UsageError, match="no such variant") as unknown:
        choose(variants, "q5")
    assert "q4, q8" in str(unknown.value.hint)
    with pytest.raises(UsageError):
        choose((), "q4")
    with pytest.raises(UnavailableError) as small:
        choose(variants, AUTO, 399)
    assert "q4" in str(small.value.hint)


@pytest.mark.parametrize(
    "fields",
    [
        [], "q4", {"q4": []}, {"q4": {}}, {"q4": {"files": []}}, {"q4": {"files": "q4.gguf"}}, {"q4": {"files": [1]}},
        {"q4": {"files": ["none.gguf"]}}, {"": {"files": ["q4.gguf"]}}, {"a/b": {"files": ["q4.gguf"]}},
        {AUTO: {"files": ["q4.gguf"]}}, {"q4": {"files": ["q4.gguf"], "min_memory": -1}},
        {"q4": {"files": ["q4.gguf"], "min_memory": True}}, {"q4": {"files": ["q4.gguf"], "bits": "4"}},
        {"q4": {"files": ["q4.gguf"], "bits": float("inf")}}, {"q4": {"files": ["q4.gguf"], "bits": float("nan")}},
        {str(number): {"files": ["q4.gguf"]} for number in range(300)},
    ],
)  # fmt: skip
def test_what_is_no_variant(fields: Any) -> None:
    """Each is refused by its rule."""
    with pytest.raises(MalformedError) as caught:
        read_variants(fields, PATHS)
    assert caught.value.rule == "variant"


@pytest.mark.parametrize("name", ["", AUTO, "-q", "a b", "x" * 65])
def test_names(name: str) -> None:
    """A name is one word that no option can be mistaken for."""
    with pytest.raises(UsageError):
        Variant(name, ("q4.gguf",))
