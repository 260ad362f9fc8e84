"""The real Codex with our host as its hands: commands, terminals, patches, images, sandboxes, and a lost connection."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import subprocess
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.sandbox.bubblewrap import unusable
from tests.model_server import Decide, EditFile, ModelServer, Say, Shell, Together, Tool, WriteFile

from .harness import RunningServer, start_host

pytestmark = pytest.mark.real_agent

#: Seconds that a run of Codex may take; it waits up to 45 s for a lost host.
PATIENCE = 120.0


@pytest.fixture
def host(state: Path) -> Iterator[RunningServer]:
    server = start_host(state, "ws://127.0.0.1:0")
    yield server
    server.stop()


class Proxy:
    """A TCP forwarder whose connections can be cut."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("ws://").split(":")
        self._target = host, int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        #: Set when output of a process has passed since the last cut.
        self.output = asyncio.Event()
        self.connections = 0
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        for source, target, towards_client in ((reader, far_writer, False), (far_reader, writer, True)):
            task = asyncio.create_task(self._pump(source, target, towards_client))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, towards_client: bool) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
                if towards_client and b"process/output" in data:
                    self.output.set()
        except ConnectionError:
            # Cut by the test, or by either side.
            pass
        finally:
            target.close()

    def cut(self) -> None:
        """Break every connection without a word."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self.output.clear()


@pytest.fixture
async def proxy(host: RunningServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(host.url)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield proxy
    proxy.cut()
    server.close()
    await server.wait_closed()


class Codex:
    """``codex exec`` in a project of its own."""

    def __init__(self, environment: dict[str, str], project: Path) -> None:
        self.environment = environment
        self.project = project

    async def run(self, url: str, sandbox: str = "danger-full-access") -> list[dict[str, Any]]:
        """Run to the end; returns the completed items."""
        command = ["codex", "exec", "--skip-git-repo-check", "--json", "-s", sandbox, "Go."]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.project,
            env={**self.environment, "CODEX_EXEC_SERVER_URL": url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, (output, errors)
        events = [json.loads(line) for line in output.splitlines()]
        return [event["item"] for event in events if event["type"] == "item.completed"]


@pytest.fixture
def codex(codex_environment: dict[str, str], tmp_path: Path) -> Codex:
    project = tmp_path / "project"
    project.mkdir()
    return Codex(codex_environment, project)


def commands(items: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Exit code and output of each command."""
    return [(item["exit_code"], item["aggregated_output"]) for item in items if item["type"] == "command_execution"]


