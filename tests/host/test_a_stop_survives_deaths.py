"""Whoever dies while the host is told to stop: it stops all the same, with everything that it runs, in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from holdfast.host.client import HostClient

from .harness import BOUND, RunningServer, alive, start_host, until_dead, within
from .promises import eventually, spec

#: Says when it is asked to end, and does not.
STUBBORN = 'trap "touch $0" TERM; echo up; while :; do sleep 0.05; done'

#: A keeper that is told to stop with its first server at work, and all of whose servers are killed.  Each of them says
#: the pids of what it started: a program, and another one that leads a session of its own.
DOOMED = """
import os, signal, subprocess, sys
from holdfast.host.keeper import Keeper

SCRIPT = "setsid sleep 1000 >&- & echo $$ $!; exec sleep 1000 >&-"

def serve(channel, estate, announce):
    started = subprocess.Popen(["sh", "-c", SCRIPT], stdout=subprocess.PIPE, start_new_session=True)
    os.write(1, started.stdout.readline())
    os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGKILL)

sys.exit(Keeper(serve, held={}).run())
"""

#: A host whose server is told to stop just before it becomes the keeper: before and after it ceases to hear it.
HEIR = """
import os, signal, sys, types
from holdfast.host import command, entry, serving

def told(function):
    def call(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments)
    return call

def masked(how, signals):
    return (told(signal.pthread_sigmask) if how == signal.SIG_BLOCK else signal.pthread_sigmask)(how, signals)

if sys.argv.pop(1) == "hears":
    names = {**vars(signal), "pthread_sigmask": masked}
    serving.signal = types.SimpleNamespace(**names)
else:
    command.bequeath = told(command.bequeath)
sys.exit(entry.main())
"""


async def started(url: str, *argv: str) -> int:
    """The pid of a process that has said its first word."""
    client = await HostClient.connect(url)
    try:
        await client.start(spec("p", *argv))
        async for _ in client.records("p"):
            break
        status = await client.status("p")
        assert status is not None
        assert status.pid is not None
        return status.pid
    finally:
        await client.aclose()


async def stopping(state: Path) -> tuple[RunningServer, int, int]:
    """A host that was told to stop and waits for a process: it, the pid of its server, and that of the process."""
    server = start_host(state)
    asked = state.parent / "asked"
    pid = await started(server.url, "sh", "-c", STUBBORN, str(asked))
    serving = server.server_pid
    server.process.send_signal(signal.SIGTERM)
    await eventually(asked.exists, "nobody asked it to end")
    return server, serving, pid


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def ended(server: RunningServer) -> int:
    """Wait for the end of the process that was started; its exit status."""
    status = server.process.wait(BOUND)
    assert server.process.stdout is not None
    server.process.stdout.close()
    return status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_server_that_is_told_to_stop_before_it_can_hear_it_stops_when_it_can(
    state: Path, number: signal.Signals
) -> None:
    server = start_host(state)
    pid = await started(server.url, "sh", "-c", "echo up; exec sleep 1000")
    before = children(server.pid)
    os.kill(server.server_pid, signal.SIGKILL)
    # Another process appears: that is the next server, which has not even begun.
    await eventually(lambda: not children(server.pid) <= before | {pid}, "no server came back")
    server.process.send_signal(number)
    assert await asyncio.to_thread(ended, server) == 0
    assert not alive(pid)
    assert "host.sock" not in os.listdir(state)


async def test_a_server_that_is_killed_while_it_stops_is_replaced_by_one_that_goes_on_with_it(state: Path) -> None:
    server, victim, pid = await stopping(state)
    os.kill(victim, signal.SIGKILL)
    assert await asyncio.to_thread(ended, server) == 0
    assert not alive(pid)
    assert "host.sock" not in os.listdir(state)


async def test_a_keeper_that_is_killed_while_its_server_stops_is_not_missed(state: Path) -> None:
    server, heir, pid = await stopping(state)
    server.kill()
    await until_dead(heir)
    assert not alive(pid)
    assert "host.sock" not in os.listdir(state)


async def test_a_server_that_becomes_the_keeper_can_be_told_to_stop_meanwhile(state: Path) -> None:
    server = start_host(state)
    pid = await started(server.url, "sh", "-c", "echo up; exec sleep 1000")
    heir = server.server_pid
    server.kill()
    await eventually(lambda: b"--succeed-keeper" in Path(f"/proc/{heir}/cmdline").read_bytes(), "nobody succeeded it")
    os.kill(heir, signal.SIGTERM)
    await until_dead(heir)
    assert not alive(pid)
    assert "host.sock" not in os.listdir(state)


@pytest.mark.parametrize("when", ["hears", "is deaf"])
async def test_no_instant_of_becoming_the_keeper_loses_a_stop(state: Path, when: str) -> None:
    server = RunningServer([sys.executable, "-c", HEIR, when, "--listen", "unix://", "--state-dir", str(state)])
    pid = await started(server.url, "sh", "-c", "echo up; exec sleep 1000")
    heir = server.server_pid
    server.kill()
    await until_dead(heir)
    assert not alive(pid)
    assert "host.sock" not in os.listdir(state)


async def test_a_stop_that_no_server_survives_is_not_tried_for_ever_and_nothing_is_left() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DOOMED, stdout=asyncio.subprocess.PIPE)
    said, _ = await within(process.communicate())
    assert process.returncode == 128 + signal.SIGKILL
    tries = said.splitlines()
    assert 1 < len(tries) < 20
    for pid in map(int, said.split()):
        await until_dead(pid)
