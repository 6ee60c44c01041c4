"""What Kubo says is believed only as far as it proves it; every way in which it can fail has a name."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelnet.core.cid import DAG_CBOR, RAW, Cid
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, UnavailableError, UsageError
from modelnet.ipfs.address import AUTH_VARIABLE, KuboAddress, gateway_url
from modelnet.ipfs.kubo import Kubo, Multipart
from modelnet.ipfs.rpc import ENDPOINTS, IncompleteResponseError, KuboRefusedError, Rpc
from tests.ipfs.stub import VERSION, Answer, Stub, cut, drip, hang, refused, repeat, trailer, whole

ROOT = Cid.of(DAG_CBOR, b"a root")
PINS = f'{{"Pins":["{ROOT}"]}}\n'.encode()
OTHER = f'{{"Pins":["{Cid.of(RAW, b"other")}"]}}\n'.encode()


def connect(stub: Stub, patience_s: float = 5.0) -> Kubo:
    """Return our client of `stub`."""
    return Kubo.connect(KuboAddress.parse(stub.url), patience_s)


def test_a_pin_is_a_pin_when_kubo_names_it() -> None:
    """Progress is told as totals; the record `Pins` ends it, whatever comes after."""
    told: list[tuple[int, int]] = []
    lines = b'{"Progress":1,"Bytes":10}\n{"Progress":7,"Bytes":99}\n' + PINS + b'{"Progress":8}\n'
    with Stub({"pin/add": [whole(lines)]}) as stub, connect(stub) as kubo:
        kubo.pin(ROOT, "name", progress=lambda nodes, size: told.append((nodes, size)))
    assert told == [(1, 10), (7, 99)]
    method, target, _ = stub.requests[-1]
    assert method == "POST"
    assert sorted(target.partition("?")[2].split("&")) == sorted(
        ["stream-channels=true", "recursive=true", "name=name", "progress=true", f"arg={ROOT}"]
    )


@pytest.mark.parametrize(
    ("answer", "error", "rule"),
    [
        (trailer(b"{}\n{}\n", "context deadline exceeded"), IncompleteResponseError, "kubo-incomplete"),
        (trailer(b'{"Progress":3}\n', "no such block"), IncompleteResponseError, "kubo-incomplete"),
        (trailer(b"", "merkledag: not found"), IncompleteResponseError, "kubo-incomplete"),
        (whole(OTHER), IncompleteResponseError, "kubo-incomplete"),
        (whole(b'{"Pins":[]}\n'), IncompleteResponseError, "kubo-incomplete"),
        (cut(b'{"Progress":3}\n'), UnavailableError, "kubo-connection"),
        (cut(PINS[:-9]), UnavailableError, "kubo-connection"),
        (refused("pin: not found"), KuboRefusedError, "kubo-refused"),
        (whole(b'{"Message":"late","Code":0,"Type":"error"}\n'), KuboRefusedError, "kubo-refused"),
        (refused("write /repo/blocks: no space left on device"), KuboRefusedError, "kubo-disk"),
        (whole(b"forbidden", status="403 Forbidden"), KuboRefusedError, "kubo-auth"),
        (whole(b"not found", status="404 Not Found"), KuboRefusedError, "kubo-endpoint"),
        (whole(b"<html>", status="502 Bad Gateway"), KuboRefusedError, "http-502"),
        (whole(b"<html>hello</html>"), MalformedError, "kubo-answer"),
        (whole(b"[1, 2]\n"), MalformedError, "kubo-answer"),
        (whole(b'{"Progress":' + b"[" * 100_000 + b"\n"), MalformedError, "kubo-answer"),
        (whole(b"x" * (3 << 20)), MalformedError, "kubo-answer"),
        (whole(b"", status="307 Temporary Redirect", headers="Location: http://127.0.0.1:1/\r\n"), ModelnetError, None),
        (lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9\r\n"), UnavailableError, "kubo-connection"),
        (lambda sock: sock.shutdown(socket.SHUT_RDWR), UnavailableError, "kubo-connection"),
    ],
)
def test_a_pin_that_failed(answer: Answer, error: type[ModelnetError], rule: str | None) -> None:
    """Nothing but the record `Pins` with the very CID is success; each failure is typed and says who."""
    with Stub({"pin/add": [answer]}) as stub, connect(stub, 2.0) as kubo:
        with pytest.raises(error) as caught:
            kubo.pin(ROOT, "name")
        assert rule is None or caught.value.rule == rule
        assert caught.value.source == kubo.rpc.address.multiaddr


def test_a_pin_that_hangs() -> None:
    """A daemon that stops talking is given up after our patience."""
    done = threading.Event()
    with Stub({"pin/add": [hang(b'{"Progress":1}\n', done)]}) as stub, connect(stub, 0.3) as kubo:
        with pytest.raises(UnavailableError) as caught:
            kubo.pin(ROOT, "name")
        done.set()
    assert caught.value.rule == "kubo-silent"


def test_a_pin_that_gets_no_further() -> None:
    """Kubo looks for a missing block for ever, and says so twice a second: that is no progress, and has an end."""
    done = threading.Event()
    with Stub({"pin/add": [repeat(b'{"Progress":961,"Bytes":7}\n', done)]}) as stub, connect(stub, 0.3) as kubo:
        with pytest.raises(IncompleteResponseError) as caught:
            kubo.pin(ROOT, "name")
        done.set()
    assert caught.value.rule == "kubo-stalled"


def test_whether_kubo_has_it_all() -> None:
    """The last record counts the blocks; an answer that ends before it, or counts fewer, says that some are missing."""
    part = b'{"TotalSize":7,"DagStats":[]}\n'
    answers = [
        whole(part + b'{"UniqueBlocks":3,"TotalSize":9}\n'),
        whole(b'{"UniqueBlocks":2,"TotalSize":9}\n'),
        trailer(part, "block was not found locally"),
        refused("block was not found locally (offline)"),
    ]
    with Stub({"dag/stat": answers}) as stub, connect(stub) as kubo:
        kubo.check_whole(ROOT, 3)
        assert "offline=true" in stub.requests[-1][1]
        for _ in answers[1:]:
            with pytest.raises((IncompleteResponseError, KuboRefusedError)):
                kubo.check_whole(ROOT, 3)


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: y\r\n"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 60000\r\n\r\n", b" "),
        (b"HTTP/1.1 2", b"0"),
    ],
    ids=["body", "body without end", "head", "error", "status"],
)
@pytest.mark.parametrize("endpoint", ["version", "pin/add", "block/get"])
def test_a_server_that_drips(start: bytes, again: bytes, endpoint: str) -> None:
    """A byte now and then keeps no timeout of a socket from starting again, and is given up all the same."""
    done = threading.Event()
    started = time.monotonic()
    with Stub({endpoint: [drip(start, again, done)]}) as stub:
        with pytest.raises(ModelnetError), connect(stub, 0.3) as kubo:
            kubo.pin(ROOT, "name") if endpoint == "pin/add" else kubo.block(Cid.of(RAW, b"content"))
        done.set()
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("status", ["200 OK", "500 No"])
def test_an_answer_that_is_a_bomb(status: str) -> None:
    """A compressed answer, which nobody asked for, is refused before it is unpacked."""
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    try:
        with Stub({"version": [whole(bomb, status=status, headers="Content-Encoding: gzip\r\n")]}) as stub:
            tracemalloc.reset_peak()
            with pytest.raises(MalformedError, match="compressed"):
                connect(stub)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
            assert stub.requests[0][2]["accept-encoding"] == "identity"
    finally:
        tracemalloc.stop()


def stats(blocks: int, size: int) -> bytes:
    """Return the record that ends an import."""
    return f'{{"Stats":{{"BlockCount":{blocks},"BlockBytesCount":{size}}}}}\n'.encode()


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (whole(stats(2, 20)), True),
        (whole(b'{"Root":{"Cid":{"/":"x"},"PinErrorMsg":""}}\n' + stats(2, 20)), True),
        (whole(stats(1, 20)), False),
        (whole(stats(2, 19)), False),
        (whole(b'{"Stats":null}\n'), False),
        (whole(b'{"Stats":7}\n'), False),
        (whole(b""), False),
        (trailer(b"", "import failed after block x: unexpected EOF"), False),
    ],
)
def test_an_import_counts_what_was_sent(answer: Answer, *, right: bool) -> None:
    """The import is done when Kubo's last record has as many blocks and bytes as we sent."""
    heard: list[int] = []
    with Stub({"dag/import": [answer]}) as stub, connect(stub) as kubo:
        body = Multipart(iter([b"12345", b"678"]), 8, heard.append)
        if right:
            kubo.import_car(body, 2, 20)
        else:
            with pytest.raises(IncompleteResponseError):
                kubo.import_car(body, 2, 20)
    assert heard == [5, 3]
    headers = stub.requests[-1][2]
    assert headers["content-type"].startswith("multipart/form-data; boundary=")
    assert int(headers["content-length"]) == len(body)
    assert "transfer-encoding" not in headers


