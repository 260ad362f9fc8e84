"""Connections break at any byte; nothing is lost, repeated or started twice."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.clock import monotonic
from holdfast.host.client import HostClient
from holdfast.host.connection import HostConnection
from holdfast.host.port import HostUnavailable, ProcessSpec, Record

from .harness import BOUND, PATH, RunningServer, within


class CuttingProxy:
    """Passes bytes between a client and the host, and cuts the connection after a number of them."""

    def __init__(self, target: str, path: Path) -> None:
        self.target = target
        self.url = f"unix://{path}"
        self._path = path
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many bytes the next connections pass towards the client before they are cut.
        self.budgets: list[int] = []
        self.cuts = 0
        self.refusing = False

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_unix_server(self._accept, str(self._path))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection now."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()
        self._pairs.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        host_reader, host_writer = await asyncio.open_unix_connection(self.target.removeprefix("unix://"))
        pair = (writer, host_writer)
        self._pairs.add(pair)
        budget = self.budgets.pop(0) if self.budgets else None
        for source, sink, limit in ((reader, host_writer, None), (host_reader, writer, budget)):
            task = asyncio.ensure_future(self._pass(source, sink, limit, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        budget: int | None,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(65536):
                if budget is not None:
                    data, budget = data[:budget], budget - len(data)
                sink.write(data)
                await sink.drain()
                if budget is not None and budget <= 0:
                    self.cuts += 1
                    break
        except ConnectionError:
            pass
        finally:
            for writer in pair:
                writer.close()
            self._pairs.discard(pair)


@pytest.fixture
async def proxy(host: RunningServer, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(host.url, tmp_path / "proxy.sock") as running:
        yield running


def spec(process_id: str, *argv: str, stdin: bool = False) -> ProcessSpec:
    return ProcessSpec(process_id=process_id, argv=list(argv), cwd=Path("/"), env={"PATH": PATH}, pipe_stdin=stdin)


async def read(client: HostClient, process_id: str) -> list[Record]:
    async def all_records() -> list[Record]:
        return [record async for record in client.records(process_id) if isinstance(record, Record)]

    return await within(all_records())


@pytest.mark.parametrize("seed", range(4))
async def test_a_log_is_read_once_and_whole_across_cuts_at_any_byte(proxy: CuttingProxy, seed: int) -> None:
    dice = random.Random(seed)
    client = await HostClient.connect(proxy.url)
    await client.start(spec("p", "sh", "-c", "for i in $(seq 2000); do echo line $i; done; head -c 3000000 /dev/zero"))
    whole = await read(client, "p")
    proxy.budgets = [dice.randrange(800, 200_000) for _ in range(12)]
    proxy.cut()
    assert await read(client, "p") == whole
    assert proxy.cuts >= 3
    await client.aclose()


async def test_writes_are_neither_lost_nor_repeated(proxy: CuttingProxy) -> None:
    client = await HostClient.connect(proxy.url)
    await client.start(spec("w", "cat", stdin=True))
    dice = random.Random(1)
    sent = b""
    for number in range(120):
        line = b"%d\n" % number
        sent += line
        if number % 7 == 3:
            # Cut before the reply, or in the middle of it: the client cannot know whether the write arrived.
            proxy.budgets = [dice.randrange(900, 1400)]
            proxy.cut()
        await within(client.write("w", line))
    await client.close_stdin("w")
    records = await read(client, "w")
    assert b"".join(record.data for record in records) == sent
    await client.aclose()


async def test_a_start_whose_reply_was_lost_is_not_started_twice(proxy: CuttingProxy, host: RunningServer) -> None:
    client = await HostClient.connect(proxy.url)
    for number in range(20):
        proxy.budgets = [1200 + number * 4]
        proxy.cut()
        await within(client.start(spec(f"s{number}", "sh", "-c", "echo $$")))
    direct = await HostClient.connect(host.url)
    for number in range(20):
        assert len([record for record in await read(direct, f"s{number}") if record.data]) == 1
    assert len(await direct.list()) == 20
    await direct.aclose()
    await client.aclose()


async def test_a_host_that_stays_away_is_a_typed_error_within_the_limit(proxy: CuttingProxy) -> None:
    client = await HostClient.connect(proxy.url, reconnect_for=0.2)
    await client.start(spec("p", "sleep", "1000"))
    reader = asyncio.ensure_future(read(client, "p"))
    await client.status("p")
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(HostUnavailable):
        await within(client.status("p"))
    with pytest.raises(HostUnavailable):
        await within(reader)
    proxy.refusing = False
    assert (await within(client.terminate("p"))).was_running
    await client.aclose()


async def test_each_call_that_waits_for_a_connection_has_its_own_time(proxy: CuttingProxy) -> None:
    connection = HostConnection(proxy.url, token=None, reconnect_for=BOUND)
    proxy.refusing = True
    impatient = asyncio.create_task(connection.link(monotonic()))
    patient = asyncio.create_task(connection.link(monotonic() + BOUND))
    with pytest.raises(HostUnavailable):
        await within(impatient)
    proxy.refusing = False
    assert not (await within(patient)).peer.closed
    connection.close()


async def test_who_waits_for_a_connection_that_is_closed_meanwhile_is_told_so(tmp_path: Path) -> None:
    accepted: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait(reader)
        await reader.read()
        writer.close()

    path = tmp_path / "mute.sock"
    async with await asyncio.start_unix_server(accept, str(path)):
        client = HostClient(f"unix://{path}")
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(client.status("p")) for _ in range(2)]
        waiting.append(asyncio.create_task(read(client, "p")))
        reader = await within(accepted.get())
        # One that gives up spoils nothing for the others.
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(waiting[0])
        assert not waiting[1].done()
        await client.aclose()
        for other in waiting[1:]:
            with pytest.raises(HostUnavailable, match="This client was closed"):
                await within(other)
        with pytest.raises(HostUnavailable, match="This client was closed"):
            await client.status("p")
        # The connection that was being made is not left open.
        while await within(reader.read(65536)):
            pass


async def test_who_waits_for_an_answer_of_a_connection_that_is_closed_is_told_so(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    await client.start(spec("p", "sleep", "1000", stdin=True))
    # More than a pipe holds, to somebody who does not read.
    writing = asyncio.create_task(client.write("p", bytes(8 * 1024 * 1024)))
    await client.status("p")
    await client.aclose()
    with pytest.raises(HostUnavailable, match="This client was closed"):
        await within(writing)


async def test_who_is_cancelled_when_the_client_is_closed_stays_cancelled(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(os.fspath(tmp_path / "mute.sock"))
        mute.listen()
        client = HostClient(f"unix://{tmp_path / 'mute.sock'}")
        waiting = asyncio.create_task(client.status("p"))
        await asyncio.sleep(0)
        await client.aclose()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(waiting)