async def test_a_command(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    model_server.script(Shell("echo out; echo err >&2; pwd; exit 3"), Say("Done."))
    items = await codex.run(host.url)
    ((code, output),) = commands(items)
    assert code == 3
    assert {"out", "err", str(codex.project)} <= set(output.splitlines())
    assert "exited with code 3" in model_server.main_requests[-1].tool_results[-1]


async def test_it_reads_the_instructions_of_the_project(
    codex: Codex, host: RunningServer, model_server: ModelServer
) -> None:
    (codex.project / "AGENTS.md").write_text("Mind the gap of 4711.")
    model_server.script(Say("Done."))
    await codex.run(host.url)
    assert any("Mind the gap of 4711." in text for text in model_server.main_requests[0].user_texts)


def session_of(results: list[str]) -> int:
    """The number by which Codex knows the command that is still running."""
    found = re.search(r"session ID (\d+)", results[-1])
    assert found, results
    return int(found[1])


async def test_a_terminal_is_talked_to(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    script = "stty size; echo ready; read x; echo got $x; sleep 1000"

    def write(text: str) -> Decide:
        sessions: list[int] = []

        def choose(results: list[str]) -> Tool:
            sessions.append(session_of(results))
            return Tool("write_stdin", {"session_id": sessions[0], "chars": text, "yield_time_ms": 3000})

        return Decide(choose)

    start = Tool("exec_command", {"cmd": script, "tty": True, "yield_time_ms": 3000})
    model_server.script(start, write("abc\n"), write("\x03"), Say("Done."))
    items = await codex.run(host.url)
    results = model_server.main_requests[-1].tool_results
    assert "24 80" in results[0]
    assert "got abc" in results[1]
    assert "exited with code" in results[2]
    ((code, output),) = commands(items)
    assert code != 0
    assert "got abc" in output


async def test_a_command_that_takes_its_time(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    start = Tool("exec_command", {"cmd": "echo begin; sleep 3; echo end; exit 5", "yield_time_ms": 500})

    def poll(results: list[str]) -> Tool:
        return Tool("write_stdin", {"session_id": session_of(results), "yield_time_ms": 20_000})

    model_server.script(start, Decide(poll), Say("Done."))
    assert commands(await codex.run(host.url)) == [(5, "begin\nend\n")]


async def test_commands_side_by_side(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    # Each waits for the file of the next one: none can end before all have begun.
    script = "touch {0}; while [ ! -e {1} ]; do sleep 0.05; done; echo done-{0}"
    steps = tuple(Shell(script.format(number, (number + 1) % 4)) for number in range(4))
    model_server.script(Together(steps), Say("Done."))
    found = commands(await codex.run(host.url))
    assert sorted(found) == [(0, f"done-{number}\n") for number in range(4)]


async def test_much_output_is_whole(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    model_server.script(Shell("seq 1 200000 | tee numbers | sha256sum; cat numbers; echo the-end"), Say("Done."))
    ((code, output),) = commands(await codex.run(host.url))
    assert code == 0
    assert output.endswith("200000\nthe-end\n")


async def test_patches(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    old = codex.project / "old.txt"
    old.write_text("one\ntwo\n")
    old.chmod(0o600)
    model_server.script(
        WriteFile(str(codex.project / "deep" / "new.txt"), "hello\n"), EditFile(str(old), "two", "three"), Say("Done.")
    )
    await codex.run(host.url)
    assert (codex.project / "deep" / "new.txt").read_text() == "hello\n"
    assert old.read_text() == "one\nthree\n"
    assert old.stat().st_mode & 0o777 == 0o600


async def test_a_patch_to_a_file_that_is_too_large_for_one_frame(
    codex: Codex, host: RunningServer, model_server: ModelServer
) -> None:
    large = codex.project / "large.txt"
    large.write_text("needle\n" + "straw\n" * 3_000_000)
    model_server.script(EditFile(str(large), "needle", "thread"), Say("Done."))
    await codex.run(host.url)
    with large.open() as file:
        assert file.readline() == "thread\n"
    assert large.stat().st_size == 7 + 6 * 3_000_000


def png(size: int) -> bytes:
    """A grey square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * size) * size
    header = struct.pack("!IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def test_an_image(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    (codex.project / "image.png").write_bytes(png(16))
    model_server.script(Tool("view_image", {"path": str(codex.project / "image.png")}), Say("Done."))
    await codex.run(host.url)
    assert "data:image/png;base64," in model_server.main_requests[-1].tool_results[-1]


async def test_a_lost_connection_loses_nothing(codex: Codex, proxy: Proxy, model_server: ModelServer) -> None:
    script = "for i in $(seq 1 50); do echo line $i; sleep 0.05; done; seq 1 300000 | sha256sum; exit 9"
    model_server.script(Tool("exec_command", {"cmd": script, "yield_time_ms": 30_000}), Say("Done."))
    running = asyncio.create_task(codex.run(proxy.url))
    for _ in range(2):
        await asyncio.wait((running, asyncio.create_task(proxy.output.wait())), return_when=asyncio.FIRST_COMPLETED)
        proxy.cut()
    ((code, output),) = commands(await running)
    assert code == 9
    assert output.splitlines()[:50] == [f"line {number}" for number in range(1, 51)]
    assert len(output.splitlines()) == 51
    assert proxy.connections == 3


@pytest.mark.skipif(unusable() is not None, reason=f"no sandbox on this machine: {unusable()}")
async def test_a_sandbox_holds(codex: Codex, host: RunningServer, model_server: ModelServer) -> None:
    # The temporary directory itself is writable in this mode: what must not be is put into the home directory.
    forbidden = Path.home() / f".holdfast-test-{codex.project.parent.name}"
    model_server.script(
        Shell(f"echo in > in; echo out > {forbidden}; cat in; exit 6"),
        WriteFile(str(codex.project / "patched"), "yes\n"),
        WriteFile(str(forbidden), "no\n"),
        Say("Done."),
    )
    try:
        await codex.run(host.url, "workspace-write")
        assert not forbidden.exists()
    finally:
        forbidden.unlink(missing_ok=True)
    command, inside, outside = model_server.main_requests[-1].tool_results
    assert "exited with code 6" in command
    assert command.endswith("Read-only file system\nin\n")
    assert "Success" in inside
    assert (codex.project / "patched").read_text() == "yes\n"
    assert "Success" not in outside
