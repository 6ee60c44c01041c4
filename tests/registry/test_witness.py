"""Our witness and those who submit to it: every answer of C2SP tlog-witness, crashes, races, and the client's side."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from modelnet.core.evidence import Evidence
from modelnet.core.merkle import EMPTY_ROOT
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.core.policy import Policy
from modelnet.errors import MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.home import Home
from modelnet.stores.http import HttpSource
from modelnet.stores.peers import add_peers
from modelnet_registry.cosigning import ask_witness, cosign, heads_elsewhere, larger_elsewhere
from modelnet_registry.http.doors import Doors
from modelnet_registry.log.storage import FileStorage
from modelnet_registry.witness import REUSE_S, Submission, Witness, WitnessKey, followed
from tests.core.logs import T0, Log, control, key
from tests.registry.conftest import Serve
from tests.registry.stock import Answer, Client, Stock
from tests.registry.test_logdoor import put

LOG = Log()
for _number in range(12):
    LOG.release("llama", f"1.{_number}")
FORK = LOG.fork(5)
for _number in range(10):
    FORK.release("llama", f"6.{_number}")
ORIGIN = LOG.state.origin
POLICY = Policy(((LOG.state.log_keys()[0], None),), (), None)
NAME = "wit.example/w1"


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = float(T0)

    def __call__(self) -> float:
        """Return it."""
        return self.now


def witness(stock: Stock, clock: Callable[[], float] = Clock(), policy: Policy = POLICY) -> Witness:  # noqa: B008
    """Return the witness of a store, which knows the logs of `policy`."""
    storage = FileStorage(stock.store.home.root / "witness" / "heads")
    return Witness(WitnessKey(NAME, key("wit1")), storage, followed(policy, lambda _: None), clock=clock)


KEY = WitnessKey(NAME, key("wit1")).note_key


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def door(stock: Stock, serve: Serve, clock: Clock) -> Client:
    """Give a client of a node that is a witness."""
    return serve(Doors(stock.store, witness=witness(stock, clock)))[1]


def post(door: Client, body: bytes, **headers: str) -> Answer:
    """Submit a body."""
    http_ = http.client.HTTPConnection(*door.address, timeout=20)
    try:
        http_.request("POST", "/add-checkpoint", body, headers)
        response = http_.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        http_.close()


def body(old: int, note: SignedNote, proof: Sequence[bytes] = ()) -> bytes:
    """Return the body of a submission."""
    return Submission(old, tuple(proof), note).encode()


def cosigned_at(answer: Answer, note: SignedNote) -> int:
    """Return the time in a 200, once the cosignature holds."""
    assert answer.status == 200, answer
    joined = SignedNote.parse(note.encode() + answer.body)
    return joined.cosigned([KEY])[KEY]


def size_of(answer: Answer) -> int:
    """Return the size in a 409."""
    assert answer.status == 409, answer
    assert answer.headers["content-type"] == "text/x.tlog.size"
    assert answer.body.endswith(b"\n")
    return int(answer.body)


def test_a_log_is_cosigned_as_it_grows(door: Client, clock: Clock) -> None:
    """From the first head on, each head that continues the one before, at the witness's own time."""
    assert cosigned_at(post(door, body(0, LOG.head(3))), LOG.head(3)) == T0
    clock.now += 60
    assert cosigned_at(post(door, body(3, LOG.head(8), LOG.consistency(3, 8))), LOG.head(8)) == T0 + 60
    clock.now += 60
    assert cosigned_at(post(door, body(8, LOG.head(8))), LOG.head(8)) == T0 + 120
    assert cosigned_at(post(door, body(8, LOG.head(13), LOG.consistency(8))), LOG.head(13)) == T0 + 120


def test_the_size_that_it_knows_is_told(door: Client) -> None:
    """409 with the size alone, for whoever asks with another one: larger, smaller, or for a log that is new."""
    assert size_of(post(door, body(2, LOG.head(3), LOG.consistency(2, 3)))) == 0
    post(door, body(0, LOG.head(8)))
    for old in (0, 3, 7, 9):
        assert size_of(post(door, body(old, LOG.head(13), LOG.consistency(max(old, 1))))) == 8