def test_a_file_that_changes_while_it_is_sent() -> None:
    """An error of ours in the middle of an upload comes out as it is, and the connection is not used again."""

    def pieces() -> Sequence[bytes]:
        yield b"1234"
        raise IntegrityError("the file differs", rule="changed", path="w.bin")

    with Stub({"dag/import": [whole(stats(1, 1))]}) as stub, connect(stub) as kubo:
        with pytest.raises(IntegrityError) as caught:
            kubo.import_car(Multipart(pieces(), 100), 1, 1)
        assert caught.value.path == "w.bin"
        assert kubo.rpc.call("version")["Version"] == "0.43.0"


def test_blocks_are_hashed() -> None:
    """A block of other bytes is a lie, an empty answer no block, an endless one is not read to its end."""
    cid = Cid.of(RAW, b"content")
    for answer, error in (
        (whole(b"contenx"), IntegrityError),
        (trailer(b"", "block was not found locally"), IncompleteResponseError),
        (whole(b"x" * (3 << 20)), IntegrityError),
    ):
        with Stub({"block/get": [answer]}) as stub, connect(stub) as kubo, pytest.raises(error):
            kubo.block(cid)
    with Stub({"block/get": [whole(b"content")]}) as stub, connect(stub) as kubo:
        assert kubo.block(cid) == b"content"


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (b'{"Version":"0.34.1"}', UnavailableError),
        (b'{"Version":"0.18.1"}', UnavailableError),
        (b'{"Version":"v0.43"}', MalformedError),
        (b'{"Version":43}', MalformedError),
        (b"{}", MalformedError),
        (b"[]", MalformedError),
        (b'{"Version":"0.43.0"}\n{"Version":"0.43.0"}', IncompleteResponseError),
    ],
)
def test_versions(told: bytes, error: type[ModelnetError]) -> None:
    """A Kubo that is too old, and what is no Kubo at all, are refused at once."""
    with Stub({"version": [whole(told)]}) as stub, pytest.raises(error):
        connect(stub)


