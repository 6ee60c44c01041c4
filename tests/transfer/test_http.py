"""Sources that break HTTP: wrong lengths, endless heads and bodies, drips, silence, resets, redirects.

Each behaviour says what it amounts to: `lied` (what came is not what was asked), `failed` (nothing usable came) or
`fine` (odd, but HTTP allows it and the bytes are right). A failure must never be taken for a lie.
"""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.transfer.hostile import Exchange, Kind, Proxy
from tests.transfer.scene import Scene
from tests.transfer.world import attempt

pytestmark = pytest.mark.usefixtures("quick")

OK = b"HTTP/1.1 200 OK\r\n"
COMPANY = ["alone", "together"]
KINDS = [Kind.HEAD, Kind.LOG, Kind.MANIFEST, Kind.NODE, Kind.CHUNK, Kind.CAR]
DRIP_S = 0.1  # at full length: one byte a second

SPOILS: dict[str, tuple[str, Callable[[Exchange], None]]] = {}


def behaviour(verdict: str) -> Callable[[Callable[[Exchange], None]], Callable[[Exchange], None]]:
    """Register a misbehaviour and what it amounts to."""

    def register(spoil: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        SPOILS[spoil.__name__] = (verdict, spoil)
        return spoil

    return register


@behaviour("fine")
def no_length(exchange: Exchange) -> None:
    """The body ends when the connection does."""
    exchange.send(OK + b"\r\n" + exchange.body)


@behaviour("fine")
def negative_length(exchange: Exchange) -> None:
    """A length that means nothing."""
    exchange.send(OK + b"Content-Length: -5\r\n\r\n" + exchange.body)


@behaviour("fine")
def length_of_letters(exchange: Exchange) -> None:
    """A length that is no number."""
    exchange.send(OK + b"Content-Length: many\r\n\r\n" + exchange.body)


@behaviour("fine")
def chunked(exchange: Exchange) -> None:
    """Chunked encoding in pieces of odd sizes, with extensions and trailers."""
    exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(exchange.body), 99_991):
        piece = exchange.body[start : start + 99_991]
        exchange.send(b"%x;name=value\r\n%b\r\n" % (len(piece), piece))
    exchange.send(b"0\r\nX-Trailer: 1\r\n\r\n")
    exchange.keep = True


@behaviour("fine")
def one_continue(exchange: Exchange) -> None:
    """An interim answer before the real one."""
    exchange.send(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n")
    exchange.honest()


@behaviour("fine")
def stale_connection(exchange: Exchange) -> None:
    """Every connection is closed after one answer that promised to keep it."""
    exchange.honest()
    exchange.keep = False


@behaviour("lied")
def length_too_small(exchange: Exchange) -> None:
    """One byte of the body is beyond the announced end."""
    exchange.reply(exchange.body, length=len(exchange.body) - 1)


@behaviour("failed")
def length_too_large(exchange: Exchange) -> None:
    """Ten bytes are announced that never come, and the connection stays open."""
    exchange.reply(exchange.body, length=len(exchange.body) + 10)
    exchange.silence()


@behaviour("failed")
def closed_early(exchange: Exchange) -> None:
    """Ten bytes are announced that never come, and the connection closes."""
    exchange.reply(exchange.body, length=len(exchange.body) + 10)


@behaviour("failed")
def huge_length(exchange: Exchange) -> None:
    """An exabyte is announced."""
    exchange.reply(exchange.body, length=10**18)


@behaviour("failed")
def chunk_of_nonsense(exchange: Exchange) -> None:
    """A chunk size that is no number, and as long as a line may be."""
    exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"\x1b[2Jzz" * 9000 + b"\r\n" + exchange.body)


@behaviour("failed")
def chunk_cut_off(exchange: Exchange) -> None:
    """The connection closes inside a chunk."""
    exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(exchange.body) + 9) + exchange.body)


@behaviour("lied")
def chunk_of_minus_one(exchange: Exchange) -> None:
    """A chunk of -1 bytes: some readers take that for "all there is", without end."""
    exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n")
    exchange.repeat(b"x" * 65536)


@behaviour("lied")
def huge_chunk(exchange: Exchange) -> None:
    """A chunk of 16 exabytes."""
    exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
    exchange.repeat(b"x" * 65536)


