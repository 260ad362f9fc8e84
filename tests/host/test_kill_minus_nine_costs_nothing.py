"""Law 5: kill -9 of the server, at any instant, costs no byte, no exit code and no running process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import Kind, ProcessSpec, ProcessState, Record, WriteUncertain

from .harness import (
    PATH,
    RunningServer,
    WireClient,
    alive,
    kill_server,
    kill_serving,
    serving_child,
    start_host,
    until_dead,
    within,
    write_params,
)

#: Writes numbered lines to both streams, faster than it is polite, and ends with an exit code that is not 0.
PRODUCER = """
import os, sys, time
for number in range({count}):
    os.write(1, b"out %07d\\n" % number)
    if number % 10 == 0:
        os.write({second}, b"err %07d\\n" % number)
    if number % 200 == 0:
        time.sleep(0.005)
sys.exit(41)
"""


@asynccontextmanager
async def serving(state: Path) -> AsyncIterator[tuple[RunningServer, HostClient]]:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    try:
        yield server, client
    finally:
        await client.aclose()
        server.stop()


def spec(process_id: str, *argv: str, tty: bool = False, stdin: bool = False) -> ProcessSpec:
    return ProcessSpec(
        process_id=process_id, argv=list(argv), cwd=Path("/"), env={"PATH": PATH}, tty=tty, pipe_stdin=stdin
    )


async def read(client: HostClient, process_id: str) -> list[Record]:
    async def all_records() -> list[Record]:
        return [record async for record in client.records(process_id) if isinstance(record, Record)]

    return await asyncio.wait_for(all_records(), 60)


def joined(records: list[Record], *kinds: Kind) -> bytes:
    return b"".join(record.data for record in records if record.kind in kinds)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("seed", range(2))
async def test_output_is_whole_and_read_once_across_kills_in_mid_stream(state: Path, seed: int, tty: bool) -> None:
    dice = random.Random(seed)
    count = 30_000
    async with serving(state) as (server, client):
        script = PRODUCER.format(count=count, second=1 if tty else 2)
        await client.start(spec("p", sys.executable, "-c", script, tty=tty))
        reading = asyncio.ensure_future(read(client, "p"))
        status = await client.status("p")
        assert status is not None
        kills = 0
        while kills < 4:
            await asyncio.sleep(dice.uniform(0.0, 0.3))
            await kill_server(server)
            kills += 1
        records = await reading
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert [record.kind for record in records[-2:]] == [Kind.EXITED, Kind.CLOSED]
        assert (records[-2].exit_code, records[-2].signal) == (41, None)
        out = joined(records, Kind.STDOUT, Kind.PTY).replace(b"\r\n", b"\n")
        lines = out.splitlines()
        assert [line for line in lines if line.startswith(b"out")] == [b"out %07d" % number for number in range(count)]
        errors = lines if tty else joined(records, Kind.STDERR).splitlines()
        wanted = [b"err %07d" % number for number in range(0, count, 10)]
        assert [line for line in errors if line.startswith(b"err")] == wanted
        assert await read(client, "p") == records


async def test_an_exit_while_no_server_lives_is_known_to_the_next(state: Path) -> None:
    async with serving(state) as (server, client):
        await client.start(spec("e", "sh", "-c", "echo before; read x; echo after; exit 23", stdin=True))
        await client.start(spec("s", "sleep", "1000"))
        pid = (await client.status("s")).pid  # type: ignore[union-attr]
        assert pid is not None
        victim = server.server_pid
        # The keeper is stopped so that no new server can come in between.
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        await until_dead(victim)
        os.kill(pid, signal.SIGTERM)
        await until_dead(pid)
        os.kill(server.pid, signal.SIGCONT)
        records = await read(client, "s")
        assert (records[-2].exit_code, records[-2].signal) == (143, 15)
        await client.write("e", b"go\n")
        records = await read(client, "e")
        assert joined(records, Kind.STDOUT) == b"before\nafter\n"
        assert records[-2].exit_code == 23


async def test_nothing_is_started_twice_or_forgotten_across_kills(state: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    dice = random.Random(7)
    async with serving(state) as (server, client):

        async def start(number: int) -> None:
            await client.start(spec(f"n{number}", "sh", "-c", f"echo {number} >> {journal}; exit {number % 200}"))

        async def killing() -> None:
            for _ in range(5):
                await asyncio.sleep(dice.uniform(0.01, 0.2))
                await kill_server(server)

        killer = asyncio.ensure_future(killing())
        number = 0
        while not killer.done() or number < 100:
            await asyncio.gather(*(start(number + offset) for offset in range(5)))
            number += 5
        await killer
        for each in range(number):
            records = await read(client, f"n{each}")
            assert records[-2].exit_code == each % 200
        assert sorted(int(line) for line in journal.read_text().split()) == list(range(number))


async def test_input_goes_on_and_ends_after_a_kill(state: Path) -> None:
    async with serving(state) as (server, client):
        await client.start(spec("w", "cat", stdin=True))
        sent = b""
        for number in range(60):
            line = b"%d\n" % number
            sent += line
            if number % 20 == 10:
                await kill_server(server)
            await client.write("w", line)
        await client.close_stdin("w")
        records = await read(client, "w")
        assert joined(records, Kind.STDOUT) == sent
        assert records[-2].exit_code == 0


async def test_a_write_is_never_doubled_by_a_kill(state: Path) -> None:
    dice = random.Random(3)
    async with serving(state) as (server, client):
        await client.start(spec("d", "cat", stdin=True))
        sure: list[bytes] = []
        unsure: list[bytes] = []
        stop = asyncio.Event()

        async def writing() -> None:
            number = 0
            while not stop.is_set():
                line = b"%d\n" % number
                number += 1
                try:
                    await client.write("d", line)
                except WriteUncertain:
                    unsure.append(line)
                else:
                    sure.append(line)

        writer = asyncio.ensure_future(writing())
        for _ in range(4):
            await asyncio.sleep(dice.uniform(0.05, 0.3))
            await kill_server(server)
        stop.set()
        await writer
        await client.close_stdin("d")
        got = joined(await read(client, "d"), Kind.STDOUT).splitlines(keepends=True)
        assert len(got) == len(set(got))
        assert [line for line in got if line not in unsure] == sure
        assert set(got) <= {*sure, *unsure}


async def test_a_write_cut_off_by_a_kill_is_called_uncertain(state: Path) -> None:
    async with serving(state) as (server, client):
        await client.start(spec("u", "sleep", "1000", stdin=True))
        # More than the pipe holds: the write is begun and cannot be finished.
        writing = asyncio.ensure_future(client.write("u", b"x" * 300_000))
        while not await noted(state):
            await client.status("u")
        await kill_server(server)
        with pytest.raises(WriteUncertain):
            await within(writing)
        await client.terminate("u")


async def noted(state: Path) -> bool:
    return await asyncio.to_thread(lambda: any((state / "processes").glob("*/writes")))


async def test_a_plain_client_resumes_its_session_with_the_next_server(state: Path) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    first = await WireClient.connect(server.url)
    await first.start("p", "/bin/sh", "-c", "echo one; read x; echo two $x; exit 6", pipeStdin=True)
    await first.until_output("p", b"one")
    await kill_server(server)
    await first.until_lost()
    second = await WireClient.connect(server.url, resume=first.session)
    assert second.session == first.session
    missed = await second.result("process/read", {"processId": "p"})
    assert [chunk["seq"] for chunk in missed["chunks"]] == [1]
    await second.result("process/write", write_params("p", b"x\n", "1"))
    await second.until_closed("p")
    assert second.output("p") == b"two x\n"
    assert second.exit_code("p") == 6
    await second.close()
    assert server.stop() == 0


async def test_a_session_without_a_process_is_resumed_and_one_that_was_never_opened_is_not(state: Path) -> None:
    server = start_host(state)
    first = await WireClient.connect(server.url)
    for _ in range(2):
        await kill_server(server)
        again = await WireClient.connect(server.url, resume=first.session)
        assert again.session == first.session
    serving_pid = server.server_pid
    server.kill()
    # When the server has become the keeper, and another one the server.
    await kill_serving(serving_pid)
    again = await WireClient.connect(server.url, resume=first.session)
    assert again.session == first.session
    other = await WireClient.connect(server.url, initialize=False)
    made_up = str(uuid.uuid4())
    refused = await other.error("initialize", {"clientName": "test", "resumeSessionId": made_up})
    assert refused == (-32600, f"unknown session id {made_up}")
    os.kill(serving_pid, signal.SIGTERM)
    await until_dead(serving_pid)


async def test_a_killed_keeper_is_replaced_and_the_next_kill_costs_nothing_either(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    script = PRODUCER.format(count=20_000, second=2)
    await client.start(spec("p", sys.executable, "-c", script))
    await client.start(spec("t", "sh", "-c", "stty raw; echo up; read x; exit 9", tty=True))
    reading = asyncio.ensure_future(read(client, "p"))
    serving_pid = server.server_pid
    server.kill()
    # The server has become the keeper and has a server of its own.
    await client.status("p")

    async def appeared() -> int:
        while not (pid := serving_child(serving_pid)):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.01)
        return pid

    second = await within(appeared())
    os.kill(second, signal.SIGKILL)
    records = await reading
    assert records[-2].exit_code == 41
    assert joined(records, Kind.STDOUT) == b"".join(b"out %07d\n" % number for number in range(20_000))
    await client.write("t", b"\n")
    assert (await read(client, "t"))[-2].exit_code == 9
    await client.aclose()
    os.kill(serving_pid, signal.SIGTERM)
    await until_dead(serving_pid)
    assert "host.sock" not in os.listdir(state)


async def test_when_both_die_the_process_is_lost_its_tree_ended_and_every_written_byte_kept(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=0.1)
    await client.start(
        spec("l", "sh", "-c", "setsid sleep 1000 & echo left $!; trap '' PIPE TERM; while :; do sleep 1; done")
    )
    left = 0
    async for record in client.records("l"):
        assert isinstance(record, Record)
        left = int(record.data.split()[1])
        break
    status = await client.status("l")
    assert status is not None
    assert status.pid is not None
    serving_pid = server.server_pid
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(serving_pid, signal.SIGKILL)
    server.kill()
    await client.aclose()
    assert alive(left)
    async with serving(state) as (_, again):
        records = await read(again, "l")
        assert [record.kind for record in records] == [Kind.STDOUT, Kind.EXITED, Kind.CLOSED]
        assert records[0].data == b"left %d\n" % left
        assert records[1].exit_code is None
        lost = await again.status("l")
        assert lost is not None
        assert lost.state is ProcessState.LOST
        await until_dead(left)
        await until_dead(status.pid)


async def test_a_server_that_never_worked_is_not_restarted(state: Path) -> None:
    (state / "processes").write_text("in the way")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.host", "--listen", "unix://", "--state-dir", str(state)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await within(process.communicate())
    assert process.returncode not in (0, None)
    assert out == b""
    assert b"is not a directory" in errors
