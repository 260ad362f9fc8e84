"""A connection takes whole messages of any cut, and gives up on whatever is none."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.drivers.app_server import connection
from holdfast.drivers.app_server.connection import (
    Dropped,
    NobodyListens,
    Overlong,
    StdioConnection,
    WebSocketConnection,
)

Talk = Callable[[socket.socket], None]
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def serve(path: Path, talk: Talk) -> threading.Thread:
    """A server for one client, which has asked already."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        peer, _ = listener.accept()
        # A client that has given up leaves without reading the rest.
        with listener, peer, contextlib.suppress(ConnectionError):
            peer.recv(65536)
            talk(peer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def frame(payload: bytes, opcode: int = 1, final: bool = True) -> bytes:
    return bytes([opcode | 0x80 * final, 127]) + len(payload).to_bytes(8, "big") + payload


def take(path: Path, sent: bytes) -> list[bytes | Overlong]:
    """Everything that arrives of *sent*, which comes byte by byte."""

    def talk(peer: socket.socket) -> None:
        for at in range(0, len(ACCEPT + sent), 7):
            peer.sendall((ACCEPT + sent)[at : at + 7])
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65536):
            pass

    server = serve(path, talk)
    client = WebSocketConnection(str(path), time.monotonic() + 20)
    found: list[bytes | Overlong] = []
    try:
        while True:
            found += client.receive()
            time.sleep(0.001)
    except Dropped:
        return found
    finally:
        client.close()
        server.join()


def test_messages_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LONGEST_MESSAGE", 3000)
    monkeypatch.setattr(connection, "KEPT", 10)
    sent = [
        frame(b"one"),
        frame(b"t", final=False) + frame(b"?", opcode=9)[:1] + b"\x01?" + frame(b"wo", opcode=0),
        frame(b"x" * 5000),
        frame(b"y" * 2000, final=False) + frame(b"y" * 2000, opcode=0, final=False) + frame(b"", opcode=0),
        frame(b"last"),
    ]
    one, two, long, longer, last = take(tmp_path / "s", b"".join(sent))
    assert (one, two, last) == (b"one", b"two", b"last")
    assert isinstance(long, Overlong) and (long.beginning, long.length) == (b"x" * 10, 5000)
    assert isinstance(longer, Overlong) and (longer.beginning, longer.length) == (b"y" * 10, 4000)


@pytest.mark.parametrize("sent", [b"\xf1\x00", b"\x81\x80abcd", b"\x89\x7e\x01\x00", b"\x83\x00", b"\x88\x00"])
def test_what_is_no_websocket_ends_it(tmp_path: Path, sent: bytes) -> None:
    assert take(tmp_path / "s", frame(b"before") + sent + frame(b"after")) == [b"before"]


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 100_000])
def test_a_server_of_another_kind(tmp_path: Path, sent: bytes) -> None:
    def talk(peer: socket.socket) -> None:
        try:
            peer.sendall(sent)
        except OSError:
            pass  # The client has seen enough.

    server = serve(tmp_path / "s", talk)
    with pytest.raises(Dropped):
        WebSocketConnection(str(tmp_path / "s"), time.monotonic() + 20)
    server.join()


def test_a_server_that_does_not_answer_the_handshake(tmp_path: Path) -> None:
    done = threading.Event()

    def talk(peer: socket.socket) -> None:
        done.wait(20)

    server = serve(tmp_path / "s", talk)
    with pytest.raises(Dropped, match="in time"):
        WebSocketConnection(str(tmp_path / "s"), time.monotonic() + 0.1)
    done.set()
    server.join()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NobodyListens):
        WebSocketConnection(str(tmp_path / "s"), time.monotonic() + 20)


def test_a_program_that_ends_says_how() -> None:
    child = StdioConnection([sys.executable, "-c", "print('{}'); raise SystemExit(3)"], {})
    found: list[bytes | Overlong] = []
    with pytest.raises(Dropped, match="exit status 3"):
        while True:
            found += child.receive()
            time.sleep(0.001)
    child.close()
    assert found == [b"{}"]
