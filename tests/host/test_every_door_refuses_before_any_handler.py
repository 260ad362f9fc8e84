"""Each route of the WebSocket server and each method, with each kind of stranger: refused before anything is done.

Both tables come from the code, so a route or a method that is added is held to this without being named here.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.methods import METHOD_MODULES, METHODS
from holdfast.jsonrpc.websocket import is_own_host, make_routes

from .harness import PATH, RunningServer, WireClient, everything_below, start_host, within
from .promises import serving, spec

ROUTES = list(make_routes(lambda connection: None, None))
#: What a route tells strangers: the same constant always, and nothing about the host.
PUBLIC = {"/readyz": b""}
TOKEN = "a-token-that-nobody-guesses"
CANARY = "canary-of-a-wrong-token"

for _module in METHOD_MODULES.values():
    try:
        importlib.import_module(_module)
    except ModuleNotFoundError as missing:
        assert missing.name is not None
        assert _module.startswith(missing.name)

FOREIGN_ORIGINS = ["http://evil.example", "null", "", "file://", "http://127.0.0.1", "http://localhost:{port}"]
FOREIGN_HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:{port}", None]
OWN_HOSTS = ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}"]


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secrets") / "token"
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture(scope="module")
def open_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    state = tmp_path_factory.mktemp("open") / "state"
    server = start_host(state, "ws://127.0.0.1:0")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guarded_host(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[RunningServer]:
    state = tmp_path_factory.mktemp("guarded") / "state"
    options = ["--ws-auth", "capability-token", "--ws-token-file", str(token_file)]
    server = start_host(state, "ws://127.0.0.1:0", *options)
    yield server
    server.stop()


async def ask(
    server: RunningServer, path: str, headers: dict[str, str | None], *, method: str = "GET"
) -> tuple[int, bytes]:
    """Ask for an upgrade; returns the status and the body of what is no upgrade."""
    address, port = server.url.removeprefix("ws://").split(":")
    given: dict[str, str | None] = {
        "Host": f"{address}:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    lines = [f"{name}: {value.format(port=port)}" for name, value in given.items() if value is not None]
    reader, writer = await asyncio.open_connection(address, int(port))
    try:
        writer.write("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode())
        status = int((await within(reader.readline())).split()[1])
        while await within(reader.readline()) not in (b"\r\n", b""):
            pass
        return status, b"" if status == 101 else await within(reader.read())
    finally:
        writer.close()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_browser_is_refused(
    open_host: RunningServer, guarded_host: RunningServer, path: str, origin: str
) -> None:
    for server in (open_host, guarded_host):
        for authorization in (None, "Bearer wrong", f"Bearer {TOKEN}"):
            headers = {"Origin": origin, "Authorization": authorization}
            assert await ask(server, path, headers) == (403, b"")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_foreign_name_is_refused(open_host: RunningServer, path: str, host: str | None) -> None:
    status, body = await ask(open_host, path, {"Host": host})
    # Without any Host it is no HTTP/1.1 request.
    assert status in ((403,) if host is not None else (400, 403))
    assert b"holdfast" not in body.lower()


@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_every_spelling_of_this_machine_is_served(open_host: RunningServer, host: str) -> None:
    assert (await ask(open_host, "/", {"Host": host}))[0] == 101


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", f"Bearer {CANARY}", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN]
)
async def test_who_has_no_token_learns_nothing(
    guarded_host: RunningServer, path: str, authorization: str | None
) -> None:
    status, body = await ask(guarded_host, path, {"Authorization": authorization})
    if path in PUBLIC:
        assert (status, body) == (200, PUBLIC[path])
    else:
        assert status == 401
        assert TOKEN.encode() not in body
        assert CANARY.encode() not in body


@pytest.mark.parametrize("path", [path for path in ROUTES if path not in PUBLIC])
async def test_the_token_opens(guarded_host: RunningServer, path: str) -> None:
    assert (await ask(guarded_host, path, {"Authorization": f"Bearer {TOKEN}"}))[0] == 101


@pytest.mark.parametrize("path", [*ROUTES, "/unknown", "/..", "//", "/readyz/", "/%2f"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"])
async def test_no_other_verb_does_anything(guarded_host: RunningServer, path: str, method: str) -> None:
    try:
        status, _ = await ask(guarded_host, path, {"X-HTTP-Method-Override": "GET"}, method=method)
    except (ConnectionError, IndexError):
        return
    # A probe may ask by HEAD whether the host is ready; it learns no more than by GET.
    assert status >= 400 or (method, path, status) == ("HEAD", "/readyz", 200)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":",
        "[::1",
        "::1]",
        "localhost:",
        "localhost:80x",
        "localhost.",
        "0x7f.1",
        "127.1",
        "local host",
        "[localhost]",
    ],
)
def test_odd_spellings_of_hosts(host: str) -> None:
    assert is_own_host(host) is (host == "localhost:")


async def test_secrets_are_nowhere_to_be_read(guarded_host: RunningServer) -> None:
    await ask(guarded_host, "/", {"Authorization": f"Bearer {CANARY}"})
    await asyncio.to_thread(look_for_secrets, guarded_host)


def look_for_secrets(server: RunningServer) -> None:
    assert server.stderr is not None
    places = [Path(f"/proc/{pid}/{name}") for pid in (server.pid, server.server_pid) for name in ("cmdline", "environ")]
    places += [path for path, status in everything_below(server.stderr.parent) if stat.S_ISREG(status.st_mode)]
    assert server.stderr in places
    for place in places:
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            # A place for a later process, which the host moved meanwhile; what it holds is empty.
            assert place.is_relative_to(server.stderr.parent)
            continue
        assert TOKEN.encode() not in content, place
        assert CANARY.encode() not in content, place


@pytest.mark.parametrize("name", sorted(METHODS))
async def test_no_method_answers_before_the_handshake(open_host: RunningServer, name: str) -> None:
    if name == "initialize":
        return
    client = await WireClient.connect(open_host.url, initialize=False)
    code, message = await client.error(name, {})
    # Parameters are looked at first, as in the reference implementation; nothing is done with them.
    assert code in (-32600, -32602)
    assert code == -32602 or "initialize" in message
    await client.close()


async def test_nothing_is_started_before_the_handshake_is_complete(open_host: RunningServer, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    params: dict[str, Any] = {
        "processId": "early",
        "argv": ["touch", str(proof)],
        "cwd": "file:///",
        "env": {"PATH": PATH},
        "tty": False,
    }
    client = await WireClient.connect(open_host.url, initialize=False)
    assert (await client.error("process/start", params))[0] == -32600
    await client.result("initialize", {"clientName": "x"})
    assert (await client.error("process/start", params))[0] == -32600
    client.notify("initialized", {})
    await client.result("environment/status")
    assert not proof.exists()
    await client.close()


# The file system


def run(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast.host", "--state-dir", str(state), *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_state_directory_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    done = run(state, "--listen", "unix://")
    assert (done.returncode, done.stdout) == (2, "")
    assert "open to other users" in done.stderr
    assert list(state.iterdir()) == []


def test_a_state_directory_behind_a_link_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    done = run(link, "--listen", "unix://")
    assert (done.returncode, done.stdout) == (2, "")
    assert list(real.iterdir()) == []


def test_a_file_in_the_place_of_the_socket_is_not_deleted(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    done = run(tmp_path / "state", "--listen", f"unix://{precious}")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(precious) in done.stderr
    assert precious.read_text() == "kept"


async def test_a_socket_on_which_another_host_answers_is_not_taken_from_it(tmp_path: Path) -> None:
    path = tmp_path / "shared.sock"
    first = start_host(tmp_path / "one", f"unix://{path}")
    done = await asyncio.to_thread(run, tmp_path / "two", "--listen", f"unix://{path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "already" in done.stderr
    client = await WireClient.connect(first.url)
    assert await client.result("environment/status") == {"status": "ready"}
    await client.close()
    first.stop()


def test_a_socket_path_that_is_too_long_is_a_mistake_with_a_hint(tmp_path: Path) -> None:
    done = run(tmp_path / "state", "--listen", f"unix://{tmp_path}/{'x' * 120}")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 2


def test_the_default_socket_of_a_deep_directory_lies_in_a_private_one(tmp_path: Path) -> None:
    state = tmp_path / ("d" * 60) / ("e" * 60) / "state"
    state.parent.mkdir(parents=True)
    server = start_host(state)
    socket = Path(server.url.removeprefix("unix://"))
    assert stat.S_IMODE(os.lstat(socket).st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(socket.parent).st_mode) == 0o700
    assert server.stop() == 0
    assert not socket.parent.exists()


async def test_nothing_of_one_client_is_anothers(state: Path) -> None:
    """Processes of a session are invisible to other sessions, whatever they ask for."""
    async with serving(state) as (server, host):
        mine = await WireClient.connect(server.url)
        await mine.start("p", "/bin/sh", "-c", "echo secret; read x", pipeStdin=True)
        await mine.until_output("p", b"secret")
        other = await WireClient.connect(server.url)
        assert (await other.error("process/read", {"processId": "p"}))[0] == -32600
        assert await other.result("process/terminate", {"processId": "p"}) == {"running": False}
        assert (await other.result("process/list"))["processes"] == []
        write = {"processId": "p", "chunk": "eA==", "writeId": "1"}
        assert await other.result("process/write", write) == {"status": "unknownProcess"}
        await host.start(spec("q", "echo", "shared"))
        assert [status.process_id for status in await host.list()] == ["q"]
        await mine.result("process/terminate", {"processId": "p"})
        await mine.until_closed("p")
        await mine.close()
        await other.close()
