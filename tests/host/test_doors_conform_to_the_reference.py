"""What our host and the real ``codex exec-server`` answer to requests at their door, asked of both."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from .harness import BOTH, RunningServer, WireClient, server_command, start_host, within

TOKEN = "a-token"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
METHOD = "Request method must be `GET`"
CONNECTION = "Connection header did not include 'upgrade'"


def without(name: str) -> str:
    """The headers of an upgrade but one."""
    return re.sub(f"{name}: .*\r\n", "", UPGRADE)


#: The request line, headers, and what is answered: status and text.
REQUESTS: list[tuple[str, str, int, str]] = [
    ("GET /", UPGRADE, 101, ""),
    ("GET /?x", UPGRADE, 101, ""),
    ("GET /", UPGRADE + "Sec-WebSocket-Protocol: a\r\n", 101, ""),
    ("GET /", UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate\r\n", 101, ""),
    ("GET /", UPGRADE.replace("Connection: Upgrade", "Connection: keep-alive, upgrade"), 101, ""),
    ("GET /", UPGRADE.replace("websocket", "WebSocket"), 101, ""),
    ("GET /", "", 400, CONNECTION),
    ("GET /", without("Connection"), 400, CONNECTION),
    ("GET /", UPGRADE.replace("Connection: Upgrade", "Connection: close"), 400, CONNECTION),
    ("GET /", without("Upgrade"), 400, "`Upgrade` header did not include 'websocket'"),
    ("GET /", UPGRADE.replace("websocket", "h2c"), 400, "`Upgrade` header did not include 'websocket'"),
    ("GET /", without("Sec-WebSocket-Key"), 400, "`Sec-WebSocket-Key` header missing"),
    ("GET /", UPGRADE + "A: \x01\r\n", 400, ""),
    ("GET /", UPGRADE + "A: \x7f\r\n", 400, ""),
    ("GET /", UPGRADE + "A(: x\r\n", 400, ""),
    ("GET /", UPGRADE + "A : x\r\n", 400, ""),
    ("GET /", UPGRADE + "A\r\n", 400, ""),
    *(
        (line, f"{headers}{framing}\r\n", 400, "")
        for line, headers in (("GET /", UPGRADE), ("GET /readyz", ""), ("POST /x", ""))
        for framing in (
            *("Content-Length: x", "Content-Length: -1", "Content-Length: 5, 6"),
            "Content-Length: 18446744073709551616",
            *("Transfer-Encoding: x", "Transfer-Encoding: chunked, gzip"),
        )
    ),
    ("GET /", UPGRADE + "Transfer-Encoding: gzip, chunked\r\nContent-Length: 0\r\n", 101, ""),
    ("GET /readyz", "", 200, ""),
    ("GET /readyz?x", UPGRADE, 200, ""),
    ("HEAD /readyz", "", 200, ""),
    ("GET /readyz", "A: \x01\r\n", 400, ""),
    *((f"{method} /", UPGRADE, 405, METHOD) for method in ("POST", "OPTIONS", "get", "F-O")),
    ("HEAD /", UPGRADE, 405, ""),
    *((f"{method} /readyz", "", 405, "") for method in ("POST", "DELETE", "get", "F-O")),
    *(
        (f"{method} {path}", headers, 404, "")
        for method in ("GET", "POST", "F-O")
        for path in ("/x", "/healthz", "//", "/readyz/")
        for headers in ("", UPGRADE)
    ),
    *(
        (f"{method} {path}", "Origin: null\r\n" + headers, 403, "")
        for method in ("GET", "POST")
        for path in ("/", "/x", "/readyz")
        for headers in ("", UPGRADE)
    ),
]


async def ask(server: RunningServer, line: str, headers: str) -> tuple[int, str, str]:
    """Send a request; returns status, headers and text."""
    host, port = server.url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode("latin-1"))
        head = (await within(reader.readuntil(b"\r\n\r\n"))).decode().lower()
        length = re.search(r"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length and not line.startswith("HEAD") else 0
        return int(head.split()[1]), head, (await within(reader.readexactly(size))).decode()
    finally:
        writer.close()


@pytest.fixture(scope="module", params=BOTH)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = RunningServer(server_command(request.param, tmp_path_factory.mktemp("door") / "state"))
    yield server
    server.stop()


@pytest.fixture(scope="module", params=BOTH)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Either of them, asking for a token."""
    command = server_command(request.param, tmp_path_factory.mktemp("guarded") / "state")
    # Blanks around it mean nothing.
    digest = f" {hashlib.sha256(TOKEN.encode()).hexdigest().upper()}\n"
    server = RunningServer([*command, "--ws-auth", "capability-token", "--ws-token-sha256", digest])
    yield server
    server.stop()


