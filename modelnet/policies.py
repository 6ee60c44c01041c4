"""What the operator of this machine allows beyond the defaults: `policy.toml`, and `policy` with the witnesses.

    policy.toml                              every key is optional; this is the whole language
        hard_max_days = 30                   how old knowledge may be before pinned releases are refused (365 offline)
        accept_stale = false                 resolve `latest` and channels on knowledge older than max_age
        offline_pinned = false               load pinned releases on knowledge older than hard_max_days
        quarantined = "refuse"               or "pinned": what was known before the publisher equivocated
        revoked_ancestor = "deny-malicious"  or "warn", "deny"
        strict = false                       refuse publishers that neither a name given here nor a locator vouches for
        [publisher."PID or alias"]           the same keys for one publisher, and
        allow_code = ["<sha256 of a file>"]  files that hold code and may be loaded all the same

    policy                                   C2SP tlog-policy: whose cosignatures say how fresh a log is

There is no key that lets a revoked release through.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from modelnet.core.freshness import HARD_MAX_S
from modelnet.core.identity import HEX, PID
from modelnet.core.policy import MAX_POLICY, Policy
from modelnet.errors import MalformedError, UnavailableError
from modelnet.stores.home import Home
from modelnet.stores.smallfile import read_small

__all__ = ["POLICY_FILE", "TERMS_FILE", "Policies", "Terms", "check_file", "load_policies", "load_witnesses"]

TERMS_FILE = "policy.toml"
POLICY_FILE = "policy"
MAX_TERMS = 256 * 1024
DAY_S = 24 * 3600
MAX_DAYS = 3650
QUARANTINED = ("refuse", "pinned")
ANCESTOR = ("warn", "deny", "deny-malicious")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ALONE = Policy((), (), None)  # no witnesses: the publisher's own beat tells the time


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms one publisher's releases are let through; the defaults are those of the table of freshness."""

    hard_max_s: int = HARD_MAX_S
    accept_stale: bool = False
    offline_pinned: bool = False
    quarantined: str = "refuse"
    revoked_ancestor: str = "deny-malicious"
    strict: bool = False
    allow_code: frozenset[str] = frozenset()

    def eased(self, *, accept_stale: bool = False, offline_pinned: bool = False, strict: bool = False) -> Self:
        """Return the terms with what a person asked for this one time."""
        return replace(
            self,
            accept_stale=self.accept_stale or accept_stale,
            offline_pinned=self.offline_pinned or offline_pinned,
            strict=self.strict or strict,
        )

    def as_fields(self) -> dict[str, Any]:
        """Return the terms under the names they have in the file."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown["hard_max_days"] = shown.pop("hard_max_s") // DAY_S
        return shown | {"allow_code": sorted(self.allow_code)}


@dataclass(frozen=True, slots=True)
class Policies:
    """The terms of this machine, and those of single publishers by pid or alias."""

    general: Terms = field(default_factory=Terms)
    publishers: Mapping[str, Terms] = field(default_factory=dict)

    def of(self, pid: str, alias: str | None = None) -> Terms:
        """Return the terms for a publisher; those under its pid win over those under its alias."""
        return self.publishers.get(pid) or self.publishers.get(alias or "", self.general)

    @classmethod
    def parse(cls, text: str, *, path: str = TERMS_FILE) -> Self:
        """Parse a policy file; raise `MalformedError` (rule `policy`) that names the key."""
        try:
            content = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise MalformedError(f"not TOML: {error}", rule="policy", path=path) from error
        publishers = content.pop("publisher", {})
        if not isinstance(publishers, dict):
            raise MalformedError("publisher is a table of tables", rule="policy", path=path)
        general = _terms(content, Terms(), path, single=False)
        single = {}
        for who, given in publishers.items():
            if not (PID.fullmatch(who) or _ALIAS.fullmatch(who)) or not isinstance(given, dict):
                raise MalformedError(
                    "not a publisher", rule="policy", path=path, got=repr(who)[:80], wanted="an id or an alias"
                )
            single[who] = _terms(given, general, f'{path} [publisher."{who}"]', single=True)
        return cls(general, single)


def load_policies(home: Home) -> Policies:
    """Return what `policy.toml` in `home` says; the defaults when there is none."""
    content = _read(home.root / TERMS_FILE, MAX_TERMS)
    if content is None:
        return Policies()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("policy is not UTF-8", rule="policy", path=str(home.root / TERMS_FILE)) from error
    return Policies.parse(text, path=str(home.root / TERMS_FILE))


def load_witnesses(home: Home) -> Policy:
    """Return the tlog-policy in `home`; `quorum none` when there is none."""
    path = home.root / POLICY_FILE
    content = _read(path, MAX_POLICY)
    if content is None:
        return ALONE
    try:
        return Policy.parse(content)
    except MalformedError as error:
        error.path = f"{path}, {error.path}" if error.path else str(path)
        raise


def check_file(path: Path, *, needed: bool = True) -> bool:
    """Read one policy file, `*.toml` or a tlog-policy, in full; tell whether it is there.

    Raises `MalformedError` with what is wrong, `UnavailableError` when a `needed` file is not there.
    """
    content = _read(path, MAX_TERMS)
    if content is None:
        if needed:
            raise UnavailableError("there is no such file", rule="policy", path=str(path))
        return False
    if path.suffix != ".toml":
        Policy.parse(content)
        return True
    try:
        Policies.parse(content.decode(), path=str(path))
    except UnicodeDecodeError as error:
        raise MalformedError("policy is not UTF-8", rule="policy", path=str(path)) from error
    return True


def _read(path: Path, limit: int) -> bytes | None:
    hint = "set MODELNET_HOME to a folder that you can read"
    return read_small(path, limit, "policy", follow=True, hint=hint)


def _terms(given: Mapping[str, Any], base: Terms, path: str, *, single: bool) -> Terms:
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key == "hard_max_days" and type(value) is int and 0 < value <= MAX_DAYS:
            values["hard_max_s"] = value * DAY_S
        elif (
            (key in ("accept_stale", "offline_pinned", "strict") and isinstance(value, bool))
            or (key == "quarantined" and value in QUARANTINED)
            or (key == "revoked_ancestor" and value in ANCESTOR)
        ):
            values[key] = value
        elif key == "allow_code" and single and _digests(value):
            values[key] = frozenset(value)
        else:
            raise MalformedError(
                f"policy does not allow {key}", rule="policy", path=path, got=repr(value)[:80],
                hint="the keys and their values are in the header of `modelnet policy show`",
            )  # fmt: skip
    return replace(base, **values)


def _digests(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and HEX.fullmatch(item) for item in value)
