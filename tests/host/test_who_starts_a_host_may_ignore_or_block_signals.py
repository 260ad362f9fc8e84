"""What whoever starts a host does with signals is inherited: that costs no exit code, and ``nohup`` is heeded."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import Kind, ProcessSpec, Record

from .harness import PATH, RunningServer, kill_server, within

#: Becomes a host, with the signals that it blocks and those that it ignores.
STARTER = """
import os, signal, sys
blocked, ignored, *options = sys.argv[1:]
for number in map(int, ignored.split()):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, map(int, blocked.split()))
os.execv(sys.executable, [sys.executable, "-m", "holdfast.host", *options])
"""

#: A bit for each signal.
MASK = 1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1
CHILD = str(int(signal.SIGCHLD))


def command(blocked: str, ignored: str, *options: str) -> list[str]:
    return [sys.executable, "-c", STARTER, blocked, ignored, *options]


@pytest.mark.parametrize(("blocked", "ignored"), [(CHILD, ""), ("", CHILD)])
async def test_exit_codes_are_known_also_behind_a_kill(state: Path, blocked: str, ignored: str) -> None:
    server = RunningServer(command(blocked, ignored, "--listen", "unix://", "--state-dir", str(state)))
    client = await HostClient.connect(server.url)
    spec = ProcessSpec(process_id="p", argv=["cat"], cwd=Path("/"), env={"PATH": PATH}, pipe_stdin=True)
    await client.start(spec)
    await kill_server(server)
    await client.close_stdin("p")
    ends = await within(records(client))
    assert [(end.kind, end.exit_code) for end in ends] == [(Kind.EXITED, 0), (Kind.CLOSED, None)]
    await client.aclose()
    assert server.stop() == 0


async def test_they_are_known_without_a_keeper_too() -> None:
    start = {"processId": "p", "argv": ["false"], "cwd": "file:///", "env": {"PATH": PATH}, "tty": False}
    messages = [
        {"id": 1, "method": "initialize", "params": {"clientName": "x"}},
        {"method": "initialized"},
        {"id": 2, "method": "process/start", "params": {**start, "pipeStdin": False, "arg0": None}},
    ]
    host = await asyncio.create_subprocess_exec(
        *command("", CHILD, "--listen", "stdio"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert host.stdin is not None
    assert host.stdout is not None
    host.stdin.write("".join(json.dumps(message) + "\n" for message in messages).encode())
    heard: dict[str, Any] = {}
    while heard.get("method") != "process/exited":
        heard = json.loads(await within(host.stdout.readline()))
    assert heard["params"]["exitCode"] == 1
    host.stdin.close()
    assert await within(host.wait()) == 0


async def records(client: HostClient) -> list[Record]:
    return [record async for record in client.records("p") if isinstance(record, Record)]


def ignores(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), 16)


async def test_what_is_ignored_does_not_end_the_host(state: Path) -> None:
    ignored = f"{int(signal.SIGHUP)} {int(signal.SIGINT)}"
    server = RunningServer(command("", ignored, "--listen", "unix://", "--state-dir", str(state)))
    client = await HostClient.connect(server.url)
    spec = ProcessSpec(process_id="p", argv=["grep", "SigIgn", "/proc/self/status"], cwd=Path("/"), env={"PATH": PATH})
    for pid in (server.pid, server.server_pid):
        assert ignores(pid) & MASK == MASK
    await client.start(spec)
    output = (await within(records(client)))[0]
    # For its children nothing is ignored, but what is glibc's own.
    assert int(output.data.split()[1], 16) & 0x7FFF_FFFF == 0
    await client.aclose()
    assert server.stop() == 0