@pytest.mark.parametrize(("line", "headers", "status", "text"), REQUESTS)
async def test_a_request_has_one_answer(door: RunningServer, line: str, headers: str, status: int, text: str) -> None:
    found, _, told = await ask(door, line, headers)
    assert (found, told) == (status, text)


async def test_who_may_not_do_something_learns_what_may_be_done(door: RunningServer) -> None:
    assert "\r\nallow: get,head\r\n" in (await ask(door, "POST /readyz", ""))[1]


@pytest.mark.parametrize("authorization", ["", "Authorization: Bearer wrong\r\n", f"Authorization: Bearer {TOKEN}\r\n"])
async def test_what_is_no_upgrade_needs_no_token_to_be_refused(guarded: RunningServer, authorization: str) -> None:
    for line, headers, status, text in REQUESTS:
        found, _, told = await ask(guarded, line, authorization + headers)
        if status == 101 and TOKEN not in authorization:
            kind = "invalid" if authorization else "missing"
            assert (found, told) == (401, f"{kind} websocket bearer token")
        else:
            assert (found, told) == (status, text)


async def test_an_upgrade_of_another_version_is_told_which_one_there_is(state: Path) -> None:
    """Unlike with the reference implementation, which answers 400: RFC 6455 wants this."""
    server = start_host(state, "ws://127.0.0.1:0")
    for headers in (without("Sec-WebSocket-Version"), UPGRADE.replace("13", "8")):
        status, head, text = await ask(server, "GET /", headers)
        assert (status, text) == (426, "`Sec-WebSocket-Version` header did not include '13'")
        assert "\r\nsec-websocket-version: 13\r\n" in head
    server.stop()


async def test_who_shows_two_tokens_is_nobody(tmp_path: Path) -> None:
    """Unlike with the reference implementation, for which the first one counts."""
    guard = ["--ws-auth", "capability-token", "--ws-token-sha256", hashlib.sha256(TOKEN.encode()).hexdigest()]
    server = start_host(tmp_path / "state", "ws://127.0.0.1:0", *guard)
    good = f"Authorization: Bearer {TOKEN}\r\n"
    assert (await ask(server, "GET /", UPGRADE + good))[0] == 101
    for other in (good, "Authorization: Basic x\r\n"):
        assert (await ask(server, "GET /", UPGRADE + good + other))[0] == 401
    server.stop()


@pytest.fixture
async def raw(door: RunningServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection after its upgrade, with somebody who speaks in frames."""
    host, port = door.url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{UPGRADE}\r\n".encode())
    await within(reader.readuntil(b"\r\n\r\n"))
    yield reader, writer
    writer.close()


def frame(first: int, content: bytes = b"") -> bytes:
    """A frame of a client; its mask changes nothing."""
    return bytes((first, 0x80 | len(content))) + bytes(4) + content


@pytest.mark.parametrize(
    "ended",
    [
        *(frame(0x80 | opcode) for opcode in (0, 3, 7, 11, 15)),
        *(frame(0x81 | bits, b"{}") for bits in (0x10, 0x20, 0x40)),
        frame(0x01, b"{") + frame(0x81, b"}"),
        frame(0x09, b"not whole"),
        b"\x89\xfe\x00\x7e" + bytes(4 + 126),
        b"\x81\x02{}",
        b"\x81\xff" + b"\xff" * 8 + bytes(4),
        frame(0x88),
        frame(0x88, b"\x03\xe8bye"),
        frame(0x88, b"\x03\xee"),
        frame(0x88, b"\x03"),
    ],
)
async def test_what_ends_a_connection(
    door: RunningServer, raw: tuple[asyncio.StreamReader, asyncio.StreamWriter], ended: bytes
) -> None:
    reader, writer = raw
    writer.write(ended)
    left = await within(reader.read())
    # Ours says why; the code of the client comes back, if it is one that may be sent.
    assert left == b"" or left[0] == 0x88
    assert left[2:4] not in (b"\x03\xee", b"\x03")
    client = await WireClient.connect(door.url)
    assert await client.result("environment/status") == {"status": "ready"}
    await client.close()


@pytest.mark.parametrize("kind", [1, 2])
async def test_a_message_may_come_in_pieces_with_pings_between(
    raw: tuple[asyncio.StreamReader, asyncio.StreamWriter], kind: int
) -> None:
    reader, writer = raw
    hello = b'{"id":1,"method":"initialize","params":{"clientName":"x"}}'
    pieces = [
        frame(kind, b""),
        frame(0, hello[:9]),
        frame(0x89, b"there?"),
        frame(0x8A, b"yes"),
        frame(0x80, hello[9:]),
    ]
    writer.write(b"".join(pieces))
    assert await within(reader.readexactly(8)) == b"\x8a\x06there?"
    first, size = await within(reader.readexactly(2))
    size = int.from_bytes(await within(reader.readexactly(2))) if size == 126 else size
    assert first == 0x81
    assert b'"sessionId"' in await within(reader.readexactly(size))
