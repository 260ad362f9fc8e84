"""Children of a killed server belong to its keeper.  When that one is killed too, they go on all the same."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.host import child
from holdfast.host.client import HostClient
from holdfast.host.port import Kind, ProcessState, Record

from .harness import BOUND, RunningServer, alive, kill_server, kill_serving, serving_child, start_host, until_dead
from .promises import children, eventually, kill_keeper, spec


@asynccontextmanager
async def orphaned(state: Path, tty: bool) -> AsyncIterator[tuple[HostClient, int]]:
    """A process ``p`` whose server and then whose keeper were killed; with a client, and its pid."""
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    keeper = server.pid
    try:
        script = "echo before; read x; echo after; exit 7"
        await client.start(spec("p", "sh", "-c", script, tty=tty, stdin=not tty))
        async for record in client.records("p"):
            if isinstance(record, Record) and b"before" in record.data:
                break
        await kill_server(server)
        # The next server must have taken over before its keeper dies.
        status = await client.status("p")
        assert status is not None
        assert status.pid is not None
        keeper = await kill_keeper(keeper)
        server.process.wait(BOUND)
        yield client, status.pid
    finally:
        await client.aclose()
        if alive(keeper):
            os.kill(keeper, signal.SIGTERM)
            await until_dead(keeper)
        assert server.process.stdout is not None
        server.process.stdout.close()


@pytest.mark.parametrize("tty", [False, True])
async def test_it_goes_on_and_no_byte_is_lost(state: Path, tty: bool) -> None:
    async with orphaned(state, tty) as (client, pid):
        status = await client.status("p")
        assert status is not None
        assert (status.state, status.pid) == (ProcessState.RUNNING, pid)
        assert alive(pid)
        await client.write("p", b"x\n")
        records = [record async for record in client.records("p") if isinstance(record, Record)]
        output = b"".join(record.data for record in records).replace(b"\r", b"")
        assert output == (b"before\nx\nafter\n" if tty else b"before\nafter\n")
        assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
        # Whoever reaps it now is a stranger: the exit status is known or said to be unknown, never made up.
        assert records[-2].exit_code in (7, None)


async def test_it_can_be_ended(state: Path) -> None:
    async with orphaned(state, False) as (client, pid):
        ending = await client.terminate("p")
        assert ending.was_running
        assert pid in {member.pid for member in ending.ended}
        assert ending.survivors == []
        await until_dead(pid)


async def test_a_kill_of_the_next_server_changes_nothing(state: Path) -> None:
    async with orphaned(state, False) as (client, pid):
        keeper = int((state / "lock").read_text())
        victim = serving_child(keeper)
        assert victim
        os.kill(victim, signal.SIGKILL)
        await until_dead(victim)
        status = await client.status("p")
        assert status is not None
        assert status.state is ProcessState.RUNNING
        await client.write("p", b"x\n")
        records = [record async for record in client.records("p") if isinstance(record, Record)]
        assert b"after" in b"".join(record.data for record in records)
        assert alive(keeper)
        assert not alive(pid)


#: Inherits what is left over, and reaps it at once, as the first process of a machine does.
REAPER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if not os.fork():
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""
#: A host whose server cannot become the keeper.
NO_HEIR = """
import os, sys
from holdfast.host import entry

def refuse(*_):
    raise FileNotFoundError(2, os.strerror(2))

os.execv = refuse
sys.exit(entry.main())
"""
#: Linux tells who holds a pidfd how a process ended that somebody else has reaped.
TELLS_STRANGERS = tuple(int(number) for number in re.findall("[0-9]+", os.uname().release)[:2]) >= (6, 15)


@pytest.mark.parametrize("program", [("-m", "holdfast.host"), ("-c", NO_HEIR)], ids=["heir", "no heir"])
async def test_the_end_of_one_that_exits_while_there_is_no_keeper_is_known(
    state: Path, program: tuple[str, str]
) -> None:
    options = ["--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer([sys.executable, "-c", REAPER, *program, *options])
    (keeper,) = map(int, children(server.pid))
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    await client.start(spec("p", "sleep", "1000"))
    await kill_serving(keeper)
    status = await client.status("p")
    assert status is not None
    assert status.pid is not None
    heir = serving_child(keeper)
    os.kill(heir, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    os.kill(status.pid, signal.SIGTERM)
    await eventually(lambda: not os.path.exists(f"/proc/{status.pid}"), "nobody reaped it")
    os.kill(heir, signal.SIGCONT)
    records = [record async for record in client.records("p") if isinstance(record, Record)]
    assert [record.kind for record in records] == [Kind.EXITED, Kind.CLOSED]
    end = (records[0].exit_code, records[0].signal)
    assert end == (143, 15) or (not TELLS_STRANGERS and end == (None, None))
    await client.aclose()
    os.kill(heir, signal.SIGTERM)
    server.process.wait(BOUND)
    assert server.stop() == 0


async def test_the_end_of_a_strangers_child_is_read_where_it_can_be() -> None:
    process = await asyncio.create_subprocess_exec("sh", "-c", "exit 9")
    await eventually(lambda: not alive(process.pid), "it never ended")
    assert child.end_of_stranger(process.pid) in (9 << 8, None)
    await process.wait()


async def test_the_end_of_a_strangers_child_that_proc_hides_is_one_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with hidepid, of a program that has become somebody else's."""

    def refuse(pid: int) -> list[bytes]:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(child, "stat_fields", refuse)
    assert child.end_of_stranger(os.getpid()) is None
