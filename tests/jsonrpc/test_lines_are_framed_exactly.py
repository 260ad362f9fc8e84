from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.host.address import bind_unix
from holdfast.jsonrpc import lines
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.lines import LineConnection, connect_unix, serve_unix


class Recorder:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.got = asyncio.Event()
        self.lost = asyncio.Event()

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)
        self.got.set()

    def writing_resumed(self) -> None:
        pass

    def connection_lost(self) -> None:
        self.lost.set()


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@given(data=st.data(), parts=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20))
def test_messages_do_not_depend_on_how_the_bytes_arrive(data: st.DataObject, parts: list[bytes]) -> None:
    stream = b"".join(part + b"\n" for part in parts) + b"unfinished"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    recorder = Recorder()
    connection = LineConnection(lambda _: recorder, peer="x", origin="x")
    connection.connection_made(FakeTransport())
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if begin != end:
            connection.data_received(stream[begin:end])
    connection.connection_lost(None)
    assert recorder.messages == [part for part in parts if part and not part.isspace()]


def test_a_line_without_end_is_cut_off_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MESSAGE_LIMIT", 1000)
    transport = FakeTransport()
    connection = LineConnection(lambda _: Recorder(), peer="x", origin="x")
    connection.connection_made(transport)
    for _ in range(11):
        connection.data_received(b"x" * 100)
    assert transport.closed


async def test_a_unix_socket_carries_large_messages_both_ways(tmp_path: Path) -> None:
    server_side = Recorder()
    accepted: list[Connection] = []

    def accept(connection: Connection) -> Recorder:
        accepted.append(connection)
        return server_side

    server = await serve_unix(bind_unix(tmp_path / "s"), accept)
    client_side = Recorder()
    connection = await connect_unix(tmp_path / "s", lambda _: client_side)
    big = b"x" * 5_000_000
    connection.send(big)
    await asyncio.wait_for(server_side.got.wait(), 60)
    accepted[0].send(big)
    assert not accepted[0].writable
    await asyncio.wait_for(client_side.got.wait(), 60)
    assert server_side.messages == client_side.messages == [big]
    connection.close()
    await asyncio.wait_for(server_side.lost.wait(), 60)
    server.close()


def test_a_message_too_long_is_told_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MESSAGE_LIMIT", 10)
    for data in (b"x" * 11, b"x" * 11 + b"\n"):
        recorder = Recorder()
        connection = LineConnection(lambda _, recorder=recorder: recorder, peer="x", origin="x")
        connection.connection_made(FakeTransport())
        connection.data_received(data)
        connection.connection_lost(None)
        assert isinstance(connection.failure, OSError)
        assert connection.failure.errno == errno.EMSGSIZE
        assert recorder.messages == []


def test_the_last_message_of_an_input_needs_no_line_feed() -> None:
    recorder = Recorder()
    connection = LineConnection(lambda _: recorder, peer="x", origin="x")
    connection.connection_made(FakeTransport())
    connection.data_received(b"one\ntw")
    connection.data_received(b"o")
    connection.input_ended()
    connection.input_ended()
    assert recorder.messages == [b"one", b"two"]


def test_what_comes_behind_the_message_that_closed_is_not_carried_out() -> None:
    class Closing(Recorder):
        def message_received(self, message: bytes) -> None:
            super().message_received(message)
            connection.close()

    recorder = Closing()
    connection = LineConnection(lambda _: recorder, peer="x", origin="x")
    connection.connection_made(FakeTransport())
    connection.data_received(b"one\ntwo\n")
    assert recorder.messages == [b"one"]
