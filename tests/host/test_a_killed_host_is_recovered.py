"""What a host that is killed leaves behind is readable, complete as far as anybody can know, and ended."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from holdfast.clock import boot_id
from holdfast.host.client import HostClient
from holdfast.host.description import Description
from holdfast.host.log import ProcessLog
from holdfast.host.log_format import RECORD
from holdfast.host.os_process import start_time
from holdfast.host.passed_over import PassedOver
from holdfast.host.port import Kind, ProcessSpec, ProcessState, Record, StartRefused
from holdfast.host.process import HostedProcess
from holdfast.host.recovery import Recovered, recover
from holdfast.host.staging import Staging

from .harness import PATH, RunningServer, alive, kill_server, start_host, until_dead, within

#: A host that lets what a lost process left take its time.
PATIENT = """
import sys
from holdfast.host import entry, server
server.STOP_GRACE = 1000.0
sys.exit(entry.main())
"""
#: Does not end when it is asked to, and says when that is so.
STUBBORN = """
import signal
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""


@asynccontextmanager
async def running(state: Path, *options: str) -> AsyncIterator[tuple[HostClient, int]]:
    server = start_host(state, "unix://", *options)
    client = await HostClient.connect(server.url)
    try:
        yield client, server.pid
    finally:
        await client.aclose()
        server.stop()


def spec(process_id: str, *argv: str) -> ProcessSpec:
    return ProcessSpec(process_id=process_id, argv=list(argv), cwd=Path("/tmp"), env={"PATH": PATH})


async def read(client: HostClient, process_id: str) -> list[Record]:
    async def all_records() -> list[Record]:
        return [record async for record in client.records(process_id) if isinstance(record, Record)]

    return await within(all_records())


def directory_of(state: Path, process_id: str) -> Path:
    wanted = f'"processId":"{process_id}"'.encode()
    (description,) = [path for path in state.glob("processes/*/process") if wanted in path.read_bytes()]
    return description.parent


def recovered(state: Path) -> list[Recovered]:
    """What a server finds in *state* when it begins."""

    def make(description: Description, directory: str, log: ProcessLog) -> HostedProcess:
        return HostedProcess(
            description,
            directory,
            log,
            poller=None,  # type: ignore[arg-type]  (nothing is watched)
            staging=staging,
            on_closed=lambda process: None,
            on_stdin_closed=lambda process: None,
        )

    staging = Staging(lambda descriptors: None)
    processes = str(state / "processes")
    return list(recover(processes, {}, [], make, staging=staging, outlived=False, passed_over=PassedOver()))


async def test_a_finished_process_is_remembered(state: Path) -> None:
    async with running(state) as (client, _):
        await client.start(spec("done", "sh", "-c", "echo kept; exit 9"))
        before = await read(client, "done")
    async with running(state) as (client, _):
        assert await read(client, "done") == before
        status = await client.status("done")
        assert status is not None
        assert (status.state, status.exit_code) == (ProcessState.CLOSED, 9)
        assert (await client.start(spec("done", "sh", "-c", "echo again"))).state is ProcessState.CLOSED