def test_forks_are_refused_and_nothing_is_remembered_of_them(door: Client) -> None:
    """422 for a proof that does not hold and for a proof from nothing; 409 for another root of the same size."""
    post(door, body(0, LOG.head(8)))
    assert post(door, body(8, FORK.head(9), FORK.consistency(8, 9))).status == 422
    assert size_of(post(door, body(8, FORK.head(8)))) == 8
    assert post(door, body(8, LOG.head(13))).status == 422
    assert post(door, body(8, LOG.head(13), LOG.consistency(7))).status == 422
    assert post(door, body(8, LOG.head(8), [bytes(32)])).status == 422
    assert cosigned_at(post(door, body(8, LOG.head(13), LOG.consistency(8))), LOG.head(13)) == T0
    other = Log("other ")
    unknown = post(door, body(0, other.head()))
    assert unknown.status == 404


def test_from_nothing_nothing_is_proved(door: Client) -> None:
    """A proof from size 0 is 422; so is an empty log with a root of its own."""
    assert post(door, body(0, LOG.head(8), [bytes(32)])).status == 422
    for root, status in ((EMPTY_ROOT, 200), (bytes(32), 422)):
        note = Checkpoint(ORIGIN, 0, root).note().sign(ORIGIN, key("log"))
        assert post(door, body(0, note)).status == status
    assert cosigned_at(post(door, body(0, LOG.head(8))), LOG.head(8)) == T0


def test_only_the_logs_own_keys_count(door: Client) -> None:
    """403 without a signature of the log, and where one of its keys signed wrongly; others' lines are not looked at."""
    assert post(door, body(0, LOG.head(3, by="release"))).status == 403
    wrong = LOG.head(4).signatures
    assert post(door, body(0, SignedNote(LOG.head(3).unverified_text, wrong))).status == 403
    spoilt = SignedNote(LOG.head(3).unverified_text, (*LOG.head(3).signatures, *wrong))
    assert post(door, body(0, spoilt)).status == 403
    assert cosigned_at(post(door, body(0, LOG.head(3, time=T0).sign("x", key("x")))), LOG.head(3)) == T0


def test_what_is_kept_is_the_logs_word_and_ours(door: Client, clock: Clock) -> None:
    """Monitors get the newest head with the signatures that were checked, and nothing that a stranger put below it."""
    name = sha256(ORIGIN.encode()).hexdigest()
    assert door(f"/{name}/checkpoint").status == 404
    line = post(door, body(0, LOG.head(3, time=T0).sign("x", key("x")))).body
    shown = SignedNote.parse(door(f"/{name}/checkpoint").body)
    assert shown.encode() == LOG.head(3).encode() + line
    clock.now += 100
    post(door, body(3, LOG.head(8), LOG.consistency(3, 8)))
    shown = SignedNote.parse(door(f"/{name}/checkpoint").body)
    assert shown.cosigned([KEY]) == {KEY: T0 + 100}
    assert shown.verify(LOG.state.log_keys()) == LOG.head(8).unverified_text
    assert door("/witness").body.decode() == KEY.vkey + "\n"
    for other in ("0" * 64, name.upper(), "x", "..", "key.json"):
        assert door(f"/{other}/checkpoint").status == 404


HEAD = LOG.head(3).encode()
HASH = b64encode(bytes(32))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"old 0\n", b"old 0\n\n", b"old 0\n" + HEAD, b"new 0\n\n" + HEAD, b"old\n\n" + HEAD,
        b"old 00\n\n" + HEAD, b"old -1\n\n" + HEAD, b"old +1\n\n" + HEAD, b"old 1_0\n\n" + HEAD, b"old 0 \n\n" + HEAD,
        b" old 0\n\n" + HEAD, b"old 0\r\n\r\n" + HEAD, b"old  0\n\n" + HEAD, b"old 99999999999999999999\n\n" + HEAD,
        b"old \xd9\xa3\n\n" + HEAD, b"old 0\nx\n\n" + HEAD, b"old 0\n" + HASH[:-4] + b"\n\n" + HEAD,
        b"old 0\n" + HASH + b" \n\n" + HEAD, b"old 0\n" + b64encode(bytes(33)) + b"\n\n" + HEAD,
        b"old 0\n" + (HASH + b"\n") * 64 + b"\n" + HEAD, b"old 0\n\n" + HEAD[:-1], b"old 0\n\n" + HEAD + b"\n",
        b"old 0\n\n\n" + HEAD, b"old 4\n\n" + HEAD, b"old 0\n\n" + HEAD.replace(b"\n3\n", b"\n03\n"), b"\xff" * 100,
    ],
)  # fmt: skip
def test_what_is_no_submission_is_refused(door: Client, content: bytes) -> None:
    """400 (or 403 and 404, where the head itself was changed), and the witness has cosigned nothing."""
    assert post(door, content).status in (400, 403, 404)
    assert size_of(post(door, body(1, LOG.head(3), LOG.consistency(1, 3)))) == 0


