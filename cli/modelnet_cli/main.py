"""The `modelnet` command: one line for each command, and the one place where errors become words and exit codes.

Exit codes: 0 done · 1 a bug of ours · 2 usage · 3 malformed or not what was signed · 4 not trusted ·
5 not available now · 130 interrupted.
"""

from __future__ import annotations

# Only what is there as soon as Python has started: the handlers in `main` come before everything else.
import os
import sys

from modelnet_cli import stopping

TYPE_CHECKING = False  # as type checkers understand it; `typing` takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["build", "main"]

GROUPS = frozenset(["gossip", "keys", "pin", "policy", "trust"])  # their commands are named by two words
ISSUES = "please report it with the lines above and what you did"


def build() -> Any:
    """Return the Typer application."""
    import typer

    from modelnet import __version__
    from modelnet_cli.commands import (
        doctor,
        gossip,
        init,
        inspect,
        keys,
        logs,
        node,
        peers,
        pin,
        policy,
        prove,
        publish,
        pull,
        scan,
        statements,
        status,
        trust,
        upkeep,
        verify,
    )  # fmt: skip
    from modelnet_cli.hearing import hearing
    from modelnet_cli.options import command

    app = typer.Typer(
        name="modelnet",
        help="Publish AI models once, pull them from anyone, load only what the author signed.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="State lives in $MODELNET_HOME. Exit codes: 2 usage, 3 damaged, 4 not trusted, 5 not available now.",
    )

    @app.callback()
    def root(
        *,
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if version:
            print(f"modelnet {__version__}")
            raise typer.Exit

    app.command("init")(command(init.init))
    app.command("publish")(command(publish.publish))
    app.command("pull")(command(hearing(pull.pull)))
    app.command("verify")(command(verify.verify))
    app.command("scan")(command(scan.scan))
    app.command("list")(command(inspect.list_releases))
    app.command("show")(command(inspect.show))
    app.command("node")(command(node.node))
    app.command("witness")(command(node.witness))
    app.command("status")(command(status.status))
    app.command("peers")(command(peers.peers))
    gossiping = typer.Typer(name="gossip", help="What the running node hears.", no_args_is_help=True)
    gossiping.command("trace")(command(gossip.trace))
    app.add_typer(gossiping)
    app.command("revoke")(command(statements.revoke))
    app.command("yank")(command(statements.yank))
    app.command("supersede")(command(statements.supersede))
    app.command("reinstate")(command(statements.reinstate))
    app.command("log")(command(logs.log))
    app.command("sync")(command(hearing(logs.sync)))
    app.command("audit")(command(logs.audit))
    app.command("beat")(command(logs.beat))
    app.command("prove")(command(prove.prove))
    trusting = typer.Typer(name="trust", help="What publishers are called on this machine.", no_args_is_help=True)
    trusting.command("add")(command(trust.add))
    trusting.command("list")(command(trust.show))
    trusting.command("remove")(command(trust.remove))
    app.add_typer(trusting)
    keyring = typer.Typer(name="keys", help="Your publisher's keys over its life.", no_args_is_help=True)
    keyring.command("list")(command(keys.list_keys))
    keyring.command("rotate")(command(keys.rotate))
    keyring.command("recover")(command(keys.recover))
    keyring.command("delegate")(command(keys.delegate))
    keyring.command("new-delegate")(command(keys.new_delegate))
    keyring.command("export")(command(keys.export))
    keyring.command("close")(command(keys.close))
    app.add_typer(keyring)
    policies = typer.Typer(
        name="policy", help="What this machine allows, and whose word it takes.", no_args_is_help=True
    )
    policies.command("show")(command(policy.show))
    policies.command("check")(command(policy.check))
    app.add_typer(policies)
    app.command("remove")(command(upkeep.remove))
    app.command("gc")(command(upkeep.gc))
    app.command("fsck")(command(upkeep.fsck))
    app.command("doctor")(command(doctor.doctor))
    pins = typer.Typer(help="Keep releases on Kubo, at pinning services and in clusters.", no_args_is_help=True)
    pins.command("add")(command(pin.add))
    pins.command("status")(command(pin.status))
    pins.command("rm")(command(pin.remove))
    pins.command("audit")(command(pin.audit))
    pins.command("deny-list")(command(pin.deny_list))
    app.add_typer(pins, name="pin")
    return app


def main() -> NoReturn:
    """Run the command line and exit."""
    stopping.answer_early()
    import contextlib
    import io

    from modelnet import __version__

    if sys.argv[1:] == ["--version"]:
        print(f"modelnet {__version__}")  # without Typer: scripts ask this often
        sys.exit(0)
    _stand_in()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name is shown on every terminal, whatever it holds
    code = 0
    app = build()
    try:
        stopping.answer_by_raising()
        code = run(sys.argv[1:], app)
        sys.stdout.flush()
    except KeyboardInterrupt:  # before the command had begun, or after it had ended
        code = code or 130
    except OSError as error:
        # What we did is done; only the telling failed, and Python would say so again when it exits.
        with contextlib.suppress(OSError):
            if not isinstance(error, BrokenPipeError):
                print(f"modelnet: cannot write the result: {error.strerror}", file=sys.stderr)
        _stand_in(closed=True)
        code = code or (141 if isinstance(error, BrokenPipeError) else 5)
    if code == 130:
        stopping.settle()
    sys.exit(code)


def _stand_in(*, closed: bool = False) -> None:
    """Let output that was closed, by whoever started us or by now, go nowhere instead of failing."""
    if closed or sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (for as long as the program runs)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (for as long as the program runs)


def run(arguments: list[str], app: Any = None) -> int:
    """Run one command; return its exit code. No traceback reaches a user, except for a bug of ours."""
    import contextlib
    import errno

    from modelnet.errors import ModelnetError
    from modelnet_cli import options
    from modelnet_cli.output import Output

    # Errors before a command has started must know how to speak too.
    options.current = Output(as_json="--json" in arguments)
    try:
        code = (app or build())(arguments, prog_name="modelnet", standalone_mode=False)
    except ModelnetError as error:
        options.current.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        options.current.interrupted()
        return 130
    except (BrokenPipeError, SystemExit) as ended:
        # Typer exits by itself after it has printed a completion script, and when a pipe broke.
        if isinstance(ended, SystemExit) and not ended.code:
            return 0
        # Whoever read our output went away; that is not an error worth a word.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename is not None:
            return _other(error, arguments)
        # Not a file of ours, which would be a typed error: what we print cannot be written.
        options.current.note(f"modelnet: cannot write the result: {error.strerror}")
        _stand_in(closed=True)
        return 5
    except Exception as error:  # noqa: BLE001  (the outermost boundary)
        return _other(error, arguments)
    # Typer answers an interrupt by returning its exit code.
    if code == 130:
        options.current.interrupted()
    return code if isinstance(code, int) else 0


def _other(error: Exception, arguments: list[str]) -> int:
    """Say what Typer refuses as a usage error; anything else is ours, and says so."""
    import traceback

    from modelnet import __version__
    from modelnet.errors import ModelnetError, UsageError
    from modelnet_cli import options

    # Typer's exceptions come from click or from its own copy of it, depending on its version.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "NoArgsIsHelpError" in names:
        print(error.format_message() if hasattr(error, "format_message") else "", file=sys.stderr)
        return 2
    if "ClickException" in names and hasattr(error, "format_message"):
        unknown = error.format_message().startswith("No such command")
        shown = "" if unknown else " ".join(_command(arguments))
        hint = f"see `modelnet {shown} --help`" if shown else "see `modelnet --help`"
        options.current.error(UsageError(_lower(error.format_message()), rule="usage", hint=hint))
        return 2
    if "Abort" in names:
        options.current.interrupted()
        return 130
    traceback.print_exception(error, file=sys.stderr)
    options.current.error(ModelnetError(f"this is a bug in modelnet {__version__}: {error!r}", rule="bug", hint=ISSUES))
    return 1


def _command(arguments: list[str]) -> list[str]:
    """Return the words that name the command: one, or two for those that come in groups."""
    words: list[str] = []
    for word in arguments[:2]:
        if word.startswith("-") or (words and words[0] not in GROUPS):
            break
        words.append(word)
    return words


def _lower(text: str) -> str:
    text = text.rstrip(".")
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    main()
