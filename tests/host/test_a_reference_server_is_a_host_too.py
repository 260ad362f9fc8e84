"""Without our extensions: a ``codex exec-server`` (and our own, spoken to plainly) through the port of hosts."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.host.port import Gap, Kind, ProcessSpec, ProcessState, Record, StartRefused, StdinClosed, UnknownProcess
from holdfast.host.reference import ReferenceHost, Unsupported
from tests.host.harness import BOUND, PATH, RunningServer, within


class CutProxy:
    """A TCP proxy before the server whose connections can be cut."""

    def __init__(self, url: str) -> None:
        self._target = url.removeprefix("ws://").split(":")
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: set[asyncio.Task[None]] = set()
        self.cuts = 0

    async def __aenter__(self) -> CutProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.cut()
        for serving in self._serving:
            serving.cancel()
        await asyncio.wait_for(asyncio.gather(*self._serving, return_exceptions=True), BOUND)

    def cut(self) -> None:
        """Break every connection, now."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: the task of a handler belongs to asyncio, which has the loop's end cancel it, with noise.
        serving = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection(self._target[0], int(self._target[1]))
        except OSError:
            # The server ended first.
            writer.transport.abort()
            return
        if writer.transport.is_closing():
            # Cut meanwhile.
            to_writer.transport.abort()
            return
        self._writers.append(to_writer)
        await asyncio.gather(self._pump(reader, to_writer), self._pump(to_reader, writer))

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


@pytest.fixture
async def proxy(either: RunningServer) -> AsyncIterator[CutProxy]:
    async with CutProxy(either.url) as running:
        yield running


@pytest.fixture
async def host(proxy: CutProxy) -> AsyncIterator[ReferenceHost]:
    host = await within(ReferenceHost.connect(proxy.url))
    yield host
    await host.aclose()


def spec(name: str, script: str, **changes: object) -> ProcessSpec:
    argv = ["/bin/sh", "-c", script]
    return ProcessSpec(process_id=name, argv=argv, cwd=Path("/"), env={"PATH": PATH}, **changes)  # type: ignore[arg-type]


async def log(host: ReferenceHost, name: str, after: int = 0) -> list[Record | Gap]:
    return await within(_collect(host, name, after))


async def _collect(host: ReferenceHost, name: str, after: int) -> list[Record | Gap]:
    return [record async for record in host.records(name, after_seq=after)]


def output(records: list[Record | Gap], kind: Kind = Kind.STDOUT) -> bytes:
    return b"".join(record.data for record in records if isinstance(record, Record) and record.kind is kind)


async def test_a_log_is_complete_and_in_order(host: ReferenceHost) -> None:
    await host.start(spec("p", "echo one; echo two >&2; exit 3"))
    records = await log(host, "p")
    assert all(isinstance(record, Record) for record in records)
    found = [record for record in records if isinstance(record, Record)]
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    assert (output(records), output(records, Kind.STDERR)) == (b"one\n", b"two\n")
    assert [record.exit_code for record in found if record.kind is Kind.EXITED] == [3]
    # The exit need not be right before it: a server may report it before it has read the last output.
    assert found[-1].kind is Kind.CLOSED


async def test_reading_goes_on_behind_any_cursor(host: ReferenceHost) -> None:
    await host.start(spec("p", "for i in 1 2 3 4 5; do echo $i; sleep 0.02; done"))
    whole = await log(host, "p")
    for position in range(1, len(whole)):
        again = await log(host, "p", after=position)
        assert again == whole[position:], position


async def test_an_exit_is_not_the_end_of_the_output(host: ReferenceHost, tmp_path: Path) -> None:
    now = tmp_path / "now"
    await host.start(spec("p", f"(until [ -e {now} ]; do sleep 0.02; done; echo late) & echo early"))
    reading = asyncio.ensure_future(log(host, "p"))

    async def ended() -> None:
        status = await host.status("p")
        while status is None or status.state is ProcessState.RUNNING or status.last_seq < 2:
            status = await host.status("p")

    await within(ended())
    now.touch()
    records = await reading
    kinds = [record.kind for record in records if isinstance(record, Record)]
    assert kinds[-2:] == [Kind.STDOUT, Kind.CLOSED]
    assert Kind.EXITED in kinds[:-2]  # perhaps before "early", see above
    assert output(records) == b"early\nlate\n"


async def test_a_death_by_signal_names_it(host: ReferenceHost) -> None:
    await host.start(spec("p", "kill -9 $$"))
    exits = [record for record in await log(host, "p") if isinstance(record, Record) and record.kind is Kind.EXITED]
    assert [(record.exit_code, record.signal) for record in exits] == [(137, signal.SIGKILL)]


@pytest.mark.parametrize("seed", range(3))
async def test_lost_connections_lose_no_output_and_double_no_write(
    host: ReferenceHost, proxy: CutProxy, seed: int
) -> None:
    dice = random.Random(seed)
    await host.start(spec("p", "head -n 40; echo done", pipe_stdin=True))
    reading = asyncio.ensure_future(log(host, "p"))
    for number in range(40):
        if dice.random() < 0.2:
            proxy.cut()
        await within(host.write("p", b"line %d\n" % number))
    records = await within(reading)
    assert proxy.cuts > 0
    assert output(records) == b"".join(b"line %d\n" % number for number in range(40)) + b"done\n"
    assert not [record for record in records if isinstance(record, Gap)]


async def test_a_start_that_is_asked_for_twice_starts_once(
    host: ReferenceHost, proxy: CutProxy, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    for _ in range(2):
        await host.start(spec("p", f"echo x >> {marks}; sleep 0.1"))
        proxy.cut()
    await log(host, "p")
    assert marks.read_text() == "x\n"


async def test_states_and_endings_are_told(host: ReferenceHost) -> None:
    status = await host.start(spec("p", "sleep 600"))
    assert status.state is ProcessState.RUNNING
    assert [each.process_id for each in await host.list()] == ["p"]
    assert (await host.terminate("p")).was_running is True
    await log(host, "p")
    ended = await host.status("p")
    assert ended is not None
    assert (ended.state, ended.exit_code) == (ProcessState.CLOSED, 137)
    assert await host.status("nobody") is None
    with pytest.raises(UnknownProcess):
        await log(host, "nobody")


async def test_an_interrupt_arrives(host: ReferenceHost) -> None:
    await host.start(spec("p", "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done"))
    records = host.records("p")
    first = await within(anext(records))
    assert isinstance(first, Record) and first.data == b"ready\n"
    await host.signal("p", signal.SIGINT)
    assert output(await log(host, "p")) == b"ready\ncaught\n"


async def test_what_the_protocol_cannot_do_is_refused_and_not_pretended(host: ReferenceHost, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_text("hello")
    with pytest.raises(StartRefused):
        await host.start(spec("p", "cat", stdin_file=prompt))
    await host.start(spec("q", "sleep 600"))
    with pytest.raises(StdinClosed):
        await host.write("q", b"hello")
    with pytest.raises(Unsupported):
        await host.signal("q", signal.SIGUSR1)
    with pytest.raises(Unsupported):
        await host.close_stdin("q")
    with pytest.raises(StartRefused):
        await host.start(ProcessSpec(process_id="r", argv=["/no/such"], cwd=Path("/"), env={}))
    await host.terminate("q")
