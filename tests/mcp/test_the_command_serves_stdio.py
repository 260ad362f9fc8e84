"""``holdfast mcp`` as a host starts it: a process that speaks the protocol and nothing else on its streams."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import holdfast

from .conftest import PATIENCE, Installation, answer, until


def served(*options: str) -> Client:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "holdfast", "mcp", *options], env=dict(os.environ)
    )
    return Client(stdio_client(command))


async def test_a_task_from_end_to_end(installation: Installation) -> None:
    messages: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        messages.append(message or "")

    call = {"agent": "rehearsal", "prompt": "rehearse: tools 1\nrehearse: say Hello.", "wait_seconds": 45}
    async with served() as server:
        done = answer(await server.call_tool("delegate", call, progress_callback=report))
        assert server.server_info is not None
        assert server.server_info.name == "holdfast"
    assert done["outcome"]["answer"]["text"] == "Hello."
    assert any("list the directory" in message for message in messages)
    assert messages[-1] == "finished: completed"


async def test_the_daemon_dies_while_a_call_waits(installation: Installation, gate: Callable[[], object]) -> None:
    prompt = "rehearse: touch up\nrehearse: wait-for gate\nrehearse: say Survived."
    async with served() as server:
        call = {"agent": "rehearsal", "prompt": prompt, "wait_seconds": 45}
        waiting = asyncio.create_task(server.call_tool("delegate", call))
        await asyncio.to_thread(until, (installation.workspace / "up").exists)
        killed = installation.daemon_pid()
        assert installation.kill_daemon()
        await asyncio.to_thread(until, lambda: installation.daemon_pid() not in (None, killed))
        gate()
        done = answer(await waiting)
    assert done["outcome"]["answer"]["text"] == "Survived."


async def test_the_host_goes_away_and_the_task_goes_on(installation: Installation, gate: Callable[[], object]) -> None:
    call = {"agent": "rehearsal", "prompt": "rehearse: wait-for gate\nrehearse: say Still here."}
    async with served() as server:
        task = answer(await server.call_tool("delegate", call))
    gate()
    assert holdfast.wait(task["task_id"]).message.text == "Still here."


async def test_a_call_that_is_given_up_ends_no_task(installation: Installation, gate: Callable[[], object]) -> None:
    async with served() as server:
        task = answer(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": "rehearse: wait-for gate"}))
        with anyio.move_on_after(0.3) as given_up:
            await server.call_tool("wait", {"task_id": task["task_id"]})
        assert given_up.cancelled_caught
        assert not answer(await server.call_tool("status", {"task_id": task["task_id"]}))["finished"]
        gate()
        assert answer(await server.call_tool("wait", {"task_id": task["task_id"]}))["finished"]


async def test_the_bound_of_waiting_can_be_chosen(installation: Installation) -> None:
    async with served("--longest-wait", "0.2s") as server:
        call = {"agent": "rehearsal", "prompt": "rehearse: hang", "wait_seconds": 600}
        task = answer(await server.call_tool("delegate", call))
        assert not task["finished"]
        answer(await server.call_tool("cancel", {"task_id": task["task_id"]}))


@pytest.mark.parametrize("options", [["--longest-wait", "none"], ["--longest-wait", "soon"]])
def test_a_wrong_bound_is_refused(installation: Installation, options: list[str]) -> None:
    assert installation.run("mcp", *options).returncode == 2


def test_without_the_extra_it_says_what_to_install(installation: Installation) -> None:
    script = "import sys; sys.modules['mcp'] = None; from holdfast.cli.main import execute; sys.exit(execute(['mcp']))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 127
    assert ended.stdout == ""
    assert "error: The MCP server needs the Python package 'mcp'" in ended.stderr
    assert "hint: Install it with: pip install 'holdfast[mcp]'" in ended.stderr


def test_no_other_command_imports_the_sdk() -> None:
    script = "import sys, holdfast.cli.run, holdfast.cli.mcp; print({'mcp', 'pydantic'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script]) == b"set()\n"
