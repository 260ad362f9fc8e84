"""Promises of the host as functions of a size: small ones are tests, large ones are ``python -m bench.soak``.

Each takes a fresh state directory, fails with an :class:`AssertionError`, leaves no process behind, and returns the
numbers that it proved.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import reduce
from operator import and_
from pathlib import Path

from holdfast.host.client import HostClient
from holdfast.host.port import Gap, Kind, ProcessSpec, Record

from .harness import BOUND, PATH, RunningServer, WireClient, alive, kill_serving, server_of, start_host, until_dead

Numbers = dict[str, float | int]

OUTPUT = (Kind.STDOUT, Kind.PTY)

#: Counts in lines of ten bytes at about 1 MB/s until a file appears, then notes how far it got and exits with 41.
COUNTER = """
import os, sys, time
stop, total, second = sys.argv[1], sys.argv[2], int(sys.argv[3])
count, began = 0, time.monotonic()
def write(stream, data):
    while data:
        data = data[os.write(stream, data):]
while not os.path.exists(stop):
    write(1, b"".join([b"%09d\\n" % number for number in range(count, count + 200)]))
    if second:
        write(2, b"%09d\\n" % (count // 200))
    count += 200
    ahead = count / 100_000 - (time.monotonic() - began)
    if ahead > 0:
        time.sleep(ahead)
open(total, "w").write(str(count))
sys.exit(41)
"""

#: Writes every byte value, invalid UTF-8 and NULs among them, in an order that repeats only after 64 KiB; no newline
#: has a meaning in it.
BYTES = """
import hashlib, os, sys
size, block, digest = int(sys.argv[1]), bytes((i * 31 + i // 256 * 7) & 255 for i in range(65536)), hashlib.sha256()
while size:
    part = memoryview(block)[:size]
    digest.update(part)
    size -= len(part)
    while part:
        part = part[os.write(1, part):]
open(sys.argv[2], "w").write(digest.hexdigest())
"""


def spec(process_id: str, *argv: str, tty: bool = False, stdin: bool = False) -> ProcessSpec:
    return ProcessSpec(
        process_id=process_id, argv=list(argv), cwd=Path("/"), env={"PATH": PATH}, tty=tty, pipe_stdin=stdin
    )


def python(process_id: str, script: str, *arguments: str, tty: bool = False, stdin: bool = False) -> ProcessSpec:
    """A Python program; on a terminal that changes no byte."""
    argv = [sys.executable, "-I", "-S", "-c", script, *arguments]
    if tty:
        argv = ["sh", "-c", 'stty raw -echo; exec "$@"', "sh", *argv]
    return spec(process_id, *argv, tty=tty, stdin=stdin)


@asynccontextmanager
async def serving(state: Path, *options: str) -> AsyncIterator[tuple[RunningServer, HostClient]]:
    server = start_host(state, "unix://", *options)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    try:
        yield server, client
    finally:
        await client.aclose()
        server.stop()
    assert server.stderr is not None
    said = server.stderr.read_text()
    assert "Traceback" not in said, said


def resident(pid: int) -> int:
    """Bytes of memory that *pid* has."""
    return _memory(pid, "VmRSS")


def peak(pid: int) -> int:
    """Bytes of memory that *pid* has had at most."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, which: str) -> int:
    found = re.search(which + r":\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


#: Writes blocks of 64 KiB, each with its number, as fast as they are taken and with a breath after two megabytes, until
#: a file appears; then notes how many they were and exits with 41.
POURER = """
import os, sys, time
stop, total = sys.argv[1:]
block, count = bytearray((i * 31 + i // 256 * 7) & 255 for i in range(65536)), 0
while not os.path.exists(stop):
    for _ in range(32):
        block[:8] = count.to_bytes(8, "big")
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(1, rest):]
        count += 1
    time.sleep(0.01)
open(total, "w").write(str(count))
sys.exit(41)
"""


class BlockChecker:
    """Checks the blocks of a pourer chunk by chunk, wherever the chunks were cut."""

    def __init__(self) -> None:
        self.size = 0
        self._block = bytearray((i * 31 + i // 256 * 7) & 255 for i in range(65536))

    def take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            number, begin = divmod(self.size, 65536)
            self._block[:8] = number.to_bytes(8, "big")
            length = min(65536 - begin, len(data) - at)
            assert data[at : at + length] == self._block[begin : begin + length], f"wrong bytes after {self.size}"
            at += length
            self.size += length


class CountChecker:
    """Checks a counter's output chunk by chunk, wherever the chunks were cut."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, data: bytes) -> None:
        first, last = self.size // 10, (self.size + len(data)) // 10 + 1
        expected = b"".join([b"%09d\n" % number for number in range(first, last)])
        begin = self.size - first * 10
        assert expected[begin : begin + len(data)] == data, f"wrong bytes after {self.size}"
        self.size += len(data)


# Kills


async def counting_survives_kills(state: Path, *, tty: bool, kills: int, seed: int) -> Numbers:
    """A counter at 1 MB/s, a reader that follows it, and kills of the server at random moments, its start included."""
    dice = random.Random(seed)
    stop, total = state.parent / f"{state.name}-stop", state.parent / f"{state.name}-total"
    async with serving(state) as (server, client):
        await client.start(python("c", COUNTER, str(stop), str(total), "0" if tty else "1", tty=tty))
        out, errors = CountChecker(), CountChecker()
        last: list[Record] = []
        lengths: list[int] = []

        async def follow() -> None:
            async for record in client.records("c"):
                assert isinstance(record, Record), record
                assert record.seq == len(lengths) + 1, (record.seq, len(lengths))
                lengths.append(len(record.data))
                if record.kind in OUTPUT:
                    out.take(record.data)
                elif record.kind is Kind.STDERR:
                    errors.take(record.data)
                else:
                    last.append(record)

        following = asyncio.ensure_future(follow())
        try:
            for _ in range(kills):
                await asyncio.sleep(dice.uniform(0.0, 0.3))
                await kill_serving(server.pid)
                if following.done():
                    following.result()
                    raise AssertionError("the reader came to an end before the process did")
        finally:
            stop.touch()
        await asyncio.wait_for(following, 120)
        count = int(total.read_text())
        assert out.size == count * 10, (out.size, count)
        assert errors.size == (0 if tty else count // 200 * 10)
        assert [(record.kind, record.exit_code, record.signal) for record in last] == [
            (Kind.EXITED, 41, None),
            (Kind.CLOSED, None, None),
        ]
        for after in sorted(dice.sample(range(len(lengths)), min(10, len(lengths)))):
            rest = [record async for record in client.records("c", after_seq=after)]
            assert [len(record.data) for record in rest if isinstance(record, Record)] == lengths[after:]
    return {"kills": kills, "bytes": out.size, "records": len(lengths)}


async def pouring_survives_kills(state: Path, *, tty: bool, kills: int, seed: int) -> Numbers:
    """Output that pours in, which takes another way than a trickle, is whole, however often the server is killed."""
    dice = random.Random(seed)
    stop, total = state.parent / f"{state.name}-stop", state.parent / f"{state.name}-total"
    async with serving(state) as (server, client):
        await client.start(python("p", POURER, str(stop), str(total), tty=tty))
        out = BlockChecker()
        largest = 0
        ends: list[Record] = []

        async def follow() -> None:
            nonlocal largest
            async for record in client.records("p"):
                assert isinstance(record, Record), record
                if record.kind in OUTPUT:
                    out.take(record.data)
                    largest = max(largest, len(record.data))
                else:
                    ends.append(record)

        following = asyncio.ensure_future(follow())
        try:
            for _ in range(kills):
                await asyncio.sleep(dice.uniform(0.0, 0.1))
                await kill_serving(server.pid)
        finally:
            stop.touch()
        await asyncio.wait_for(following, 120)
        assert out.size == int(total.read_text()) * 65536
        assert [record.exit_code for record in ends] == [41, None]
        # What a pipe holds is 64 KiB before it is known that something pours.
        assert largest > 65536
    return {"kills": kills, "bytes": out.size}


async def starts_survive_kills(state: Path, *, kills: int, seed: int) -> Numbers:
    """Starts, pipes and terminals, go on while the server is killed: each once, each with its exit status."""
    dice = random.Random(seed)
    journal = state.parent / f"{state.name}-journal"
    async with serving(state) as (server, client):

        async def run(number: int) -> None:
            # One small append to a file is atomic: no two of them can mix.
            script = f"echo {number} >> {journal}; echo out {number}; exit {number % 200}"
            await client.start(spec(f"n{number}", "sh", "-c", script, tty=number % 4 == 0))

        async def killing() -> None:
            for _ in range(kills):
                await asyncio.sleep(dice.uniform(0.0, 0.25))
                await kill_serving(server.pid)

        killer = asyncio.ensure_future(killing())
        number = 0
        while not killer.done() or number < 40:
            await asyncio.gather(*(run(number + offset) for offset in range(4)))
            number += 4
            await asyncio.sleep(0.02)
        await killer
        for each in range(number):
            records = [record async for record in client.records(f"n{each}")]
            data = b"".join(record.data for record in records if isinstance(record, Record))
            assert data.replace(b"\r", b"") == b"out %d\n" % each, (each, records)
            ended = records[-2]
            assert isinstance(ended, Record)
            assert ended.exit_code == each % 200, (each, ended)
        assert sorted(int(line) for line in journal.read_text().split()) == list(range(number))
    return {"kills": kills, "starts": number}


async def kill_keeper(keeper: int) -> int:
    """Kill a keeper and wait until its server has taken its place; returns the next keeper."""
    heir = server_of(keeper)
    assert heir
    os.kill(keeper, signal.SIGKILL)
    deadline = time.monotonic() + BOUND
    while not server_of(heir):
        assert alive(heir), "the server died with its keeper"
        assert time.monotonic() < deadline, "nobody became the keeper"
        await asyncio.sleep(0.01)
    return heir


async def output_survives_a_keeper(state: Path, *, tty: bool, pours: bool, kills: int, seed: int) -> Numbers:
    """A keeper is killed while a process writes, then servers of the keeper that took its place."""
    dice = random.Random(seed)
    stop, total = state.parent / f"{state.name}-stop", state.parent / f"{state.name}-total"
    server = start_host(state)
    keeper = server.pid
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    try:
        script, *more = (POURER,) if pours else (COUNTER, "0")
        await client.start(python("c", script, str(stop), str(total), *more, tty=tty))
        out = BlockChecker() if pours else CountChecker()
        ends: list[Record] = []

        async def follow() -> None:
            async for record in client.records("c"):
                assert isinstance(record, Record)
                if record.kind in OUTPUT:
                    out.take(record.data)
                else:
                    ends.append(record)

        following = asyncio.ensure_future(follow())
        try:
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            keeper = await kill_keeper(keeper)
            server.process.wait(BOUND)
            for _ in range(kills):
                await asyncio.sleep(dice.uniform(0.0, 0.5))
                await kill_serving(keeper)
        finally:
            stop.touch()
        await asyncio.wait_for(following, 120)
        assert out.size == int(total.read_text()) * (65536 if pours else 10)
        assert [record.exit_code for record in ends] == [41, None]
    finally:
        await client.aclose()
        if server.process.returncode is None:
            server.kill()
        if alive(keeper):
            os.kill(keeper, signal.SIGTERM)
            await until_dead(keeper)
        if server.process.stdout is not None:
            server.process.stdout.close()
    return {"keepers": 1, "kills": kills, "bytes": out.size}


# Sizes


async def binary_output_is_exact(state: Path, *, size: int, tty: bool) -> Numbers:
    """Every byte value passes unchanged, and the server needs no more memory for much than for little."""
    told = state.parent / f"{state.name}-digest"
    async with serving(state) as (server, client):

        async def read(process_id: str) -> tuple[str, int, int]:
            digest, received, most = hashlib.sha256(), 0, 0
            async for record in client.records(process_id):
                assert isinstance(record, Record)
                digest.update(record.data)
                received += len(record.data)
                if record.seq % 64 == 0:
                    most = max(most, resident(server.server_pid))
            return digest.hexdigest(), received, most

        await client.start(python("warm", BYTES, "8000000", str(told), tty=tty))
        await read("warm")
        before = resident(server.server_pid)
        began = time.monotonic()
        await client.start(python("big", BYTES, str(size), str(told), tty=tty))
        digest, received, most = await read("big")
        seconds = time.monotonic() - began
        assert received == size
        assert digest == told.read_text()
        assert most - before < 32_000_000, f"memory grew by {most - before} bytes"
    return {"bytes": size, "MB/s": round(size / seconds / 1e6), "MB more of memory": round((most - before) / 1e6, 1)}


def descriptors(pid: int) -> list[str]:
    """What *pid* has open, without the numbers that are new each time and the places made ahead for the next starts."""
    found: list[str] = []
    places = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if "/processes/" in target:
            places += 1
        else:
            found.append(re.sub(r"[0-9a-f]{16}|\d+", "N", target))
    assert places < 40, places
    return sorted(found)


#: Threads that the event loop makes at most for what blocks, each when it is first needed.
_POOL = min(32, (os.cpu_count() or 1) + 4)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def eventually(condition: Callable[[], bool], what: str, within: float = BOUND) -> None:
    """Wait until another process has brought *condition* about."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def starts_leave_nothing(state: Path, *, count: int, batch: int = 40) -> Numbers:
    """Many processes one after the other, a third of them on terminals: afterwards the host holds what it held."""
    server = start_host(state)
    client = await WireClient.connect(server.url)
    keeper, pid = server.pid, server.server_pid
    idle = descriptors(pid)
    # The keeper is given what it holds for good some time after the server says that it is ready.
    await eventually(lambda: any(name.endswith("/lock") for name in descriptors(keeper)), "the keeper has no lock")
    # Not what it has open for a moment only, to look after its children.
    held = sorted(reduce(and_, (Counter(descriptors(keeper)) for _ in range(50))).elements())

    async def run(prefix: str, amount: int) -> None:
        for first in range(0, amount, batch):
            names = [f"{prefix}{number}" for number in range(first, min(amount, first + batch))]
            for number, name in enumerate(names):
                params = {"tty": number % 3 == 0, "pipeStdin": number % 3 == 1}
                await client.start(name, "/bin/sh", "-c", "echo hi; exit 3", **params)
            for name in names:
                await client.until_closed(name)
            client.notifications.clear()

    try:
        await run("warm", 2 * batch)
        await eventually(lambda: descriptors(pid) == idle, "the server holds what is closed")
        running, memory = threads(pid), resident(pid)
        began = time.monotonic()
        await run("p", count)
        rate = count / (time.monotonic() - began)
        await eventually(lambda: descriptors(keeper) == held, "the keeper holds what is closed")
        await eventually(lambda: descriptors(pid) == idle, "the server holds what is closed")
        assert threads(pid) <= running + _POOL
        assert children(pid) == []
        assert children(keeper) == [str(pid)]
        grown = resident(pid) - memory
        # What a closed process of a session costs until its eighty seconds are over.
        assert grown < 4_000_000 + count * 6_000, f"memory grew by {grown} bytes"
        await client.close()
    finally:
        server.stop()
    return {"starts": count, "per second": round(rate), "bytes of memory each": round(grown / count)}


async def parallel_starts(state: Path, *, count: int) -> Numbers:
    """Starts that all come at once are all carried out, each once, and each tells its own end."""
    async with serving(state) as (server, client):
        clients = [client, *[await HostClient.connect(server.url) for _ in range(3)]]

        async def run(number: int) -> int:
            mine = clients[number % len(clients)]
            name = f"p{number}"
            status = await mine.start(spec(name, "sh", "-c", f"echo $$; exit {number % 250}", tty=number % 2 == 0))
            records = [record async for record in mine.records(name)]
            assert records[-1] == Record(seq=len(records), kind=Kind.CLOSED, time=records[-1].time)  # type: ignore[union-attr]
            ended = records[-2]
            assert isinstance(ended, Record)
            assert ended.exit_code == number % 250
            data = b"".join(record.data for record in records if isinstance(record, Record))
            assert int(data) == status.pid
            return int(data)

        pids = await asyncio.wait_for(asyncio.gather(*(run(number) for number in range(count))), 120)
        assert len(set(pids)) == count
        assert [each.established for each in clients] == [1] * len(clients), "a connection was lost"
        for other in clients[1:]:
            await other.aclose()
    return {"starts": count}


async def many_at_once(state: Path, *, processes: int, connections: int) -> Numbers:
    """Many live processes, many connections: each gets its answer and its own output."""
    async with serving(state) as (server, client):
        before = resident(server.server_pid)
        began = time.monotonic()
        for first in range(0, processes, 50):
            wanted = range(first, min(processes, first + 50))
            await asyncio.gather(
                *(
                    client.start(spec(f"l{number}", "/bin/cat", tty=number % 10 == 0, stdin=number % 10 != 0))
                    for number in wanted
                )
            )
        started = time.monotonic() - began
        listed = await client.list()
        assert len(listed) == processes
        assert {status.state for status in listed} == {"running"}
        grown = resident(server.server_pid) - before
        others = [await HostClient.connect(server.url) for _ in range(connections)]

        async def talk(number: int) -> None:
            mine = others[number % len(others)]
            line = b"to %d\n" % number
            await mine.write(f"l{number}", line)
            got = b""
            async for record in mine.records(f"l{number}"):
                assert not isinstance(record, Gap)
                got += record.data
                if line in got.replace(b"\r", b""):
                    return
            raise AssertionError(f"process {number} said {got!r}")

        for first in range(0, processes, 100):
            await asyncio.wait_for(
                asyncio.gather(*(talk(number) for number in range(first, min(processes, first + 100)))), 60
            )
        assert len(await client.list()) == processes
        for other in (client, *others):
            assert other.established == 1, "a connection was lost"
        for other in others:
            await other.aclose()
        for number in range(processes):
            await client.close_stdin(f"l{number}")
        for number in range(processes):
            records = [record async for record in client.records(f"l{number}")]
            ended = records[-2]
            assert isinstance(ended, Record)
            assert ended.exit_code == 0
    return {
        "processes": processes,
        "connections": connections,
        "starts per second": round(processes / started),
        "KiB of memory each": round(grown / processes / 1024, 1),
    }
