"""`modelnet policy`: what this machine allows, and whose word it takes for how recent a log is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from modelnet_cli.output import Output


def show(output: Output) -> None:
    """Show the terms that hold here, for all and for single publishers, and the witnesses."""
    from modelnet import policies
    from modelnet.stores.home import Home

    home = Home.find()
    found, witnesses = policies.load_policies(home), policies.load_witnesses(home)
    path = home.root / policies.TERMS_FILE
    listed = [
        {
            "name": one.name.decode(errors="replace"),
            "key": one.key.vkey,
            "url": (one.url or b"").decode("ascii", "replace"),
        }
        for one in witnesses.witnesses
    ]
    quorum = None if witnesses.quorum is None else witnesses.quorum.name.decode(errors="replace")
    lines = [f"# {line}".rstrip() for line in inspect.cleandoc(policies.__doc__ or "").splitlines()]
    lines += ["", f"# {path}{'' if path.exists() else ' (not there: these are the defaults)'}"]
    lines += _lines(found.general.as_fields())
    for who, terms in found.publishers.items():
        lines += ["", f'[publisher."{who}"]', *_lines(terms.as_fields())]
    lines += ["", f"# {home.root / policies.POLICY_FILE}: quorum {quorum or 'none'}"]
    lines += [f"# witness {one['name']} {one['key']} {one['url']}".rstrip() for one in listed]
    output.result(
        {
            "path": str(path), "exists": path.exists(), "general": found.general.as_fields(),
            "publishers": {who: terms.as_fields() for who, terms in found.publishers.items()},
            "witnesses": listed, "quorum": quorum,
        },
        *lines,
    )  # fmt: skip


def check(
    output: Output,
    file: Annotated[
        Path | None, typer.Argument(help="policy.toml or a tlog-policy; both of this store when not given.")
    ] = None,
) -> None:
    """Say whether policy files can be read in full; a mistake in one is never read as leniency."""
    from modelnet import policies
    from modelnet.stores.home import Home

    home = Home.find()
    paths = [file] if file is not None else [home.root / policies.TERMS_FILE, home.root / policies.POLICY_FILE]
    checked = [str(path) for path in paths if policies.check_file(path, needed=file is not None)]
    output.result(
        {"checked": checked}, *(f"{path}: in order" for path in checked), *(() if checked else ("no policy",))
    )


def _lines(fields: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in fields.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