@pytest.mark.parametrize(
    ("version", "tried"), [("0.35.0", False), ("0.40.0", True), ("0.44.1", True), ("0.45.0", False)]
)
def test_versions_that_nobody_tried(version: str, *, tried: bool) -> None:
    """Versions around the tried ones are used, and told apart."""
    with Stub({"version": [whole(f'{{"Version":"{version}-rc1"}}'.encode())]}) as stub, connect(stub) as kubo:
        assert (kubo.version, kubo.is_tried) == (version, tried)


def test_nobody_is_there() -> None:
    """A port where nothing listens says so, in the system's words, and what to do."""
    with pytest.raises(UnavailableError, match="connection refused") as caught:
        Kubo.connect(KuboAddress.parse("/ip4/127.0.0.1/tcp/1"))
    assert "ipfs daemon" in (caught.value.hint or "")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_proxies_of_the_environment_are_not_asked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would get every block, and the token; it is for the web, not for the daemon on this machine."""
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with Stub({}) as stub:
        for address in (stub.url, stub.url.replace("127.0.0.1", "localhost")):
            Kubo.connect(KuboAddress.parse(address)).close()


@pytest.mark.parametrize(
    ("secret", "header"), [("bearer:s3cret", "Bearer s3cret"), ("basic:ann:s3cret", "Basic YW5uOnMzY3JldA==")]
)
def test_who_we_say_we_are(secret: str, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is sent with every call, and is in no error and no representation."""
    monkeypatch.setenv(AUTH_VARIABLE, secret)
    with Stub({"pin/add": [whole(b"", status="401 Unauthorized")]}) as stub, connect(stub) as kubo:
        with pytest.raises(KuboRefusedError) as caught:
            kubo.pin(ROOT, "name")
        assert AUTH_VARIABLE in (caught.value.hint or "")
        for text in (str(caught.value), repr(caught.value.as_dict()), repr(kubo.rpc.address)):
            assert "s3cret" not in text
            assert "YW5u" not in text
    assert [request[2]["authorization"] for request in stub.requests] == [header, header]