async def test_a_stopped_host_ends_its_processes_and_knows_how_they_ended(state: Path) -> None:
    async with running(state) as (client, _):
        await client.start(spec("t", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"))
        async for record in client.records("t"):
            if isinstance(record, Record) and record.data:
                break
    async with running(state) as (client, _):
        records = await read(client, "t")
        assert b"".join(record.data for record in records if record.kind is Kind.STDOUT) == b"up\nbye\n"
        assert records[-2].exit_code == 3


async def test_torn_and_unindexed_ends_are_repaired(state: Path) -> None:
    async with running(state) as (client, _):
        await client.start(spec("torn", "sh", "-c", "echo one; echo two; echo three"))
        before = await read(client, "torn")
    (directory,) = (state / "processes").iterdir()
    index = directory / "index"
    # As if the host had been killed after it moved the bytes and before it indexed all of them.
    index.write_bytes(index.read_bytes()[: RECORD.size + 11])
    async with running(state) as (client, _):
        records = await read(client, "torn")
        assert records[0] == before[0]
        assert b"".join(record.data for record in records) == b"one\ntwo\nthree\n"
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
        assert records[-2].exit_code is None
        status = await client.status("torn")
        assert status is not None
        assert status.state is ProcessState.LOST


async def test_a_start_that_never_happened_leaves_nothing(state: Path) -> None:
    async with running(state) as (client, _):
        pass
    half = state / "processes" / "half"
    half.mkdir(mode=0o700)
    (half / "process").write_text('{"processId": "half"')
    async with running(state) as (client, _):
        assert await client.list() == []
        assert not half.exists()
        assert (await client.start(spec("half", "true"))).process_id == "half"
        await read(client, "half")


async def test_processes_of_another_boot_are_lost_and_nobody_is_signalled(state: Path) -> None:
    async with running(state) as (client, _):
        await client.start(spec("old", "true"))
        await read(client, "old")
    (directory,) = (state / "processes").iterdir()
    bystander = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        started = start_time(bystander.pid)
        description = (directory / "process").read_text().splitlines()[0]
        other_boot = description.replace(boot_id(), "00000000-0000-0000-0000-000000000000")
        (directory / "process").write_text(f'{other_boot}\n{{"pid":{bystander.pid},"started":{started}}}\n')
        (directory / "index").write_bytes(b"")
        async with running(state) as (client, _):
            status = await client.status("old")
            assert status is not None
            assert status.state is ProcessState.LOST
            assert [record.kind for record in await read(client, "old")] == [Kind.EXITED, Kind.CLOSED]
        assert alive(bystander.pid)
    finally:
        bystander.send_signal(signal.SIGKILL)
        await bystander.wait()


async def test_two_hosts_never_share_a_directory(state: Path) -> None:
    async with running(state):
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await within(second.communicate())
        assert second.returncode == 2
        assert b"Another host is running" in errors


async def lost(state: Path, *argv: str) -> int:
    """The pid of a process "l" that says something, and whose host, keeper and server, was killed then."""
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=0.1)
    started = await client.start(spec("l", *argv))
    assert started.pid is not None
    async for _ in client.records("l"):
        break
    serving = server.server_pid
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(serving, signal.SIGKILL)
    server.kill()
    await client.aclose()
    return started.pid


async def test_what_a_lost_process_left_is_ended_also_if_the_server_that_found_it_is_killed(state: Path) -> None:
    pid = await lost(state, "sh", "-c", "echo up; exec sleep 1000")
    # Two servers that get no further than to declare it lost.
    for _ in range(2):
        (found,) = recovered(state)
        assert (found.process.lost, found.process.closed) == (True, True)
        assert found.left
        assert found.process.tree is not None
        assert [member.pid for member in found.process.tree.members()] == [pid]
    async with running(state):
        await until_dead(pid)
    (directory,) = os.listdir(state / "processes")
    assert "left-over" not in os.listdir(state / "processes" / directory)


async def test_what_a_lost_process_left_can_be_seen_and_its_end_be_hastened(state: Path) -> None:
    pid = await lost(state, sys.executable, "-c", STUBBORN)
    server = RunningServer([sys.executable, "-c", PATIENT, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(server.url)
    assert [member.pid for member in await client.members("l")] == [pid]
    outcome = await client.terminate("l", grace=0.0)
    assert (outcome.was_running, outcome.survivors) == (False, [])
    assert [member.pid for member in outcome.ended] == [pid]
    assert not alive(pid)
    await client.aclose()
    server.stop()


async def test_what_a_closed_process_left_is_known_to_the_next_server(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    await client.start(spec("c", "sh", "-c", "setsid sleep 1000 >&- 2>&- & echo $!"))
    told, *_, last = await read(client, "c")
    assert last.kind is Kind.CLOSED
    pid = int(told.data)
    await kill_server(server)
    assert [member.pid for member in await client.members("c")] == [pid]
    assert [member.pid for member in (await client.terminate("c", grace=0.0)).ended] == [pid]
    assert not alive(pid)
    await client.aclose()
    server.stop()


@pytest.mark.parametrize("unreadable", ["process", "index", "writes"])
async def test_who_cannot_be_read_goes_on_and_keeps_nobody_else_waiting(
    state: Path, tmp_path: Path, unreadable: str
) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    shell = spec("m", "sh", "-c", "read x; echo $x; exit 3")
    await client.start(msgspec.structs.replace(shell, pipe_stdin=True))
    await client.start(spec("other", "sleep", "1000"))
    await client.write("m", b"word")
    directory = directory_of(state, "m")
    # For whoever wants a file this cannot be read, whatever rights he has.
    aside = tmp_path / unreadable
    os.rename(directory / unreadable, aside)
    (directory / unreadable).mkdir()
    await kill_server(server)
    other = await client.status("other")
    assert other is not None
    assert other.state is ProcessState.RUNNING
    status = await client.status("m")
    if unreadable == "writes":
        assert status is not None
        assert (status.state, status.stalled is not None) == (ProcessState.RUNNING, True)
    else:
        assert status is None
        if unreadable == "index":
            # What may run is not run twice.
            with pytest.raises(StartRefused, match="already exists, and cannot be read"):
                await client.start(shell)
    (directory / unreadable).rmdir()
    os.rename(aside, directory / unreadable)
    await kill_server(server)
    await client.write("m", b"s\n")
    records = await read(client, "m")
    assert [(record.kind, record.data, record.exit_code) for record in records] == [
        (Kind.STDOUT, b"words\n", None),
        (Kind.EXITED, b"", 3),
        (Kind.CLOSED, b"", None),
    ]
    await client.aclose()
    server.stop()


@pytest.mark.parametrize("fault", ["stream", "index"])
async def test_who_cannot_be_read_leaves_nothing_open(state: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    async with running(state) as (client, _):
        await client.start(spec("m", "echo", "words"))
        await read(client, "m")
    directory = directory_of(state, "m")
    os.truncate(directory / "index", RECORD.size * 3 // 2)
    if fault == "stream":
        (directory / "stdout").unlink()
        (directory / "stdout").symlink_to("stdout")
    else:

        def fail(descriptor: int, length: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "ftruncate", fail)
    before = os.listdir("/proc/self/fd")
    assert recovered(state) == []
    assert os.listdir("/proc/self/fd") == before


async def test_an_orderly_stop_ends_also_who_cannot_be_read(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    started = await client.start(spec("m", "sleep", "1000"))
    assert started.pid is not None
    description = directory_of(state, "m") / "process"
    description.unlink()
    description.mkdir()
    await kill_server(server)
    assert await client.status("m") is None
    assert alive(started.pid)
    await client.aclose()
    assert server.stop() == 0
    assert not alive(started.pid)


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOMEM])
async def test_without_descriptors_or_memory_nobody_is_passed_over(
    state: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with running(state) as (client, _):
        await client.start(spec("done", "true"))
        await read(client, "done")

    def refuse(directory: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("holdfast.host.recovery.read_description", refuse)
    # The keeper starts another server, which may have better luck.
    with pytest.raises(OSError, match=os.strerror(number)):
        recovered(state)
