"""WebSocket frames mean the same however they arrive, and what is no frame ends the connection with a reason."""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.jsonrpc import websocket
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.messages import MESSAGE_LIMIT
from holdfast.jsonrpc.websocket import FRAGMENT, Opcode, WebSocketConnection

BOUND = 30.0


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.changed = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        if not self.closing:
            self.written += data
            self.changed.set()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.changed.set()


class Handler:
    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.lost = 0

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)

    def writing_resumed(self) -> None:
        pass

    def connection_lost(self) -> None:
        self.lost += 1


def connected(*, is_client: bool = False) -> tuple[WebSocketConnection, Handler, Wire]:
    handler, wire = Handler(), Wire()
    connection = WebSocketConnection(lambda _: handler, is_client=is_client)
    connection.connection_made(wire)
    return connection, handler, wire


def frame(opcode: int, content: bytes, *, last: bool = True, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    size = len(content)
    bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if last else 0) | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if mask is None:
        return head + content
    return head + mask + bytes(byte ^ key for byte, key in zip(content, itertools.cycle(mask), strict=False))


def frames(data: bytes | bytearray) -> list[tuple[int, bool, bytes]]:
    """Opcode, whether it is the last of its message, and content of each unmasked frame."""
    found: list[tuple[int, bool, bytes]] = []
    while data:
        size, begin = data[1], 2
        if size == 126:
            size, begin = struct.unpack_from("!H", data, 2)[0], 4
        elif size == 127:
            size, begin = struct.unpack_from("!Q", data, 2)[0], 10
        found.append((data[0] & 0x0F, bool(data[0] & 0x80), bytes(data[begin : begin + size])))
        data = data[begin + size :]
    return found


CONVERSATION = [
    frame(Opcode.TEXT, b""),
    frame(Opcode.TEXT, b"small"),
    frame(Opcode.BINARY, b"m" * 126),
    frame(Opcode.PING, b"there?"),
    frame(Opcode.TEXT, b"one ", last=False),
    frame(Opcode.PONG, b""),
    frame(Opcode.CONTINUATION, b"two ", last=False),
    frame(Opcode.PING, b""),
    frame(Opcode.CONTINUATION, b"three"),
    frame(Opcode.TEXT, b"end", mask=b"\0\0\0\0"),
]
MEANT = [b"", b"small", b"m" * 126, b"one two three", b"end"]


async def test_a_conversation_cut_anywhere_is_the_same() -> None:
    whole = b"".join(CONVERSATION)
    for cut in range(len(whole) + 1):
        connection, handler, wire = connected()
        connection.data_received(whole[:cut])
        connection.data_received(whole[cut:])
        assert handler.messages == MEANT
        assert frames(wire.written) == [(Opcode.PONG, True, b"there?"), (Opcode.PONG, True, b"")]
        connection.connection_lost(None)
        assert handler.lost == 1


async def test_byte_by_byte() -> None:
    connection, handler, _ = connected()
    for byte in b"".join(CONVERSATION):
        connection.data_received(bytes([byte]))
    assert handler.messages == MEANT
    connection.connection_lost(None)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 70_000), max_size=5), cuts=st.lists(st.integers(0, 200_000), max_size=8))
def test_any_sizes_in_any_portions(sizes: list[int], cuts: list[int]) -> None:
    async def run() -> None:
        connection, handler, _ = connected()
        messages = [os.urandom(size) for size in sizes]
        whole = b"".join(frame(Opcode.TEXT, message, mask=os.urandom(4)) for message in messages)
        places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
        for begin, end in itertools.pairwise(places):
            connection.data_received(whole[begin:end])
        assert handler.messages == messages
        connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(Opcode.TEXT, b"x", mask=None), 1002),
        (bytes([0xC1]) + frame(Opcode.TEXT, b"x")[1:], 1002),
        (bytes([0x83]) + frame(Opcode.TEXT, b"x")[1:], 1002),
        (frame(Opcode.PING, b"x" * 126), 1002),
        (frame(Opcode.PING, b"", last=False), 1002),
        (frame(Opcode.CONTINUATION, b"x"), 1002),
        (frame(Opcode.TEXT, b"x", last=False) + frame(Opcode.TEXT, b"y"), 1002),
        (struct.pack("!BBQ", 0x81, 0xFF, MESSAGE_LIMIT + 1), 1009),
        (struct.pack("!BBQ", 0x81, 0xFF, (1 << 64) - 1), 1009),
    ],
)
async def test_what_is_no_frame_ends_the_connection_with_a_reason(sent: bytes, code: int) -> None:
    connection, handler, wire = connected()
    connection.data_received(frame(Opcode.TEXT, b"before") + sent + frame(Opcode.TEXT, b"after"))
    connection.data_received(frame(Opcode.TEXT, b"later"))
    assert handler.messages == [b"before"]
    [(opcode, _, content)] = frames(wire.written)
    assert opcode == Opcode.CLOSE
    assert struct.unpack_from("!H", content) == (code,)
    assert wire.closing
    connection.connection_lost(None)
    assert handler.lost == 1