@behaviour("lied")
def endless_body(exchange: Exchange) -> None:
    """A body that never ends."""
    exchange.send(OK + b"\r\n")
    exchange.repeat(b"x" * 65536)


@behaviour("lied")
def gzipped(exchange: Exchange) -> None:
    """A content encoding that nobody asked for."""
    exchange.reply(gzip.compress(exchange.body), headers="Content-Encoding: gzip\r\n")


@behaviour("lied")
def a_page(exchange: Exchange) -> None:
    """200 with a page for people, as captive portals send it."""
    exchange.reply(b"<!doctype html><title>Sign in</title>" * 8, headers="Content-Type: text/html\r\n")


@behaviour("failed")
def nothing(exchange: Exchange) -> None:
    """200 with an empty body that was announced as a long one."""
    exchange.reply(b"", length=len(exchange.body))


@behaviour("failed")
def endless_headers(exchange: Exchange) -> None:
    """Headers without end."""
    exchange.send(OK)
    exchange.repeat(b"X-Filler: " + b"y" * 1000 + b"\r\n")


@behaviour("failed")
def endless_header_line(exchange: Exchange) -> None:
    """One header line without end."""
    exchange.send(OK + b"X-Filler: ")
    exchange.repeat(b"y" * 65536)


@behaviour("failed")
def endless_continue(exchange: Exchange) -> None:
    """Interim answers without end."""
    exchange.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, every_s=0.01)


@behaviour("failed")
def header_drip(exchange: Exchange) -> None:
    """A head that comes byte by byte."""
    exchange.send(OK + b"X-Filler: ")
    exchange.repeat(b"y", every_s=DRIP_S)


@behaviour("failed")
def body_drip(exchange: Exchange) -> None:
    """A body that comes byte by byte."""
    exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(exchange.body))
    for at in range(len(exchange.body)):
        if exchange.proxy.stopping.is_set() or exchange.left(DRIP_S):
            return
        exchange.send(exchange.body[at : at + 1])


@behaviour("failed")
def silence(exchange: Exchange) -> None:
    """The request is taken and never answered."""
    exchange.silence()


@behaviour("failed")
def silence_in_the_body(exchange: Exchange) -> None:
    """Half of the body comes, then nothing."""
    exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(exchange.body) + exchange.body[: len(exchange.body) // 2])
    exchange.silence()


@behaviour("failed")
def hang_up(exchange: Exchange) -> None:
    """The connection closes instead of an answer."""
    exchange.keep = False


@behaviour("failed")
def reset(exchange: Exchange) -> None:
    """The connection is reset instead of an answer."""
    exchange.reset()


@behaviour("failed")
def hang_up_in_the_head(exchange: Exchange) -> None:
    """The connection closes inside the head."""
    exchange.send(OK + b"Content-Le")


@behaviour("failed")
def hang_up_after_the_head(exchange: Exchange) -> None:
    """The connection closes before the first byte of the body."""
    exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(exchange.body))