def test_bodies_are_bounded(door: Client, stock: Stock, serve: Serve) -> None:
    """64 KiB are taken, and nobody waits for more; a node that is no witness takes nothing."""
    large = body(0, LOG.head(3)) + b"x" * 64 * 1024
    assert post(door, large).status == 413
    endless = b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n" + b"old 0\n" * 20_000
    with door.raw() as sock:
        sock.sendall(endless)
        assert sock.recv(65536).split()[1] == b"413"
    with door.raw() as sock:
        sock.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nold 0")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(65536).split()[1] == b"400"
    plain = serve(Doors(stock.store))[1]
    assert post(plain, body(0, LOG.head(3))).status == 405
    assert plain("/witness").status == 404
    answer = door("/add-checkpoint")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_connection_takes_many_submissions(door: Client) -> None:
    """Also in chunks, and with a client that waits to be told to go on."""
    content = body(0, LOG.head(3))
    with door.raw() as sock:
        lines = sock.makefile("rb")

        def answer() -> tuple[bytes, bytes]:
            status = lines.readline().split()[1]
            length = 0
            while (line := lines.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, lines.read(length)

        sock.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(content), 100):
            part = content[at : at + 100]
            sock.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        assert answer()[0] == b"200"
        head = f"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        head += "Expect: 100-continue\r\n\r\n"
        sock.sendall(head.encode())
        assert answer() == (b"100", b"")
        sock.sendall(content)
        assert answer() == (b"409", b"3\n")
        sock.sendall(b"GET /witness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer()[0] == b"200"


def test_a_public_head_that_is_repeated_costs_no_write(stock: Stock, clock: Clock) -> None:
    """Within some seconds the same cosignature is given again; later a new one is made."""
    one = witness(stock, clock)
    asked = Submission(0, (), LOG.head(3))
    first = one.add_checkpoint(asked)
    path = stock.store.home.root / "witness" / "heads" / sha256(ORIGIN.encode()).hexdigest()
    written = path.stat().st_mtime_ns, path.stat().st_ino
    again = Submission(3, (), LOG.head(3))
    clock.now += REUSE_S
    assert one.add_checkpoint(again) == first
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
    clock.now += 1
    assert one.add_checkpoint(again) != first
    clock.now -= 3600  # the clock was set back: no cosignature of the future is handed out
    later = SignedNote.parse(LOG.head(3).encode() + one.add_checkpoint(again))
    assert later.cosigned([KEY])[KEY] == int(clock.now)


class BrokenError(Exception):
    """The power went out."""


class Faulty(FileStorage):
    """Storage that fails at its n-th write: before it, or after it with the reply lost."""

    def __init__(self, folder: Path, step: int, *, applied: bool) -> None:
        super().__init__(folder)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "applied", applied)

    def _replace(self, name: str, old: bytes | None, new: bytes) -> None:
        object.__setattr__(self, "step", self.step - 1)  # type: ignore[attr-defined]
        if self.step == 0 and not self.applied:  # type: ignore[attr-defined]
            raise BrokenError
        super()._replace(name, old, new)
        if self.step == 0:  # type: ignore[attr-defined]
            raise BrokenError


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_a_crash_never_lets_it_cosign_both_sides(tmp_path: Path, step: int, *, applied: bool) -> None:
    """Whatever was stored when it fell, no cosignature was given that is forgotten, and the log goes on."""
    logs = followed(POLICY, lambda _: None)
    secret = WitnessKey(NAME, key("wit1"))
    Witness(secret, FileStorage(tmp_path), logs).add_checkpoint(Submission(0, (), LOG.head(5)))
    faulty = Witness(secret, Faulty(tmp_path, step, applied=applied), logs)
    with pytest.raises(BrokenError):
        faulty.add_checkpoint(Submission(5, tuple(LOG.consistency(5, 8)), LOG.head(8)))
    after = Witness(secret, FileStorage(tmp_path), logs)
    stored = step == 2 or applied
    with pytest.raises(ModelnetError):
        after.add_checkpoint(Submission(8, (), FORK.head(8)))
    if stored:
        # The head counts as cosigned, though nobody has the line: the fork from 5 on is refused for good.
        with pytest.raises(UnavailableError) as refused:
            after.add_checkpoint(Submission(5, tuple(FORK.consistency(5, 8)), FORK.head(8)))
        assert refused.value.got == 8
    assert after.add_checkpoint(
        Submission(8 if stored else 5, () if stored else tuple(LOG.consistency(5, 8)), LOG.head(8))
    )
    assert after.checkpoint(sha256(ORIGIN.encode()).hexdigest()) is not None