@pytest.mark.parametrize("over", [0, 1])
async def test_a_message_may_come_in_any_fragments_up_to_the_limit(monkeypatch: pytest.MonkeyPatch, over: int) -> None:
    monkeypatch.setattr(websocket, "MESSAGE_LIMIT", 100_000)
    connection, handler, wire = connected()
    connection.data_received(frame(Opcode.TEXT, b"", last=False))
    dot, nothing = frame(Opcode.CONTINUATION, b".", last=False), frame(Opcode.CONTINUATION, b"", last=False)
    tracemalloc.start()
    try:
        for _ in range(99_999 // 9):
            connection.data_received(dot * 9 + nothing)
        # They take as much memory as the message that they make, and not as many objects as they are.
        assert tracemalloc.get_traced_memory()[0] < 300_000
    finally:
        tracemalloc.stop()
    connection.data_received(frame(Opcode.CONTINUATION, b"!" * (1 + over)))
    if over:
        assert handler.messages == []
        [(opcode, _, content)] = frames(wire.written)
        assert (opcode, struct.unpack_from("!H", content)[0]) == (Opcode.CLOSE, 1009)
    else:
        assert handler.messages == [b"." * 99_999 + b"!"]
    connection.connection_lost(None)


async def test_a_close_is_answered_with_its_code() -> None:
    connection, handler, wire = connected()
    connection.data_received(frame(Opcode.CLOSE, struct.pack("!H", 4001) + b"why") + frame(Opcode.TEXT, b"after"))
    assert frames(wire.written) == [(Opcode.CLOSE, True, struct.pack("!H", 4001))]
    assert wire.closing
    assert handler.messages == []
    connection.send(b"too late")
    connection.close()
    assert len(frames(wire.written)) == 1
    connection.connection_lost(None)


async def test_large_messages_leave_in_fragments_and_small_ones_whole() -> None:
    connection, _, wire = connected()
    large = os.urandom(2 * FRAGMENT + 1)
    connection.send(b"x" * FRAGMENT)
    connection.send(large)
    connection.send_all([b"a", large])
    connection.send_pieces([(b"b", b"c"), (large, b"")])
    sent = frames(wire.written)
    assert all(len(content) <= FRAGMENT for _, _, content in sent)
    messages: list[bytes] = []
    for opcode, _, content in sent:
        if opcode == Opcode.CONTINUATION:
            messages[-1] += content
        else:
            messages.append(content)
    assert messages == [b"x" * FRAGMENT, large, b"a", large, b"bc", large]
    assert [last for _, last, _ in sent].count(True) == len(messages)
    connection.connection_lost(None)


async def test_a_client_masks_and_takes_no_masks() -> None:
    client, handler, wire = connected(is_client=True)
    server, heard, _ = connected()
    for size in (0, 125, 126, 65535, 65536, 3 * FRAGMENT):
        client.send(b"x" * size)
    server.data_received(bytes(wire.written))
    assert [len(message) for message in heard.messages] == [0, 125, 126, 65535, 65536, 3 * FRAGMENT]
    client.data_received(frame(Opcode.TEXT, b"ours", mask=None))
    assert handler.messages == [b"ours"]
    client.data_received(frame(Opcode.TEXT, b"masked"))
    assert wire.closing
    client.connection_lost(None)
    server.connection_lost(None)


async def test_who_is_silent_is_asked_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "SILENCE", 0.05)
    silent, _, wire = connected()
    lively, _, other = connected()
    asked = 0
    async with asyncio.timeout(BOUND):
        while not (wire.aborted and asked):
            await (wire if asked else other).changed.wait()
            wire.changed.clear()
            for opcode, _, content in frames(other.written)[asked:]:
                assert opcode == Opcode.PING
                lively.data_received(frame(Opcode.PONG, content))
                asked += 1
    assert [opcode for opcode, _, _ in frames(wire.written)] == [Opcode.PING]
    assert not other.aborted
    silent.connection_lost(None)
    lively.connection_lost(None)


async def test_who_is_not_accepted_is_told_so() -> None:
    wire = Wire()
    refused: list[Connection] = []

    def refuse(connection: Connection) -> None:
        refused.append(connection)

    connection = WebSocketConnection(refuse)
    connection.connection_made(wire)
    [(opcode, _, content)] = frames(wire.written)
    assert (opcode, struct.unpack_from("!H", content)[0]) == (Opcode.CLOSE, 1013)
    assert refused == [connection]
    connection.connection_lost(None)
