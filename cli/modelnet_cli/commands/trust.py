"""`modelnet trust`: what publishers are called on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from modelnet_cli.output import Output


def add(
    output: Output,
    alias: Annotated[str, typer.Argument(help="What to call the publisher here, e.g. acme.")],
    publisher: Annotated[str, typer.Argument(metavar="ID|LOCATOR", help="Its 52-character id, or any locator of it.")],
) -> None:
    """Call a publisher by a name; the name stays with it."""
    from modelnet.core.names import parse_reference
    from modelnet.stores.home import Home
    from modelnet.stores.petnames import Petnames

    pid = parse_reference(publisher).publisher if publisher.startswith("modelnet:") else publisher
    for other in Petnames(Home.find()).add(alias, pid):
        output.note(f"careful: {alias!r} is easily taken for {other!r}, another publisher here")
    output.result({"alias": alias, "publisher": pid}, f"{alias}  {pid}")


def show(output: Output) -> None:
    """List whom this machine calls what."""
    from modelnet.stores.home import Home
    from modelnet.stores.keyring import own_publishers
    from modelnet.stores.petnames import Petnames

    home = Home.find()
    names = sorted(Petnames(home).all().items())
    own = set(own_publishers(home.keys))
    output.result(
        {"trusted": [{"alias": alias, "publisher": pid, "own": pid in own} for alias, pid in names]},
        *(f"{alias}  {pid}{'  yours' if pid in own else ''}" for alias, pid in names),
        *(() if names else ("nobody has a name here yet; give one with `modelnet trust add NAME ID`",)),
    )


def remove(
    output: Output, alias: Annotated[str, typer.Argument(help="The name to forget; the publisher stays known.")]
) -> None:
    """Forget a name."""
    from modelnet.stores.home import Home
    from modelnet.stores.petnames import Petnames

    pid = Petnames(Home.find()).remove(alias)
    output.result({"alias": alias, "publisher": pid}, f"{alias} means nobody any more; it was {pid}")