def test_two_sides_at_once_get_one_cosignature(tmp_path: Path) -> None:
    """Many threads submit both branches of a fork to witnesses over one home: only one branch ever gets a line."""
    logs = followed(POLICY, lambda _: None)
    secret = WitnessKey(NAME, key("wit1"))
    Witness(secret, FileStorage(tmp_path), logs).add_checkpoint(Submission(0, (), LOG.head(5)))
    start = threading.Barrier(8)

    def submit(number: int) -> str | None:
        side = (LOG, FORK)[number % 2]
        size = 6 + number // 2
        one = Witness(secret, FileStorage(tmp_path), logs)
        start.wait()
        for old in (5, 6, 7, 8, 9):
            try:
                one.add_checkpoint(
                    Submission(old, tuple(side.consistency(old, max(size, old))), side.head(max(size, old)))
                )
            except ModelnetError:
                continue
            return "LOG" if side is LOG else "FORK"
        return None

    with ThreadPoolExecutor(8) as pool:
        sides = {found for found in pool.map(submit, range(8)) if found is not None}
    assert len(sides) == 1


def test_two_roots_of_one_size_are_evidence(tmp_path: Path) -> None:
    """The witness has both heads in its hand, so others hear of it."""
    told: list[tuple[str, Evidence]] = []
    one = Witness(
        WitnessKey(NAME, key("wit1")), FileStorage(tmp_path), followed(POLICY, lambda _: None),
        forked=lambda origin, evidence: told.append((origin, evidence)),
    )  # fmt: skip
    one.add_checkpoint(Submission(0, (), LOG.head(8)))
    with pytest.raises(ModelnetError):
        one.add_checkpoint(Submission(8, (), FORK.head(8)))
    ((origin, evidence),) = told
    shown = Evidence.parse(evidence.encode()).verify(origin, LOG.state.log_keys())
    assert {shown.a.root, shown.b.root} == {LOG.state.root_at(8), FORK.state.root_at(8)}


def test_followed_publishers_are_known_by_their_keys_in_force() -> None:
    """A log key that was replaced no longer moves the witness; a recovered log is a new one, the old one is gone."""
    log = Log("moving ")
    states = {log.pid: log.state}
    keys = followed(Policy((), (), None), states.get)
    assert [one.key for one in keys(log.state.origin)] == [key("moving log").verify_key]
    log.add(
        control(
            {"type": "keys", "v": 1, "pid": log.pid, "log": {"keys": [key("new").verify_key.public.hex()]}},
            "moving root",
        )
    )
    states[log.pid] = log.state
    if not log.state.inert:
        assert [one.key for one in keys(log.state.origin)] == [key("new").verify_key]
    for origin in (
        f"{log.state.origin}/r1",
        "modelnet.alt/p/x",
        f"{log.state.origin}/r0",
        f"{log.state.origin}/beat",
        "",
    ):
        assert not keys(origin)


def test_logs_of_others_may_have_more_lines(tmp_path: Path) -> None:
    """C2SP checkpoints may carry extension lines; ours may not, but a witness serves any log of its policy."""
    name = "log.example/x"
    policy = Policy(((NoteKey(name, key("x").verify_key), None),), (), None)
    one = Witness(WitnessKey(NAME, key("wit1")), FileStorage(tmp_path), followed(policy, lambda _: None))
    text = Checkpoint(name, 0, EMPTY_ROOT).encode()
    note = SignedNote(f"{text}Timestamp: 7\n", ()).sign(name, key("x"))
    line = one.add_checkpoint(Submission(0, (), note))
    assert SignedNote.parse(note.encode() + line).cosigned([KEY])
    with pytest.raises(TrustError):
        one.add_checkpoint(Submission(0, (), LOG.head(3)))


