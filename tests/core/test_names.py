"""Names, versions, aliases, locators: what may be typed, and what is refused with an example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.names import Floor, Locator, Reference, check_alias, check_name, check_version, parse_reference
from modelnet.errors import UsageError

PID = "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
DIGEST = "0123456789abcdef" * 4
names = st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,127}", fullmatch=True)
versions = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", fullmatch=True).filter(lambda text: text[-1] != ".")


def usable(name: str) -> bool:
    """Tell whether a name that has the right letters also has the right parts."""
    return all(part not in ("", ".", "..") and part[-1] != "." for part in name.split("/"))


@given(names.filter(usable), versions)
def test_locator_round_trip(name: str, version: str) -> None:
    """A locator parses to the very release that it names."""
    locator = Locator.of(PID, name, version, DIGEST)
    assert parse_reference(str(locator)) == Reference(PID, name, version, DIGEST)


@given(names.filter(usable), versions | st.none())
def test_reference_round_trip(name: str, version: str | None) -> None:
    """A reference by pid or by alias parses to itself."""
    for publisher in (PID, "acme"):
        reference = Reference(publisher, name, version)
        assert parse_reference(str(reference)) == reference


def test_later_parameters_are_ignored() -> None:
    """A locator with the parameters of a later version still names its release."""
    text = f"modelnet:{PID}/m@1?z=12&m={DIGEST}&new=%20"
    assert parse_reference(text) == Reference(PID, "m", "1", DIGEST)


@given(names.filter(usable), versions, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_locator_carries_a_head_of_the_log(name: str, version: str, size: int, root: bytes) -> None:
    """The floor of a locator comes back, whatever the head is."""
    floor = Floor(size, root)
    locator = Locator.of(PID, name, version, DIGEST, floor)
    assert parse_reference(str(locator)) == Reference(PID, name, version, DIGEST, floor)


ROOT = "A" * 43


@pytest.mark.parametrize(
    "floor",
    ["s=1", f"r={ROOT}", f"s=0&r={ROOT}", f"s=01&r={ROOT}", f"s=-1&r={ROOT}", f"s={2**63}&r={ROOT}", "s=1&r=",
     f"s=1&r={ROOT[1:]}", f"s=1&r={ROOT}A", f"s=1&r={ROOT}=", f"s=1&r={ROOT[1:]}B", f"s=1&r={ROOT[1:]}~"],
)  # fmt: skip
def test_half_a_head_is_refused(floor: str) -> None:
    """A floor that was cut off in a message is not silently no floor."""
    with pytest.raises(UsageError, match="head"):
        parse_reference(f"modelnet:{PID}/m@1?{floor}&m={DIGEST}")


def test_a_locator_may_pin_nothing() -> None:
    """Without parameters, or without a version, a locator is a reference by pid."""
    assert parse_reference(f"modelnet:{PID}/m@1") == Reference(PID, "m", "1")
    assert parse_reference(f"modelnet:{PID}/a/b") == Reference(PID, "a/b")


BAD = [
    "",
    "m",
    "/m",
    "acme/",
    "acme/m@",
    "acme/@1",
    "acme//m",
    "acme/m/",
    "acme/../m",
    "acme/./m",
    "acme/a..b/..",
    "acme/m.",
    "acme/M",
    "acme/m m",
    "acme/m@1@2",
    "acme/m@1 ",
    "acme/m@1\n",
    "acme/m\n",
    "acme/m@.1",
    "acme/m@1.",
    "acme/m@-1",
    "acme/m@../1",
    "acme/m@" + "1" * 65,
    "acme/" + "m" * 129,
    "acme/m?",
    "acme/m@1?m=" + DIGEST,
    "Acme/m",
    "acme!/m",
    "a" * 65 + "/m",
    "-acme/m",
    "acmé/m",
    "acme/модель",
    "acme/m\x00",
    "https://example.org/m",
    "modelnet:acme/m@1",  # an alias means nothing elsewhere
    "modelnet:" + PID[:-1] + "/m@1",
    "modelnet:" + PID + "a/m@1",
    "modelnet:" + PID.upper() + "/m@1",
    "modelnet:" + PID[:-1] + "1/m@1",
    f"modelnet:{PID}",
    f"modelnet:{PID}/m@1?",
    f"modelnet:{PID}/m@1?m=" + DIGEST[:-1],
    f"modelnet:{PID}/m@1?m=" + DIGEST.upper(),
    f"modelnet:{PID}/m@1?m={DIGEST}&m={DIGEST}",
    f"modelnet:{PID}/m@1?m=",
    f"modelnet:{PID}/m@1?m={DIGEST}#x",
    f"modelnet:{PID}/m@1?x=" + "a" * 1100,
    f"modelnet:{PID}/m@1?m={DIGEST}\n",
    f"modelnet:{PID}/m@1?x=<script>",
    f"modelnet:modelnet:{PID}/m@1",
    f" modelnet:{PID}/m@1",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_references(text: str) -> None:
    """Whatever is not a reference is refused as usage, in a sentence short enough to show."""
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 1500


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Any text is refused as usage or is a reference whose parts are checked."""
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    check_name(reference.name)
    if reference.version is not None:
        check_version(reference.version)


def test_aliases() -> None:
    """A publisher id is no alias: what looks like an id must be one."""
    assert check_alias("acme-labs.eu_2") == "acme-labs.eu_2"
    for alias in (PID, "", "Acme", "a/b", ".a", "a" * 65, "a\n"):
        with pytest.raises(UsageError):
            check_alias(alias)


@pytest.mark.parametrize("name", ["tiny", "a", "llama/7b", "org/family/size.q4_0", "0", "a-b_c.d", "x" * 128])
def test_good_names(name: str) -> None:
    """Lower-case names with folders pass as they are."""
    assert check_name(name) == name


@pytest.mark.parametrize("version", ["1", "1.0.0", "2024-01-01", "v1+cu12", "A", "1.0_rc1", "1" * 64])
def test_good_versions(version: str) -> None:
    """Versions of every usual kind pass as they are."""
    assert check_version(version) == version
