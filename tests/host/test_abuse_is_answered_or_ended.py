"""Frames without end, nesting, floods of ids, clients that dawdle: a typed answer or a closed connection."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.dispatch import IN_FLIGHT
from holdfast.jsonrpc.upgrade import UNFINISHED

from .harness import RunningServer, WireClient, start_host, within, write_params
from .promises import peak, resident, spec

KEY = base64.b64encode(b"0123456789abcdef").decode()
#: Bytes that a server may grow by under any of this, beyond what one message may have.
GROWTH = 100_000_000


@pytest.fixture(scope="module")
def websocket_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One for all of it: what one of them does to it would show in the next."""
    server = start_host(tmp_path_factory.mktemp("abuse") / "state", "ws://127.0.0.1:0")
    yield server
    server.stop()


@pytest.fixture
async def bystander(websocket_host: RunningServer) -> AsyncIterator[WireClient]:
    """Somebody else, who must be served all the while."""
    client = await WireClient.connect(websocket_host.url)
    yield client
    assert await client.result("environment/status") == {"status": "ready"}
    await client.close()


async def tcp(server: RunningServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("ws://").split(":")
    return await asyncio.open_connection(host, int(port))


def connections(server: RunningServer) -> int:
    """How many sockets the server has open."""
    places = Path(f"/proc/{server.server_pid}/fd").iterdir()
    return sum(os.readlink(place).startswith("socket:") for place in places)


async def upgraded(server: RunningServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await tcp(server)
    head = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    assert b" 101 " in await within(reader.readuntil(b"\r\n\r\n"))
    return reader, writer


def frame(text: bytes) -> bytes:
    """A text frame with a mask of zeros."""
    size = bytes([0x80 | len(text)]) if len(text) < 126 else struct.pack("!BH", 0xFE, len(text))
    return b"\x81" + size + b"\0\0\0\0" + text


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Wait until the server has ended the connection, whatever it says before."""
    try:
        while await within(reader.read(65536)):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize("size", [1 << 30, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
async def test_a_frame_that_announces_too_much_ends_the_connection(
    websocket_host: RunningServer, bystander: WireClient, size: int
) -> None:
    before = resident(websocket_host.server_pid)
    reader, writer = await upgraded(websocket_host)
    writer.write(struct.pack("!BBQ", 0x81, 0xFF, size) + b"\0\0\0\0" + b"x" * 100_000)
    await until_closed(reader)
    writer.close()
    assert resident(websocket_host.server_pid) - before < GROWTH


async def test_fragments_without_end_are_bounded(websocket_host: RunningServer, bystander: WireClient) -> None:
    before = resident(websocket_host.server_pid)
    reader, writer = await upgraded(websocket_host)
    part = 4 * 1024 * 1024
    ending = asyncio.ensure_future(until_closed(reader))
    first = 0x01
    for _ in range(40):
        writer.write(struct.pack("!BBQ", first, 0xFF, part) + b"\0\0\0\0" + b" " * part)
        first = 0x00
        try:
            await within(writer.drain())
        except ConnectionError:
            break
        if ending.done():
            break
    await within(ending)
    writer.close()
    assert resident(websocket_host.server_pid) - before < GROWTH


async def test_a_line_without_end_is_bounded(host: RunningServer) -> None:
    before = resident(host.server_pid)
    reader, writer = await asyncio.open_unix_connection(host.url.removeprefix("unix://"))
    ending = asyncio.ensure_future(until_closed(reader))
    for _ in range(60):
        writer.write(b"x" * (4 * 1024 * 1024))
        try:
            await within(writer.drain())
        except ConnectionError:
            break
        if ending.done():
            break
    await within(ending)
    writer.close()
    assert resident(host.server_pid) - before < GROWTH
    client = await WireClient.connect(host.url)
    assert await client.result("environment/status") == {"status": "ready"}
    await client.close()


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":['])
async def test_nesting_is_refused_with_an_error(host: RunningServer, opening: str) -> None:
    client = await WireClient.connect(host.url)
    deep = opening * 300_000
    client.send(deep)
    refusal = await client.reply(-1)
    assert refusal["error"]["code"] == -32600
    del client.replies[-1]
    client.send('{"id":70,"method":"process/read","params":' + deep + "}")
    assert (await client.until(lambda: client.replies.get(70) or client.replies.get(-1)))["error"]
    nested = "[" * 500 + "]" * 500
    client.send('{"id":71,"method":"process/start","params":{"processId":"x","sandbox":' + nested + "}}")
    assert "error" in await client.reply(71)
    client.send('{"id":72,"method":"environment/status","whatever":' + nested + "}")
    assert "result" in await client.reply(72)
    await client.close()


async def test_a_hundred_thousand_ids_are_each_answered_once(websocket_host: RunningServer) -> None:
    client = await WireClient.connect(websocket_host.url)
    count = 100_000
    before = resident(websocket_host.server_pid)
    for first in range(0, count, 10_000):
        for number in range(first, first + 10_000):
            identity = number if number % 2 else f"id {number}"
            client.send(b'{"id":%s,"method":"environment/status"}' % json.dumps(identity).encode())
        await client.until(lambda end=first + 10_000: len(client.replies) >= end)
    assert all("result" in reply for reply in client.replies.values())
    assert {number for number in range(count) if number % 2} <= set(client.replies)
    assert {f"id {number}" for number in range(count) if not number % 2} <= set(client.replies)
    assert resident(websocket_host.server_pid) - before < 30_000_000
    await client.close()


@pytest.mark.parametrize("url", ["unix://", "ws://127.0.0.1:0"])
async def test_a_thousand_requests_of_every_kind_in_one_go_are_all_answered(state: Path, url: str) -> None:
    server = start_host(state, url)
    client = await WireClient.connect(server.url)
    await client.start("cat", "/bin/cat", pipeStdin=True)
    await client.start("term", "/bin/cat", tty=True)
    identities: list[int] = []
    for number in range(250):
        process_id = "term" if number % 2 else "cat"
        write = {"processId": process_id, "chunk": "eAo=", "writeId": str(number)}
        identities += [
            client.request("process/write", write),
            client.request("process/read", {"processId": process_id, "afterSeq": 0, "maxBytes": 100}),
            # Nothing has that number yet: it waits while all the others go on.
            client.request("process/read", {"processId": process_id, "afterSeq": 10**6, "waitMs": 300}),
            client.request("no/such/method"),
        ]
    for identity in identities:
        await client.reply(identity)
    assert len(client.replies) >= 1000
    for process_id in ("cat", "term"):
        await client.result("process/terminate", {"processId": process_id})
        await client.until_closed(process_id)
    await client.close()
    server.stop()


@pytest.mark.parametrize(
    ("name", "patterns", "answer"),
    [
        ("a" * 5000, ["*a" * 200 + "*b"], "result"),
        ("a" * 500_000, ["*" + "a" * 250_000 + "b"], "error"),
        ("a", ["*a" * 500_000], "error"),
        ("a", ["*"] * 500_000, "error"),
    ],
    ids=["stars", "long", "very long", "many"],
)
async def test_no_pattern_of_a_policy_takes_the_time_of_others(
    websocket_host: RunningServer, bystander: WireClient, name: str, patterns: list[str], answer: str
) -> None:
    client = await WireClient.connect(websocket_host.url)
    policy = {"inherit": "none", "ignoreDefaultExcludes": True, "exclude": [], "set": {name: "1"}}
    policy["includeOnly"] = patterns
    start = {"processId": "p", "argv": ["/bin/true"], "cwd": "file:///", "env": {}, "tty": False, "envPolicy": policy}
    assert answer in await client.call("process/start", start)
    assert await bystander.result("environment/status") == {"status": "ready"}
    await client.close()


@pytest.mark.parametrize("member", ["managedNetwork", "networkProxy", "credentialProviders"])
async def test_what_nobody_looks_at_takes_no_more_memory_than_its_text(host: RunningServer, member: str) -> None:
    client = await WireClient.connect(host.url)
    before = peak(host.server_pid)
    start = '{"id":"s","method":"process/start","params":{"processId":"p","argv":["true"],"cwd":"file:///","env":{},"tty":false'
    client.send(f'{start},"{member}":[{"{}," * 5_000_000}0]}}}}')
    refusal = await client.reply("s")
    assert refusal["error"]["code"] == -32602
    assert member in refusal["error"]["message"]
    # The text is read, and lies there whole; as objects it would be 360 MB.
    assert peak(host.server_pid) - before < 100_000_000
    await client.close()


async def test_who_dawdles_over_the_handshake_is_dropped(websocket_host: RunningServer, bystander: WireClient) -> None:
    dawdlers = [await tcp(websocket_host) for _ in range(50)]
    for number, (_, writer) in enumerate(dawdlers):
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "[: 5 + number])

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ending = asyncio.ensure_future(until_closed(reader))
        while not ending.done():
            writer.write(b"x")
            await asyncio.wait({ending}, timeout=0.5)
        writer.close()

    # The deadline is for the whole of it: who sends a byte now and then gains nothing, else this would never end.
    await within(asyncio.gather(*(drip(reader, writer) for reader, writer in dawdlers)))


async def test_who_says_nothing_takes_no_place_of_who_does(websocket_host: RunningServer) -> None:
    first = await WireClient.connect(websocket_host.url)
    before = connections(websocket_host)
    silent = [await tcp(websocket_host) for _ in range(3 * UNFINISHED)]
    client = await WireClient.connect(websocket_host.url)
    assert await client.result("environment/status") == {"status": "ready"}
    assert connections(websocket_host) <= before + UNFINISHED + 1
    for reader, _ in silent[:UNFINISHED]:
        await until_closed(reader)
    assert await first.result("environment/status") == {"status": "ready"}
    # Who is asked for a word in time is still there.
    reader, writer = silent[-1]
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b" 200 " in await within(reader.readuntil(b"\r\n\r\n"))
    for _, writer in silent:
        writer.close()
    await client.close()
    await first.close()


async def test_half_a_message_holds_up_nobody_else(websocket_host: RunningServer, bystander: WireClient) -> None:
    halves = [await upgraded(websocket_host) for _ in range(20)]
    for _, writer in halves:
        writer.write(struct.pack("!BBQ", 0x81, 0xFF, 60_000_000) + b"\0\0\0\0" + b'{"id":1,')
    for number in range(50):
        assert await bystander.result("environment/status") == {"status": "ready"}, number
    for _, writer in halves:
        writer.close()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"\0" * 100,
        b'"text"',
        b"[]",
        b"nul",
        b'{"id":null,"method":"x"}',
        b'{"id":1.5,"method":"x"}',
        b'{"id":18446744073709551616,"method":"x"}',
        b'{"id":{},"method":"x"}',
        b'{"id":1,"method":7}',
        b'{"id":1}',
        b'{"id":1,"method":"environment/status","id":2',
        b'{"id":1,"method":"process/read","params":[]}',
        b'{"id":1,"method":"process/read","params":{"processId":"\xed\xa0\x80"}}',
        b'{"id":1,"method":"process/write","params":{"processId":"p","chunk":"\xc3\xa9","writeId":"1"}}',
        b'{"method":"process/acknowledge","params":[]}',
        b'{"method":"process/acknowledge"}',
        b'{"method":"process/acknowledge","params":{"subscriptionId":1,"bytes":-1}}',
        b'{"method":"cancel"}',
        b'{"id":3,"result":{}}',
        b'{"id":3,"error":{"code":1,"message":"x"}}',
        b'{"id":3,"error":7}',
    ],
)
async def test_nonsense_is_answered_or_ends_its_own_connection_only(
    websocket_host: RunningServer, bystander: WireClient, message: bytes
) -> None:
    reader, writer = await upgraded(websocket_host)
    for text in (b'{"id":1,"method":"initialize","params":{"clientName":"x"}}', b'{"method":"initialized"}', message):
        writer.write(frame(text))
    # Asked for last, so that whatever the nonsense did has been done.
    last = b'{"id":99,"method":"environment/status"}'
    writer.write(frame(last))
    received = b""
    try:
        while b'"id":99' not in received and (data := await within(reader.read(65536))):
            received += data
    except ConnectionError:
        pass
    writer.close()
    assert b"internal error" not in received
    errors = websocket_host.stderr
    assert errors is not None
    assert "Traceback" not in errors.read_text()


async def test_a_client_that_reads_nothing_is_dropped_before_it_costs_too_much(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await client.start("b", "/usr/bin/head", "-c", "12000000", "/dev/zero")
    await client.until_closed("b")
    before = resident(host.server_pid)
    _, writer = await asyncio.open_unix_connection(host.url.removeprefix("unix://"), limit=1024)
    session = json.dumps({"clientName": "x", "resumeSessionId": client.session})
    writer.write(b'{"id":1,"method":"initialize","params":%s}\n{"method":"initialized"}\n' % session.encode())
    for number in range(200):
        writer.write(b'{"id":%d,"method":"process/read","params":{"processId":"b"}}\n' % (number + 2))
    await client.until_lost()
    # Its replies would be 3 GB.
    other = await WireClient.connect(host.url)
    for _ in range(20):
        await other.result("environment/status")
        assert resident(host.server_pid) - before < 200_000_000
    writer.close()
    await other.close()


async def test_ids_and_paths_are_data(host: RunningServer, state: Path) -> None:
    """Whatever a process is called, nothing outside of the state directory is touched by it."""
    client = await HostClient.connect(host.url)
    before = sorted(os.listdir(state.parent))
    names = ["../../x", "/etc/passwd", "a/b", ".", "..", "\n", "\0", "é\u202e", "x" * 5000, ""]
    for name in names:
        await client.start(spec(name, "echo", "hi"))
        records = [record async for record in client.records(name)]
        assert len(records) == 3
    assert {status.process_id for status in await client.list()} == set(names)
    assert sorted(os.listdir(state.parent)) == before
    await client.aclose()


async def test_what_is_refused_because_too_much_waits_has_done_nothing(
    websocket_host: RunningServer, bystander: WireClient
) -> None:
    client = await WireClient.connect(websocket_host.url)
    await client.start("done", "/bin/true", holdfast={"persistent": True})
    while not (await client.result("process/read", {"processId": "done", "waitMs": 10_000}))["closed"]:
        pass
    await client.start("p", "/bin/cat", pipeStdin=True)
    for _ in range(IN_FLIGHT):
        client.request("process/read", {"processId": "p", "waitMs": 2**40})
    full = (-32600, "too many requests in flight")
    assert await client.error("process/write", write_params("p", b"refused\n", "1")) == full
    assert await client.error("process/closeStdin", {"processId": "p"}) == full
    tree = {"processId": "p", "tree": True, "graceMs": 0}
    assert await client.error("process/terminate", tree) == full
    assert await client.error("process/forget", {"processId": "done"}) == full
    assert (await client.result("process/status", {"processId": "done"}))["status"]["state"] == "closed"
    again = await WireClient.connect(websocket_host.url, resume=client.session)
    await again.result("process/write", write_params("p", b"taken\n", "1"))
    await again.until_output("p", b"\n")
    assert again.output("p") == b"taken\n"
    assert (await again.result("process/terminate", tree))["running"] is True
    await again.close()