def test_a_key_of_its_own(tmp_path: Path) -> None:
    """It is made once, for its owner's eyes only, and its name stays."""
    home = Home(tmp_path)
    assert WitnessKey.load(home) is None
    made = WitnessKey.make(home)
    assert made.name.startswith("modelnet.alt/w/")
    assert WitnessKey.make(home) == WitnessKey.load(home) == made
    assert (tmp_path / "witness" / "key.json").stat().st_mode & 0o777 == 0o600
    assert "seed" not in repr(made)
    with pytest.raises(TrustError):
        WitnessKey.make(home, "other.example/w")
    (tmp_path / "witness" / "key.json").write_bytes(b'{"v":1,"name":"a b","seed":"' + b"0" * 64 + b'"}')
    with pytest.raises(MalformedError):
        WitnessKey.load(home)
    with pytest.raises(MalformedError):
        WitnessKey.make(Home(tmp_path / "second"), "no name")
    assert not (tmp_path / "second" / "witness").exists()


# The client


def policy_of(*witnesses: tuple[str, NoteKey, str | None], quorum: str = "none") -> Policy:
    """Return the policy that names these witnesses."""
    lines = [f"witness {name} {vkey.vkey}" + (f" {url}" if url else "") for name, vkey, url in witnesses]
    return Policy.parse("".join(f"{line}\n" for line in [*lines, f"quorum {quorum}"]).encode())


def url(door: Client) -> str:
    """Return the address of a door."""
    return f"http://{door.address[0]}:{door.address[1]}"


def proof(log: Log, size: int) -> Callable[[int], list[bytes]]:
    """Return what gives proofs to the head at `size`."""
    return lambda before: log.consistency(before, size)


def test_heads_are_cosigned_by_those_who_can(door: Client, clock: Clock) -> None:
    """From whatever size the witness has; what the publisher signed stays first; the quorum counts it."""
    policy = policy_of(
        ("w1", KEY, url(door)), ("gone", NoteKey("g", key("g").verify_key, 4), "http://127.0.0.1:1"),
        ("mute", NoteKey("m", key("m").verify_key, 4), None), quorum="w1",
    )  # fmt: skip
    for size in (3, 3, 8, 13):
        clock.now += 60
        head = LOG.head(size, time=T0)
        note = cosign(policy, head, proof(LOG, size))
        assert note.signatures[:2] == head.signatures
        assert note.cosigned([KEY]) == {KEY: clock.now}
        assert policy.verify(note, ORIGIN, LOG.state.log_keys()).size == size
    assert larger_elsewhere(policy, LOG.head(13), proof(LOG, 13)) is None
    assert larger_elsewhere(policy, LOG.head(8), proof(LOG, 8)) == 13
    assert cosign(policy, LOG.head(8), proof(LOG, 8)) == LOG.head(8)
    fork = cosign(policy, FORK.head(14), proof(FORK, 14))
    assert fork == FORK.head(14)


@contextmanager
def saying(*answers: bytes) -> Iterator[str]:
    """Run a server that gives these raw answers, one for each connection or request, the last again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    rest = list(answers)

    def serve() -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(5)
                try:
                    sock.recv(65536)
                    sock.sendall(rest.pop(0) if len(rest) > 1 else rest[0])
                    if rest[0].endswith(b"..."):
                        stop.wait(20)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def raw(status: str, content: bytes, *headers: str) -> bytes:
    """Return an answer's bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


OTHER_LINE = LOG.head(8).cosign(NAME, key("wit1"), T0).signatures[-1].encode().encode()


