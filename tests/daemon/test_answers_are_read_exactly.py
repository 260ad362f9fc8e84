"""Whatever comes over the daemon's socket, a client reads exactly what was said, or says that it cannot."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.daemon import refusal
from holdfast.daemon.transport import LONGEST_HEAD, DaemonGone, StreamSilent, Transport
from holdfast.errors import InvalidRequest

PATIENCE = 60.0
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def answering(path: Path, *pieces: bytes, hold: threading.Event | None = None) -> Iterator[Transport]:
    """A daemon that gives one answer, in *pieces*, whatever it is asked; it hangs up after *hold*."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (part := connection.recv(65_536)):
                    return
                asked += part
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except OSError:
                return
            if hold is not None:
                hold.wait(PATIENCE)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Transport(path, refusal.rebuild)
    finally:
        if hold is not None:
            hold.set()
        thread.join(PATIENCE)
        listener.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [JSON + b"Content-Length: 7\r\n\r\n{'a':1}"],
        [JSON + b"Content-Length: 7\r\n\r\n{'a':1}and what is none of it"],
        [bytes([byte]) for byte in JSON + b"Content-Length: 7\r\n\r\n{'a':1}"],
        [CHUNKED + b"7\r\n{'a':1}\r\n0\r\n\r\n"],
        [CHUNKED, b"3;name=value\r\n{'a", b"\r\n", b"4\r\n':1}\r\n0\r\nTrailer: x\r\n\r\n"],
        [bytes([byte]) for byte in CHUNKED + b"2\r\n{'\r\n5\r\na':1}\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\n{'a'", b":1}"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + JSON + b"Content-Length: 7\r\n\r\n{'a':1}"],
    ],
)
def test_an_answer_is_read_whole(tmp_path: Path, pieces: list[bytes]) -> None:
    with answering(tmp_path / "s", *pieces) as transport:
        assert transport.call("GET", "/", timeout=PATIENCE) == b"{'a':1}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        JSON + b"Content-Length: 8\r\n\r\n{'a':1}",
        JSON + b"Content-Length: -1\r\n\r\n",
        JSON + b"Content-Length: 0x7\r\n\r\n{'a':1}",
        JSON + b"Content-Length: 7\r\nContent-Length: 8\r\n\r\n{'a':1}",
        JSON + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        JSON + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        JSON + b"No colon\r\n\r\n",
        JSON + b"X: " + b"x" * LONGEST_HEAD + b"\r\n\r\n",
        CHUNKED + b"7\r\n{'a':1}\r\n",
        CHUNKED + b"8\r\n{'a':1}\r\n0\r\n\r\n",
        CHUNKED + b"6\r\n{'a':1}\r\n0\r\n\r\n",
        CHUNKED + b"7\r\n{'a':1}\r\n0\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"-7\r\n{'a':1}\r\n",
    ],
)
def test_half_an_answer_is_none(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer) as transport, pytest.raises(DaemonGone):
        transport.call("GET", "/", timeout=PATIENCE)


def test_lines_come_one_by_one_however_they_are_cut(tmp_path: Path) -> None:
    chunks = [b"{'a'", b":1}\n{'b':2}\n\n{'c", b"':3", b"}", b"\n"]
    pieces = [CHUNKED, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]
    with answering(tmp_path / "s", *pieces) as transport:
        assert [*transport.lines("/", timeout=PATIENCE)] == [b"{'a':1}", b"{'b':2}", b"{'c':3}"]


def test_a_stream_that_breaks_off_gives_what_was_whole_and_says_so(tmp_path: Path) -> None:
    with answering(tmp_path / "s", CHUNKED + b"b\r\n{'a':1}\n{'b\r\n") as transport:
        lines = transport.lines("/", timeout=PATIENCE)
        assert next(lines) == b"{'a':1}"
        with pytest.raises(DaemonGone):
            next(lines)


def test_half_a_line_at_the_end_is_not_one(tmp_path: Path) -> None:
    with answering(tmp_path / "s", CHUNKED + b"b\r\n{'a':1}\n{'b\r\n0\r\n\r\n") as transport:
        lines = transport.lines("/", timeout=PATIENCE)
        assert next(lines) == b"{'a':1}"
        with pytest.raises(DaemonGone, match="middle of a line"):
            next(lines)


def test_an_error_in_a_stream_is_raised(tmp_path: Path) -> None:
    said = b'{"error":{"code":"cursor_expired","message":"It is gone.","hint":"Begin again.","exit_code":1}}\n'
    with answering(tmp_path / "s", CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(said), said)) as transport:
        with pytest.raises(Exception, match="It is gone") as raised:
            list(transport.lines("/", timeout=PATIENCE))
        assert (getattr(raised.value, "code", None), getattr(raised.value, "hint", None)) == (
            "cursor_expired",
            "Begin again.",
        )


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"error":"x"}', b'{"error":{"message":"m"}}', b"\xff"])
def test_an_error_that_cannot_be_read_is_shown_as_it_is(tmp_path: Path, body: bytes) -> None:
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with answering(tmp_path / "s", answer) as transport, pytest.raises(Exception, match="answered 500"):
        transport.call("GET", "/", timeout=PATIENCE)


def test_silence_before_an_answer_and_within_one_are_told_apart(tmp_path: Path) -> None:
    hold = threading.Event()
    with (
        answering(tmp_path / "mute", hold=hold) as transport,
        pytest.raises(DaemonGone, match="did not answer within") as raised,
    ):
        transport.call("GET", "/", timeout=0.05)
    assert not isinstance(raised.value, StreamSilent)
    hold = threading.Event()
    with answering(tmp_path / "silent", CHUNKED + b"2\r\n1\n\r\n", hold=hold) as transport:
        lines = transport.lines("/", timeout=0.5)
        assert next(lines) == b"1"
        with pytest.raises(StreamSilent):
            next(lines)


def test_whoever_waits_can_be_interrupted_and_later_calls_too(tmp_path: Path) -> None:
    hold = threading.Event()
    with answering(tmp_path / "s", CHUNKED + b"2\r\n1\n\r\n", hold=hold) as transport:
        lines = transport.lines("/", timeout=PATIENCE)
        assert next(lines) == b"1"
        transport.interrupt()
        with pytest.raises(DaemonGone):
            next(lines)
        with pytest.raises(DaemonGone, match="interrupted"):
            transport.call("GET", "/", timeout=PATIENCE)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/ü"])
def test_nothing_can_be_smuggled_into_a_request(tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidRequest):
        Transport(tmp_path / "nobody", refusal.rebuild).call("GET", target)