@behaviour("failed")
def hang_up_in_the_body(exchange: Exchange) -> None:
    """The connection closes in the middle of the body."""
    exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(exchange.body) + exchange.body[: len(exchange.body) // 2])


@behaviour("failed")
def reset_in_the_body(exchange: Exchange) -> None:
    """The connection is reset in the middle of the body."""
    hang_up_in_the_body(exchange)
    exchange.reset()


@behaviour("failed")
def http_0_9(exchange: Exchange) -> None:
    """A body without any head."""
    exchange.send(exchange.body)


@behaviour("failed")
def terminal_codes(exchange: Exchange) -> None:
    """A status line that would clear the screen of whoever reads the error."""
    exchange.send(b"HTTP/1.1 500 \x1b[2J\x1b]0;owned\x07" + b"A" * 5000 + b"\r\nContent-Length: 0\r\n\r\n")


@behaviour("failed")
def terminal_codes_instead_of_a_status(exchange: Exchange) -> None:
    """The same where no status is."""
    exchange.send(b"\x1b[2J" * 5000 + b"\r\n\r\n")


@behaviour("failed")
def endless_error(exchange: Exchange) -> None:
    """An error whose page never ends."""
    exchange.send(b"HTTP/1.1 500 no\r\n\r\n")
    exchange.repeat(b"x" * 65536)


for status in ("204 No Content", "206 Partial Content", "404 Not Found", "410 Gone", "429 Slow Down", "503 Busy"):

    def answer_status(exchange: Exchange, status: str = status) -> None:
        """Answer with a status that is not 200."""
        exchange.reply(b"" if status.startswith("204") else exchange.body[:100], status=status)

    SPOILS[f"status_{status[:3]}"] = ("failed", answer_status)

# What takes until a clock runs out is tried on the two kinds of readers only: a whole body, and a stream.
SLOW = {
    "length_too_large", "endless_continue", "header_drip", "body_drip", "silence", "silence_in_the_body",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A misbehaviour on one kind of request, and what it amounts to."""

    name: str
    kind: Kind
    verdict: str
    spoil: Callable[[Exchange], None]

    def __str__(self) -> str:
        return f"{self.name}-{self.kind}"


CASES = [
    Case(name, kind, verdict, spoil)
    for (name, (verdict, spoil)), kind in itertools.product(SPOILS.items(), KINDS)
    if name not in SLOW or kind in (Kind.NODE, Kind.CHUNK, Kind.CAR)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alone(scene: Scene, case: Case) -> None:
    """Alone, such a source means a typed error of the right kind that names it, in bounded time and memory."""
    outcome = scene.alone(case.spoil, [case.kind])
    if case.verdict == "fine":
        assert outcome.error is None
    elif case.verdict == "lied":
        assert outcome.error is not None
        assert outcome.error.exit_code in (3, 4), repr(outcome.error)
    elif outcome.error is not None:  # what came before it failed may have been enough
        assert outcome.error.exit_code == 5, repr(outcome.error)
        assert "lied" not in str(outcome.error)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_together(scene: Scene, case: Case) -> None:
    """Beside an honest source, such a source costs some time and is called what it is."""
    state = scene.together(case.spoil, [case.kind])
    if case.verdict == "lied":
        assert state == "lied"
    else:
        assert state != "lied"


def test_redirect_is_not_followed(scene: Scene) -> None:
    """A source cannot send us to another host."""
    with Proxy(scene.node) as elsewhere:

        def redirect(exchange: Exchange) -> None:
            exchange.reply(b"", status="301 Moved", headers=f"Location: {elsewhere.url}{exchange.path}\r\n")

        with Proxy(scene.node, redirect) as hostile:
            error = attempt(scene.world.v1, scene.home, [hostile.url]).refused(5)
        assert "301" in str(error)
        assert elsewhere.paths_asked == []


def test_endless_answers_stay_small(scene: Scene) -> None:
    """What is read of an endless block is bounded by what a block may be, not by the source's patience."""
    for spoil in (endless_body, chunk_of_minus_one, huge_chunk):
        for kind, most in ((Kind.NODE, 32 << 20), (Kind.CHUNK, 16 << 20), (Kind.CAR, 24 << 20)):
            with Proxy(scene.node, spoil, kinds=[kind]) as hostile:
                attempt(scene.world.v1, scene.home / spoil.__name__ / kind, [hostile.url]).refused(3)
                assert hostile.sent < most, (spoil.__name__, kind)


def test_a_dead_source_does_not_cost_its_timeout_each_time(scene: Scene) -> None:
    """A source that takes no request is asked once; then the honest one comes first, also for many small blocks."""
    with Proxy(scene.node, silence) as hostile:
        outcome = attempt(scene.world.v1, scene.home, [hostile.url, scene.node])
        outcome.whole(scene.world.files_v1)
        assert hostile.kinds_asked.count(Kind.HEAD) == 1
        assert Kind.MANIFEST not in hostile.kinds_asked
        assert Kind.NODE not in hostile.kinds_asked


def test_slow_but_honest(scene: Scene) -> None:
    """A chunk that takes longer than any clock is no failure as long as bytes keep coming."""

    def slowly(exchange: Exchange) -> None:
        exchange.send(OK + b"Content-Length: %d\r\n\r\n" % len(exchange.body))
        pieces = 32
        size = -(-len(exchange.body) // pieces)
        for start in range(0, len(exchange.body), size):
            exchange.send(exchange.body[start : start + size])
            time.sleep(3.0 / pieces)
        exchange.keep = True

    with Proxy(scene.node, slowly, kinds=[Kind.CHUNK]) as honest:
        outcome = attempt(scene.world.v1, scene.home, [honest.url], only=["sub/*"])
        assert outcome.error is None, str(outcome.error)
        assert outcome.state(honest.url) == "ok"
    assert outcome.seconds > 2.5