@pytest.mark.parametrize(
    "answer",
    [
        raw("200 OK", b""), raw("200 OK", b"fine\n"), raw("200 OK", OTHER_LINE), raw("500 No", b""),
        raw("403 No", b"x"),
        raw("200 OK", LOG.head(3).cosign("other/w", key("wit1"), T0).signatures[-1].encode().encode()),
        raw("200 OK", LOG.head(3).cosign(NAME, key("x"), T0).signatures[-1].encode().encode()),
        raw("409 No", b"2\n"), raw("409 No", b"x\n", "Content-Type: text/x.tlog.size"),
        *(raw("409 No", size, "Content-Type: text/x.tlog.size") for size in (b"2\n", b"9\n", b"-1\n", b"")),
        raw("302 Found", b"", "Location: /add-checkpoint"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + OTHER_LINE * 4000, b"garbage\r\n\r\n", b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 100,
    ],
)  # fmt: skip
def test_a_witness_that_misbehaves_adds_nothing(answer: bytes) -> None:
    """No line is taken that is not its cosignature of this very head, and it is not asked for ever."""
    with saying(answer) as address:
        policy = policy_of(("w1", KEY, address), quorum="w1")
        head = LOG.head(3)
        assert cosign(policy, head, proof(LOG, 3)) == head


def test_a_witness_that_is_silent_is_not_waited_for(door: Client) -> None:
    """What the others gave by then is the result."""
    silent = NoteKey("s", key("s").verify_key, 4)
    with saying(b"HTTP/1.1 200 OK\r\n...") as address:
        policy = policy_of(("s", silent, address), ("w1", KEY, url(door)))
        note = cosign(policy, LOG.head(3), proof(LOG, 3), seconds=1.0)
    assert note.cosigned([KEY, silent]) == {KEY: T0}


def test_what_a_witness_adds_beside_its_line_is_dropped() -> None:
    """A witness may send lines of several keys; only the key that the policy names counts."""
    good = LOG.head(3).cosign(NAME, key("wit1"), T0)
    lines = b"".join(
        line.encode().encode() for line in (*good.sign("x", key("x")).signatures[1:], *LOG.head(4).signatures)
    )
    with saying(raw("200 OK", lines)) as address:
        found = ask_witness(HttpSource.parse(address).connect(), LOG.head(3), KEY, proof(LOG, 3))
    assert found == SignedNote(good.unverified_text, good.signatures[-1:])


def test_heads_are_found_at_peers_and_witnesses(stock: Stock, serve: Serve, tmp_path: Path) -> None:
    """All are asked at once; what is no note is passed over, and who is away costs no more than the time limit."""
    put(stock, 8, log=LOG)
    node = serve(Doors(stock.store, witness=witness(stock)))[1]
    post(node, body(0, LOG.head(13)))
    home = Home(tmp_path / "mine")
    assert heads_elsewhere(home, LOG.pid, ORIGIN) == []
    with saying(raw("200 OK", b"no note")) as junk, saying(b"HTTP/1.1 200 OK\r\n...") as silent:
        add_peers(home, [url(node), junk, silent, "http://127.0.0.1:1"])
        (home.root / "policy").write_text(f"witness w1 {KEY.vkey} {url(node)}\nquorum w1\n")
        heads = heads_elsewhere(home, LOG.pid, ORIGIN, seconds=2.0)
    sizes = {Checkpoint.parse(note.verify(LOG.state.log_keys()), ORIGIN).size for note in heads}
    assert sizes == {8, 13}
    assert os.listdir(tmp_path / "mine")  # noqa: PTH208


def test_a_node_is_a_witness_of_the_publishers_that_it_follows(stock: Stock, serve: Serve) -> None:
    """Unknown ones are 404; two heads of one size quarantine the publisher here, for everybody who asks."""
    replicas = Replicas(stock.store)
    secret = WitnessKey.make(stock.store.home)
    door = serve(Doors(stock.store, witness=Witness.open(stock.store, secret)))[1]
    assert post(door, body(0, LOG.head(8))).status == 404
    replicas.adopt(LOG.pid, LOG.head(5), LOG.entries[:5])
    # The witness may be behind the log: its keys at the head that is known here count.
    assert post(door, body(0, LOG.head(8))).status == 200
    assert size_of(post(door, body(8, FORK.head(8)))) == 8
    assert replicas.standing(LOG.pid).quarantined
    evidence = door(f"/log/{LOG.pid}/evidence").body.splitlines()
    assert len(evidence) == 1
    assert Evidence.parse(evidence[0]).verify(ORIGIN, LOG.state.log_keys()).a.size == 8
