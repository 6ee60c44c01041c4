"""Policy files: C2SP tlog-policy, its example, its rules, and which time a quorum stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.policy import MAX_DEFINED, MAX_POLICY, Policy
from modelnet.errors import MalformedError, ModelnetError, TrustError
from tests.core.logs import T0, Log, key

NAMES = ("X1", "X2", "X3", "Y1", "Y2", "Y3")
WITNESSES = {name: NoteKey(f"wit.example/{name}", key(f"witness {name}").verify_key, COSIGNATURE) for name in NAMES}
LOG = NoteKey("log.example/one", key("log").verify_key)
BEACON = NoteKey("log.example/two", key("log 2").verify_key)
V = {name: witness.vkey for name, witness in WITNESSES.items()}

# The example of the specification, with keys filled in.
EXAMPLE = f"""\
log {LOG.vkey}

witness X1 {V["X1"]}
witness X2 {V["X2"]}
witness X3 {V["X3"]}
group X-witnesses 2 X1 X2 X3

witness Y1 {V["Y1"]}
witness Y2 {V["Y2"]}
witness Y3 {V["Y3"]}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def parse(text: str) -> Policy:
    """Parse a policy written as text."""
    return Policy.parse(text.encode())


def times(**at: int) -> dict[NoteKey, int]:
    """Return cosignatures of the named witnesses."""
    return {WITNESSES[name]: time for name, time in at.items()}


@pytest.mark.parametrize(
    ("at", "time"),
    [
        ({}, None), ({"X1": 5, "X2": 6}, None), ({"Y1": 9}, None), ({"X1": 5, "Y1": 9}, None),
        ({"X1": 5, "X2": 6, "Y1": 9}, 5), ({"X1": 5, "X2": 6, "X3": 7, "Y1": 9}, 6),
        ({"X1": 5, "X2": 6, "X3": 7, "Y1": 1, "Y3": 2}, 2), ({"X1": 8, "X2": 8, "Y2": 8}, 8),
    ],
)  # fmt: skip
def test_the_example_of_the_specification(at: dict[str, int], time: int | None) -> None:
    """Two of three X and any Y: the time is the newest at or after which that many witnessed."""
    assert parse(EXAMPLE).time(times(**at)) == time


def test_what_a_policy_names() -> None:
    """Logs and witnesses with their keys and addresses."""
    policy = parse(f"log {LOG.vkey} https://log.example/\nwitness a {V['X1']} https://x.example\nquorum a\n")
    assert policy.logs == ((LOG, b"https://log.example/"),)
    assert [(one.name, one.key, one.url) for one in policy.witnesses] == [(b"a", WITNESSES["X1"], b"https://x.example")]


@pytest.mark.parametrize(
    "text",
    [
        "quorum none\n",
        " \tquorum\t none \t\n",
        "# comment\n\t # comment \xe4\n\nquorum none\n",
        f"quorum none\nlog {LOG.vkey}\n",
        f"witness \u212a {V['X1']}\nwitness K {V['X2']}\ngroup \u4e00 2 K \u212a\nquorum \u4e00\n",
        f"witness all {V['X1']}\ngroup any any all\nquorum any\n",
        f"log {LOG.vkey}\nwitness a {NoteKey('w', LOG.key, COSIGNATURE).vkey}\nquorum a\n",
        f"witness a {V['X1']}\nwitness b {V['X2']}\ngroup g 1 a\nquorum b\n",
    ],
    ids=range(8),
)
def test_what_the_specification_allows(text: str) -> None:
    """White space, comments, names in any bytes, words of the language as names, a key as log and as witness."""
    parse(text)