@pytest.mark.parametrize("secret", ["token", "bearer:", "basic:user", "bearer:a\nb", "bearer:ü", "bearer:a b"])
def test_secrets_that_make_no_header(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused without being repeated."""
    monkeypatch.setenv(AUTH_VARIABLE, secret)
    with pytest.raises(UsageError) as caught:
        KuboAddress.parse("/ip4/127.0.0.1/tcp/5001")
    assert secret not in str(caught.value)


def test_a_unix_socket(tmp_path: Path) -> None:
    """Kubo may listen on a unix socket, where no port is open to others."""
    with Stub({"pin/add": [whole(PINS)]}, unix=tmp_path / "s") as stub, connect(stub) as kubo:
        kubo.pin(ROOT, "name")
    assert stub.url == f"/unix{tmp_path}/s"


def test_only_what_is_in_the_table() -> None:
    """Kubo ignores options that it does not know, so a misspelt one is refused here."""
    rpc = Rpc(KuboAddress.parse("/ip4/127.0.0.1/tcp/1"))
    with pytest.raises(ValueError, match="not in the table"):
        rpc.call("pin/add", options={"recursiv": "true"})
    with pytest.raises(ValueError, match="not in the table"):
        rpc.call("repo/gc")
    assert "get" not in ENDPOINTS


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/70000", "/ip4/127.0.0.1/tcp/0", "localhost",
        "http://", "http://user:pw@127.0.0.1:1", "http://127.0.0.1:1/api", "http://127.0.0.1:1?x=1", "/unix/",
        "http://127.0.0.1:99999", "ftp://127.0.0.1", "/ip4/300.0.0.1/tcp/1", "x" * 5000,
    ],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    """They are refused with an example."""
    with pytest.raises(UsageError):
        Rpc(KuboAddress.parse(text))


def test_where_the_daemon_says_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running daemon writes its ports into its repository; without one the default ports are meant."""
    monkeypatch.setenv("IPFS_PATH", str(tmp_path))
    assert str(KuboAddress.parse()) == "/ip4/127.0.0.1/tcp/5001"
    assert gateway_url() == "http://127.0.0.1:8080"
    (tmp_path / "api").write_text("/ip4/127.0.0.1/tcp/4242\n")
    (tmp_path / "gateway").write_text("http://127.0.0.1:4343")
    assert str(KuboAddress.parse()) == "/ip4/127.0.0.1/tcp/4242"
    assert gateway_url() == "http://127.0.0.1:4343"
    assert str(KuboAddress.parse("https://[fd00::1]")) == "/ip6/fd00::1/tcp/443/https"
    assert str(KuboAddress.parse("http://node.lan:5001")) == "/dns/node.lan/tcp/5001/http"
    assert gateway_url("/ip6/::1/tcp/8080") == "http://[::1]:8080"
    with pytest.raises(UsageError):
        gateway_url("/unix/run/x")


def test_the_stub_is_asked_as_kubo_would_be() -> None:
    """Kubo answers nothing but POST below /api/v0."""
    with Stub({}) as stub, connect(stub):
        pass
    assert stub.requests[0][:2] == ("POST", "/api/v0/version?stream-channels=true")
    assert VERSION is not None
