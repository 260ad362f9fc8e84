"""Clocks that jump, servers that stand still and machines that start again: no false death, and no false life."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.clock import boot_id
from holdfast.host import description, os_process
from holdfast.host.client import HostClient
from holdfast.host.description import Description
from holdfast.host.port import Kind, ProcessState, Record

from .harness import RunningServer, alive, kill_server, serving_child, until_dead, within
from .promises import COUNTER, CountChecker, python, serving, spec

TERMINAL = pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])

#: The host, with a wall clock that a file moves by so many seconds.
MOVABLE = """
import sys, time
path, genuine, genuine_ns = sys.argv.pop(1), time.time, time.time_ns
def offset():
    try:
        return int(open(path).read() or 0)
    except FileNotFoundError:
        return 0
time.time = lambda: genuine() + offset()
time.time_ns = lambda: genuine_ns() + offset() * 10**9
from holdfast.host.entry import main
sys.exit(main())
"""
DAY = 86_400


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    return tmp_path / "offset"


@pytest.fixture
def movable_host(state: Path, clock: Path) -> Iterator[RunningServer]:
    arguments = ["--listen", "unix://", "--state-dir", str(state), "--idle-exit", "60"]
    server = RunningServer([sys.executable, "-c", MOVABLE, str(clock), *arguments], stderr=state.with_name("stderr"))
    yield server
    server.stop()


async def drain(client: HostClient, process_id: str) -> list[Record]:
    async def read() -> list[Record]:
        return [record async for record in client.records(process_id) if isinstance(record, Record)]

    return await within(read())


async def until_output(client: HostClient, process_id: str) -> None:
    async for record in client.records(process_id):
        if isinstance(record, Record) and record.data:
            return


@TERMINAL
async def test_a_wall_clock_that_jumps_changes_nothing(movable_host: RunningServer, clock: Path, tty: bool) -> None:
    client = await HostClient.connect(movable_host.url)
    script = "stty -echo; " if tty else ""
    script += "echo up; while read line; do echo got $line; done; exit 6"
    await client.start(spec("p", "sh", "-c", script, tty=tty, stdin=not tty))
    await until_output(client, "p")
    for number, jump in enumerate((DAY, -DAY, 0, 400 * DAY, -400 * DAY)):
        clock.write_text(str(jump))  # noqa: ASYNC240 - a test has the loop for itself
        await client.write("p", b"%d\n" % number)
        status = await client.status("p")
        assert status is not None
        assert status.state is ProcessState.RUNNING
        await client.start(spec(f"s{number}", "sh", "-c", "exit 4"))
        assert (await drain(client, f"s{number}"))[-2].exit_code == 4
        if number % 2:
            await kill_server(movable_host)
    await client.close_stdin("p")
    records = await drain(client, "p")
    lines = b"".join(record.data for record in records).replace(b"\r", b"").split(b"\n")
    assert lines == [b"up", *(b"got %d" % number for number in range(5)), b""]
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert records[-2].exit_code == 6
    await client.aclose()


@TERMINAL
async def test_a_server_that_stands_still_for_a_while_loses_nothing(state: Path, tty: bool) -> None:
    stop, total = state.with_name("stop"), state.with_name("total")
    async with serving(state) as (server, client):
        await client.start(python("c", COUNTER, str(stop), str(total), "0", tty=tty))
        await until_output(client, "c")
        pid = server.server_pid
        for halted in (pid, server.pid):
            os.kill(halted, signal.SIGSTOP)
            await asyncio.sleep(0.7)
            os.kill(halted, signal.SIGCONT)
            status = await client.status("c")
            assert status is not None
            assert status.state is ProcessState.RUNNING
        # Nobody took it for dead.
        assert serving_child(server.pid) == pid
        stop.touch()
        records = await drain(client, "c")
        checker = CountChecker()
        for record in records:
            if record.kind in (Kind.STDOUT, Kind.PTY):
                checker.take(record.data)
        assert checker.size == int(total.read_text()) * 10
        assert records[-2].exit_code == 41


def description_of(state: Path) -> Path:
    """The description of the one process of the host; the places of the next ones have none yet."""
    (found,) = [path for path in state.glob("processes/*/process") if b"processId" in path.read_bytes()]
    return found


#: What another boot, or another pid namespace, has in the description.
ANOTHER = {boot_id(): "00000000-0000-0000-0000-000000000000", '"firstStarted":': '"firstStarted":1'}


@pytest.mark.parametrize(("then", "now"), [(None, 5), (5, None), (None, None), (5, 5)])
def test_where_no_other_container_can_be_told_the_boot_decides(
    monkeypatch: pytest.MonkeyPatch, then: int | None, now: int | None
) -> None:
    """As where /proc hides its first process (hidepid, ProtectProc), or did."""
    monkeypatch.setattr(description, "first_started", lambda: now)
    told = {"process_id": "p", "session_id": None, "argv": [], "cwd": "/", "tty": False, "marker": None}
    of_this_boot = Description(**told, created_ns=0, boot_id=boot_id(), first_started=then)  # type: ignore[arg-type]
    assert of_this_boot.pids_hold
    of_this_boot.boot_id = "another"
    assert not of_this_boot.pids_hold


def test_a_first_process_that_may_not_be_seen_is_told_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os_process, "read_process", lambda pid: None)
    os_process.first_started.cache_clear()
    try:
        assert os_process.first_started() is None
    finally:
        os_process.first_started.cache_clear()


@TERMINAL
@pytest.mark.parametrize("own", ANOTHER, ids=["boot", "container"])
async def test_after_a_boot_what_ran_is_lost_and_nobody_is_signalled(state: Path, own: str, tty: bool) -> None:
    async with serving(state) as (server, client):
        await client.start(spec("p", "sh", "-c", "trap '' HUP; echo before; sleep 1000", tty=tty))
        await until_output(client, "p")
        status = await client.status("p")
        assert status is not None
        assert status.pid is not None
        victim = serving_child(server.pid)
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        server.kill()
        await until_dead(victim)
    try:
        described = description_of(state)
        assert own in described.read_text()
        described.write_text(described.read_text().replace(own, ANOTHER[own]))
        async with serving(state) as (_, client):
            found = await client.status("p")
            assert found is not None
            assert found.state is ProcessState.LOST
            records = await drain(client, "p")
            assert b"".join(record.data for record in records).startswith(b"before")
            assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
            assert records[-2].exit_code is None
            # In truth it still runs here; one of an earlier boot or container cannot, so its pid is somebody else's.
            assert (await client.terminate("p")).was_running is False
        assert alive(status.pid)
    finally:
        os.killpg(status.pid, signal.SIGKILL)
