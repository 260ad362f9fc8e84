"""Who gets in, what others can see, and what the host gives to its children."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.host.address import bind_unix
from holdfast.host.client import HostClient
from holdfast.host.port import HostUnavailable, InvalidUrl, ProcessSpec, Record
from holdfast.jsonrpc.lines import serve_unix
from holdfast.jsonrpc.upgrade import HEAD_LIMIT

from .harness import BOUND, PATH, RunningServer, WireClient, everything_below, start_host, within


@pytest.fixture
def websocket_host(state: Path) -> Iterator[RunningServer]:
    server = start_host(state, "ws://127.0.0.1:0")
    yield server
    server.stop()


async def http(server: RunningServer, request: str) -> tuple[int, str]:
    """Send a plain HTTP request; returns status and body."""
    host, port = server.url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    answer = (await within(reader.read())).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


UPGRADE = "\n".join(
    (
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )
)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"GET / HTTP/1.1\n{UPGRADE}\nOrigin: http://evil.example", 403),
        (f"GET / HTTP/1.1\n{UPGRADE}\nOrigin: null", 403),
        ("GET /readyz HTTP/1.1\nHost: 127.0.0.1\nOrigin: http://evil.example", 403),
        ("GET /readyz HTTP/1.1\nHost: localhost:1", 200),
        ("HEAD /readyz HTTP/1.1\nHost: localhost:1", 200),
        (f"HEAD / HTTP/1.1\n{UPGRADE}", 405),
        ("POST /readyz HTTP/1.1\nHost: localhost:1", 405),
        ("GET /healthz HTTP/1.1\nHost: localhost:1", 404),
        (f"GET /x HTTP/1.1\n{UPGRADE}", 404),
        ("GET / HTTP/1.1\nHost: localhost:1", 400),
    ],
)
async def test_http_answers(websocket_host: RunningServer, request_text: str, status: int) -> None:
    assert (await http(websocket_host, request_text))[0] == status


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431), (10_000, 431)])
async def test_a_head_is_bounded_also_if_it_comes_at_one_stroke(
    websocket_host: RunningServer, more: int, status: int
) -> None:
    head = "GET /readyz HTTP/1.1\nHost: localhost:1\nX: "
    # A line feed becomes two bytes.
    filling = "x" * (HEAD_LIMIT - len(head) - head.count("\n") + more)
    assert (await http(websocket_host, head + filling))[0] == status


@pytest.mark.parametrize(
    "address",
    ["ws://0.0.0.0:0", "ws://[::]:0", "ws://localhost:0", "wss://127.0.0.1:0", "tcp://x", "ws://127.0.0.1:99999"],
)
def test_only_loopback_addresses_are_listened_on(state: Path, address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.host", "--listen", address, "--state-dir", str(state)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize("port", ["65536", "99999", "9" * 5000])
def test_a_port_that_is_too_large_is_told_as_such(port: str) -> None:
    assert refused("--listen", f"ws://127.0.0.1:{port}") == (
        f"Error: Cannot listen on ws://127.0.0.1:{port}: the last port is 65535.\nPort 0 is any free one.\n"
    )


@pytest.mark.parametrize("port", ["\u0663", "+5", "1_0", " 5", "-1", ""])
def test_a_port_is_written_in_digits(port: str) -> None:
    assert "is not an address to listen on" in refused("--listen", f"ws://127.0.0.1:{port}")


async def test_what_is_made_is_private_from_the_first_instant(state: Path) -> None:
    before = os.umask(0)
    try:
        server = start_host(state)
    finally:
        os.umask(before)
    client = await HostClient.connect(server.url)
    spec = ProcessSpec(process_id="p", argv=["sh", "-c", "echo x; echo y >&2"], cwd=Path("/"), env={"PATH": PATH})
    await client.start(spec)
    assert [record async for record in client.records("p")]
    seen = 0
    for path, status in everything_below(state):
        assert stat.S_IMODE(status.st_mode) == (0o700 if stat.S_ISDIR(status.st_mode) else 0o600), path
        seen += 1
    assert seen >= 6
    await client.aclose()
    server.stop()
    assert "host.sock" not in os.listdir(state)


async def test_other_users_are_dropped_at_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    accepted: list[object] = []
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    server = await serve_unix(bind_unix(path), lambda connection: accepted.append(connection))  # type: ignore[arg-type,func-returns-value]
    reader, writer = await asyncio.open_unix_connection(str(path))
    with pytest.raises(ConnectionError):
        writer.write(b'{"id":1,"method":"initialize","params":{"clientName":"x"}}\n')
        if not await within(reader.read()):
            raise ConnectionResetError
    assert accepted == []
    writer.close()
    server.close()


async def test_children_inherit_three_descriptors_and_their_environment_only(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await client.start("f", "/bin/ls", "/proc/self/fd", env={})
    await client.start("s", "/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status", env={})
    await client.until_closed("f")
    await client.until_closed("s")
    # The fourth is the listing itself.
    assert client.output("f").split() == [b"0", b"1", b"2", b"3"]
    # glibc's posix_spawn leaves its two internal signals (32 and 33) ignored; nothing else is ignored or blocked.
    masks = {int(line.split()[1], 16) for line in client.output("s").splitlines()}
    assert not [mask for mask in masks if mask & ~0x180000000]
    await client.close()


async def test_a_sandbox_is_refused_rather_than_ignored(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    start = {"processId": "s", "argv": ["true"], "cwd": "file:///", "env": {}, "tty": False}
    for name, value in (("sandbox", {"permissions": {"type": "managed"}}), ("enforceManagedNetwork", True)):
        code, message = await client.error("process/start", {**start, name: value})
        assert code == -32602
        assert name in message
    await client.result("process/start", {**start, "sandbox": None, "enforceManagedNetwork": False})
    await client.close()


async def test_a_flood_of_requests_wedges_nothing(websocket_host: RunningServer) -> None:
    client = await WireClient.connect(websocket_host.url)
    for number in range(400):
        client.request(
            "process/start",
            {"processId": str(number), "argv": ["/bin/true"], "cwd": "file:///", "env": {}, "tty": False},
        )
    for _ in range(1000):
        client.request("environment/status")
    await client.until(lambda: len(client.replies) >= 1401)
    await client.until(lambda: sum(n["method"] == "process/closed" for n in client.notifications) == 400)
    await client.close()


async def test_waiting_requests_are_bounded_by_an_error_not_by_silence(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    await client.start("s", "/bin/sleep", "1000")
    polls = [client.request("process/read", {"processId": "s", "waitMs": 600_000}) for _ in range(5000)]
    refused = await client.reply(polls[-1])
    assert refused["error"]["code"] == -32600
    assert await client.result("environment/status") == {"status": "ready"}
    await client.result("process/terminate", {"processId": "s"})
    await client.until_closed("s")
    await client.close()


async def test_large_messages_come_in_fragments_and_too_large_ones_end_the_connection(
    websocket_host: RunningServer,
) -> None:
    client = await WireClient.connect(websocket_host.url)
    await client.start("b", "/usr/bin/head", "-c", "12000000", "/dev/zero")
    await client.until_closed("b")
    whole = await client.result("process/read", {"processId": "b"})
    assert sum(len(chunk["chunk"]) for chunk in whole["chunks"]) > 12_000_000
    client.send(b'{"id":1,"method":"' + b"x" * (64 * 1024 * 1024) + b'"}')
    await client.until_lost()


async def test_the_newest_resume_wins_and_the_older_connection_is_told(websocket_host: RunningServer) -> None:
    first = await WireClient.connect(websocket_host.url)
    await first.start("p", "/bin/sh", "-c", "read x; echo $x", pipeStdin=True)
    second = await WireClient.connect(websocket_host.url, resume=first.session)
    assert second.session == first.session
    await first.until_lost()
    chunk = {"processId": "p", "chunk": "b2sK", "writeId": "1"}
    assert await second.result("process/write", chunk) == {"status": "accepted"}
    await second.until_closed("p")
    assert second.output("p") == b"ok\n"
    await second.close()


async def test_stdio_serves_one_client_and_ends_with_it(state: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.host", "--listen", "stdio", "--state-dir", str(state)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin and server.stdout
    server.stdin.write(b'{"id":1,"method":"initialize","params":{"clientName":"x"}}\n')
    assert b'"sessionId"' in await within(server.stdout.readline())
    server.stdin.write(b'{"method":"initialized"}\r\n\n\r\n   \n{"id":2,"method":"environment/status"}\r\n')
    assert await within(server.stdout.readline()) == b'{"id":2,"result":{"status":"ready"}}\n'
    server.stdin.write(b"garbage\n")
    answer = await within(server.stdout.readline())
    assert b"failed to parse JSON-RPC message from exec-server stdio: " in answer
    server.stdin.write(
        b'{"id":3,"method":"process/start","params":{"processId":"p","argv":["sleep","1000"],"cwd":"file:///",'
        b'"env":{},"tty":false}}\n'
    )
    assert b'"result"' in await within(server.stdout.readline())
    server.stdin.write_eof()
    assert await within(server.wait()) == 0


async def test_a_host_is_reached_over_websocket_too_and_a_wrong_address_is_named(websocket_host: RunningServer) -> None:
    with pytest.raises(HostUnavailable, match="No host answers"):
        await HostClient.connect("ws://127.0.0.1:1")
    with pytest.raises(InvalidUrl, match="not the URL of a host"):
        await HostClient.connect("gopher://x")
    client = await HostClient.connect(websocket_host.url)
    spec = ProcessSpec(process_id="p", argv=["echo", "over websocket"], cwd=Path("/"), env={"PATH": PATH})
    await client.start(spec)
    records = [record async for record in client.records("p")]
    assert isinstance(records[0], Record)
    assert records[0].data == b"over websocket\n"
    await client.aclose()


#: How a process of root's is held to the modes of files, as that of any user is.
HELD_TO_MODES = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search", "--"]
    if os.geteuid() == 0
    else []
)


ELSEWHERE = "See that one runs there, and give the URL that it printed when it started."


@pytest.mark.parametrize(
    ("url", "reason", "hint"),
    [
        ("ws://127.0.0.1:1", "Connection refused", "Start one with: holdfast exec-server --listen ws://127.0.0.1:1"),
        ("wss://127.0.0.1:1", "Connection refused", ELSEWHERE),
        ("ws://localhost:1", "", ELSEWHERE),
        ("unix://{}/s", "No such file or directory", "Start one with: holdfast exec-server --listen unix://{}/s"),
        (
            "unix://{}/host.sock",
            "No such file or directory",
            "Start one with: holdfast exec-server --listen unix:// --state-dir {}",
        ),
        ("unix://{}/file/s", "Not a directory", ELSEWHERE),
    ],
)
async def test_where_no_host_is_it_is_said_how_there_can_be_one(
    tmp_path: Path, url: str, reason: str, hint: str
) -> None:
    (tmp_path / "file").touch()
    url, hint = (text.replace("{}", str(tmp_path)) for text in (url, hint))
    with pytest.raises(HostUnavailable) as caught:
        await HostClient.connect(url)
    assert caught.value.message.startswith(f"No host answers at {url}: {reason}")
    assert caught.value.hint == hint


async def test_what_answers_and_is_no_host_is_not_said_to_be_missing(websocket_host: RunningServer) -> None:
    with pytest.raises(HostUnavailable, match="HTTP status 404") as caught:
        await HostClient.connect(f"{websocket_host.url}/elsewhere")
    assert caught.value.hint == ELSEWHERE


def refused(*options: str) -> str:
    """What a host says that refuses to start."""
    command = [*HELD_TO_MODES, sys.executable, "-m", "holdfast.host", *options]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=BOUND)
    assert (ended.returncode, ended.stdout) == (2, b"")
    return ended.stderr.decode()


@pytest.mark.parametrize(
    "options",
    [
        ["--bogus"],
        ["--listen", "stdio", "--bogus"],
        ["--listen"],
        ["--log-level", "all"],
        ["--idle-exit", "soon"],
        ["--ws-auth", "capability-token"],
        ["--ws-auth", "capability-token", "--ws-token-sha256", "abc"],
        ["--ws-auth", "capability-token", "--ws-token-file", "/missing"],
        ["--ws-auth", "signed-bearer-token"],
    ],
)
def test_a_mistake_costs_one_sentence_and_one_hint(options: list[str]) -> None:
    sentence, hint = refused(*options).splitlines()
    assert sentence.startswith("Error: ")
    assert hint


def test_a_port_that_somebody_has_is_told_with_the_way_around(websocket_host: RunningServer) -> None:
    assert refused("--listen", websocket_host.url) == (
        f"Error: Cannot listen on {websocket_host.url}: Address already in use.\n"
        "Use an address of this machine and another port; port 0 is any free one.\n"
    )


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path, state: Path) -> None:
    longest = tmp_path / ("a" * (106 - len(os.fsencode(tmp_path))))
    server = start_host(state, f"unix://{longest}")
    assert (server.url, server.stop()) == (f"unix://{longest}", 0)
    assert refused("--state-dir", str(state), "--listen", f"unix://{longest}a") == (
        f"Error: Cannot listen on unix://{longest}a: a socket's path has 107 bytes at most, this one 108.\n"
        "Use a shorter path.\n"
    )


@pytest.mark.parametrize(
    ("mode", "hint"),
    [
        (0o1777, "Choose a directory that only Holdfast uses, for example {}/holdfast."),
        (0o775, "If only Holdfast uses it, run: chmod 700 {}"),
    ],
)
def test_nobody_is_told_to_take_away_a_directory_of_others(tmp_path: Path, mode: int, hint: str) -> None:
    tmp_path.chmod(mode)
    told = refused("--state-dir", str(tmp_path))
    tmp_path.chmod(0o700)
    assert told == f"Error: {tmp_path} is open to other users (mode {mode:04o}).\n{hint.format(tmp_path)}\n"


def _occupy(directory: Path) -> None:
    """Put into *directory* what may be in the way of a state directory."""
    (directory / "file").touch()
    (directory / "dangling").symlink_to("nowhere")
    (directory / "link").symlink_to("private")
    for name, mode in (("private", 0o700), ("locked", 0o700), ("nested", 0o700), ("closed", 0), ("fixed", 0o500)):
        (directory / name).mkdir(mode)
    (directory / "locked" / "lock").mkdir()
    (directory / "nested" / "processes").touch()


@pytest.mark.parametrize("listen", ["unix://", "stdio"])
@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        ("file", "{}/file is not a directory.", "Move it away, or choose a directory of your own."),
        ("file/x", "{}/file/x cannot be made: {}/file is not a directory.", "Move {}/file away, or choose a "),
        ("link", "{}/link is a symlink.", "Name what it leads to: {}/private"),
        ("dangling", "{}/dangling is a symlink.", "Move it away, or choose a directory of your own."),
        ("dangling/x", "{}/dangling is a symlink that leads to no directory.", "Move {}/dangling away, or "),
        ("closed/x", "{}/closed/x cannot be made in {}/closed: Permission denied.", "Mend that, or choose a "),
        ("fixed/x/y", "{}/fixed/x/y cannot be made in {}/fixed: Permission denied.", "Mend that, or choose a "),
        ("fixed", "{}/fixed/lock cannot be opened: Permission denied.", "Mend that, or choose a directory "),
        ("locked", "{}/locked/lock cannot be opened: Is a directory.", "Mend that, or choose a directory "),
        ("nested", "{}/nested/processes is not a directory.", "Move it away, or choose a directory of your own."),
        ("a" * 300, "cannot be made in {}: File name too long.", "Mend that, or choose a directory of your own."),
    ],
)
def test_a_state_directory_that_cannot_be_one_is_told_with_the_way_around(
    tmp_path: Path, listen: str, name: str, sentence: str, hint: str
) -> None:
    _occupy(tmp_path)
    complaint, advice = refused("--listen", listen, "--state-dir", str(tmp_path / name)).splitlines()
    assert complaint.startswith("Error: ")
    assert complaint.endswith(sentence.replace("{}", str(tmp_path)))
    assert advice.startswith(hint.replace("{}", str(tmp_path)))
    assert "HOLDFAST_STATE_DIR" not in advice


@pytest.mark.parametrize("listen", ["unix://", "stdio"])
def test_a_state_directory_that_clients_cannot_be_told_is_refused(tmp_path: Path, listen: str) -> None:
    told = refused("--listen", listen, "--state-dir", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert told == (
        f"Error: The path {tmp_path}/\\udcff is not UTF-8.\nRename it, or choose a directory of your own.\n"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "Not a directory"),
        ("dangling", "No such file or directory"),
        ("closed/x", "Permission denied"),
        ("a" * 300, "File name too long"),
    ],
)
def test_a_root_that_cannot_be_one_is_told(tmp_path: Path, state: Path, name: str, reason: str) -> None:
    _occupy(tmp_path)
    assert refused("--state-dir", str(state), "--root", str(tmp_path / name)) == (
        f"Error: --root {tmp_path / name} cannot be used: {reason}.\nGive an existing directory.\n"
    )


def test_what_only_codex_can_do_is_refused_with_the_way_around() -> None:
    told = refused("--remote", "wss://registry", "--environment-id", "x")
    assert "--remote is not possible here" in told
    assert "ssh -R" in told


@pytest.mark.parametrize(
    "options",
    [
        ["--concurrent-requests", "0"],
        ["--ws-auth", "capability-token", "--ws-token-sha256", "0" * 64, "--ws-issuer", "x"],
        ["--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", "x", "--ws-token-file", "y"],
    ],
)
def test_options_that_would_be_ignored_are_refused(state: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "holdfast.host", "--state-dir", str(state), *options]
    refused = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=BOUND)
    assert refused.returncode == 2
    assert refused.stdout == b""
    assert refused.stderr.startswith(b"Error: ")
    assert b"Traceback" not in refused.stderr


def test_options_of_codex_that_change_nothing_here_are_understood(state: Path) -> None:
    options = ["--linux-sandbox-pid-namespace", "isolate", "--proxy-private-ips-via-upstream", "--name", "x"]
    server = start_host(state, "ws://127.0.0.1:0", "--concurrent-requests", "4", *options)
    assert server.stop() == 0
