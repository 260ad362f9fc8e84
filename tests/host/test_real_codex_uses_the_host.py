"""The real Codex runs its commands on our host, and does not notice that the host's server is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, Say, Shell, WriteFile

from .harness import RunningServer, kill_server, start_host, within

pytestmark = pytest.mark.real_agent


@pytest.fixture
async def served(state: Path) -> AsyncIterator[RunningServer]:
    server = start_host(state, "ws://127.0.0.1:0")
    yield server
    assert server.stop() == 0


class Codex:
    """One ``codex exec``, whose commands go to a host."""

    def __init__(self, environment: dict[str, str], server: RunningServer, directory: Path) -> None:
        self._environment = {**environment, "CODEX_EXEC_SERVER_URL": server.url}
        self._directory = directory

    async def run(self, prompt: str) -> list[dict[str, Any]]:
        """Run it; returns its events."""
        process = await asyncio.create_subprocess_exec(
            *("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "--json", prompt),
            env=self._environment,
            cwd=self._directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def codex(codex_environment: dict[str, str], served: RunningServer, tmp_path: Path) -> Codex:
    directory = tmp_path / "work"
    directory.mkdir()
    return Codex(codex_environment, served, directory)


def command_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    return next(
        event["item"]
        for event in events
        if event["type"] == "item.completed" and event["item"]["type"] == "command_execution"
    )


def hosted(state: Path) -> list[dict[str, Any]]:
    """What the host started."""
    found: list[dict[str, Any]] = []
    for path in sorted((state / "processes").glob("*/process")):
        text = path.read_text()
        if text:
            found.append(json.loads(text.splitlines()[0]))
    return found


async def test_a_command_runs_on_the_host(codex: Codex, model_server: ModelServer, state: Path, tmp_path: Path) -> None:
    model_server.script(Shell("echo to-out; echo to-err >&2; pwd; exit 7"), Say("done"))
    events = await codex.run("run it")
    item = command_of(events)
    assert item["exit_code"] == 7
    assert sorted(item["aggregated_output"].split()) == sorted(["to-out", "to-err", str(tmp_path / "work")])
    (process,) = hosted(state)
    assert "exit 7" in process["argv"][-1]


async def test_a_kill_of_the_server_in_mid_command_is_not_noticed(
    codex: Codex, model_server: ModelServer, served: RunningServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    holder = os.open(gate, os.O_RDWR)
    started = tmp_path / "started"
    os.mkfifo(started)
    listening = os.open(started, os.O_RDWR)
    script = f"echo before; echo up > {started}; read x < {gate}; echo after; exit 9"
    model_server.script(Shell(script), Say("done"))
    running = asyncio.ensure_future(codex.run("run it"))
    await within(asyncio.to_thread(os.read, listening, 3))
    await kill_server(served)
    os.write(holder, b"go\n")
    item = command_of(await running)
    assert (item["aggregated_output"], item["exit_code"]) == ("before\nafter\n", 9)
    os.close(holder)
    os.close(listening)


async def test_a_file_is_written_through_the_host(codex: Codex, model_server: ModelServer, tmp_path: Path) -> None:
    model_server.script(WriteFile("made.txt", "by way of the host\n"), Say("done"))
    await codex.run("write it")
    assert (tmp_path / "work" / "made.txt").read_text() == "by way of the host\n"