W1, W2 = f"witness a {V['X1']}\n", f"witness b {V['X2']}\n"
REFUSED = {
    "nothing": "",
    "no quorum": f"log {LOG.vkey}\n",
    "two quorums": "quorum none\nquorum none\n",
    "no newline at the end": "quorum none",
    "carriage return": "quorum none\r\n",
    "no-break space is no space": "quorum\xa0none\n",
    "form feed": "\fquorum none\n",
    "NUL": "quorum none\n#\0\n",
    "delete": "quorum none\n#\x7f\n",
    "quorum of nobody": "quorum a\n",
    "quorum of two": W1 + W2 + "quorum a b\n",
    "quorum before the name": "quorum a\n" + W1,
    "an unknown word": "quorum none\nmonitor a\n",
    "capitals": "Quorum none\n",
    "comment behind": "quorum none # no witness\n",
    "a log without a key": "log\nquorum none\n",
    "a log with a word too many": f"log {LOG.vkey} a b\nquorum none\n",
    "a log with a witness's key": f"log {V['X1']}\nquorum none\n",
    "a witness with a log's key": f"witness a {LOG.vkey}\nquorum a\n",
    "one log twice": f"log {LOG.vkey}\nlog {NoteKey('other', LOG.key).vkey}\nquorum none\n",
    "one witness twice": W1 + f"witness b {NoteKey('other', WITNESSES['X1'].key, COSIGNATURE).vkey}\nquorum a\n",
    "one name twice": W1 + f"witness a {V['X2']}\nquorum a\n",
    "a witness called none": f"witness none {V['X1']}\nquorum none\n",
    "a group called none": W1 + "group none any a\nquorum none\n",
    "a group called as a witness": W1 + "group a any a\nquorum a\n",
    "a group of none": W1 + "group g any none\nquorum g\n",
    "a group of nobody": W1 + "group g any\nquorum a\n",
    "a group of itself": W1 + "group g any g\nquorum g\n",
    "a group before its member": "group g any a\n" + W1 + "quorum g\n",
    "a member twice": W1 + "group g 1 a a\nquorum g\n",
    "a member of two groups": W1 + W2 + "group g any a b\ngroup h any b\nquorum g\n",
    "zero of one": W1 + "group g 0 a\nquorum g\n",
    "two of one": W1 + "group g 2 a\nquorum g\n",
    "one with a zero before": W1 + "group g 01 a\nquorum g\n",
    "one with a sign": W1 + "group g +1 a\nquorum g\n",
    "one in other digits": W1 + "group g \u0661 a\nquorum g\n",
    "one in words": W1 + "group g one a\nquorum g\n",
    "a key with another id": f"witness a {V['X1'].replace('+', '+0', 1)}\nquorum a\n",
    "a key that is cut off": f"witness a {V['X1'][:-4]}\nquorum a\n",
    "a key that is not UTF-8": "witness a \xff+00000000+AAAA\nquorum a\n",
    "too many groups": W1 + "group g0 any a\n" + "".join(
        f"group g{number + 1} any g{number}\n" for number in range(MAX_DEFINED)) + "quorum a\n",
    "too large": "#" * MAX_POLICY + "\nquorum none\n",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_policies_are_refused(case: str) -> None:
    """Each rule of the specification, broken once; the error names the line where there is one."""
    with pytest.raises(MalformedError) as caught:
        Policy.parse(REFUSED[case].encode("latin-1" if case == "a key that is not UTF-8" else "utf-8"))
    assert caught.value.rule == "policy"


def test_the_error_names_the_line() -> None:
    """A person has to find it."""
    with pytest.raises(MalformedError, match="in line 3"):
        parse("# one\n\nquorum nobody\n")


def test_groups_may_nest_as_deep_as_there_are_groups() -> None:
    """The deepest policy that is read can be asked."""
    lines = "".join(f"group g{number + 1} any g{number}\n" for number in range(MAX_DEFINED - 1))
    policy = parse(W1 + "group g0 any a\n" + lines + f"quorum g{MAX_DEFINED - 1}\n")
    assert policy.time(times(X1=7)) == 7


def test_a_head_is_valid_by_log_and_quorum() -> None:
    """Signed by a log of the policy and cosigned by enough; each part alone is not enough."""
    log = Log()
    state = log.state
    lines = f"log {state.log_keys()[0].vkey}\n" + W1 + W2 + "group g all a b\nquorum g\n"
    head = log.head()
    once = head.cosign("wit.example/X1", key("witness X1"), T0)
    both = once.cosign("wit.example/X2", key("witness X2"), T0)

    assert parse(lines).verify(both, state.origin).size == 1
    assert parse(lines.replace("quorum g", "quorum none")).verify(head, state.origin).size == 1
    assert parse("quorum none\n").verify(head, state.origin, state.log_keys()).size == 1
    for policy, note in ((lines, once), (lines, head), ("quorum none\n", both)):
        with pytest.raises(TrustError):
            parse(policy).verify(note, state.origin)
    with pytest.raises(TrustError):
        parse(lines).verify(both, "log.example/other")


WORDS = ["log", "witness", "group", "quorum", "none", "all", "any", "1", "2", "a", "b", "g", "#", LOG.vkey, *V.values()]


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=8).map("\n".join))
def test_any_words_are_a_policy_or_malformed(text: str) -> None:
    """Words of the language in any order: a policy that can be asked, or a typed error."""
    try:
        policy = parse(text + "\nquorum none\n" if "quorum" not in text else text + "\n")
    except ModelnetError:
        return
    assert policy.quorum is None or policy.time(dict.fromkeys(WITNESSES.values(), 5)) == 5


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_a_policy_or_malformed(position: int, value: int) -> None:
    """Whatever byte stands in a policy instead, the only error is a typed one."""
    data = bytearray(EXAMPLE.encode())
    data[position] = value
    try:
        Policy.parse(bytes(data))
    except ModelnetError:
        return


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)), st.integers(0, 9))
def test_the_time_is_the_largest_that_the_quorum_holds_at(at: dict[str, int], asked: int) -> None:
    """By the definition: T is reached exactly when those who cosigned at or after T satisfy the quorum."""
    since = {name for name, time in at.items() if time >= asked}
    holds = len(since & {"X1", "X2", "X3"}) >= 2 and bool(since & {"Y1", "Y2", "Y3"})
    time = parse(EXAMPLE).time(times(**at))
    assert holds == (time is not None and time >= asked)
