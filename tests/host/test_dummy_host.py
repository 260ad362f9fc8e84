"""The host of other floors' tests behaves as the port promises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.host.dummy import DummyHost, DummyProcess
from holdfast.host.port import (
    Gap,
    HostUnavailable,
    Kind,
    ProcessSpec,
    ProcessState,
    Record,
    StartRefused,
    StdinClosed,
    UnknownProcess,
)

from .harness import within

SPEC = ProcessSpec(process_id="p", argv=["agent"], cwd=Path("/"), env={}, pipe_stdin=True)


async def test_records_follow_what_is_emitted() -> None:
    def script(process: DummyProcess) -> None:
        process.emit("stdout", b"one")

    host = DummyHost(script)
    assert (await host.start(SPEC)).state is ProcessState.RUNNING
    assert (await host.start(SPEC)).pid == host.processes["p"].pid

    async def read() -> list[Record | Gap]:
        return [record async for record in host.records("p")]

    reading = asyncio.ensure_future(read())
    process = host.processes["p"]
    process.emit(Kind.STDERR, b"two")
    await asyncio.sleep(0)
    process.gap(3)
    process.finish(7, close=False)
    assert process.status().state is ProcessState.EXITED
    process.emit("stdout", b"late")
    process.close()
    records = await within(reading)
    kinds = [record.kind if isinstance(record, Record) else "gap" for record in records]
    assert kinds == ["stdout", "stderr", "gap", "exited", "stdout", "closed"]
    assert [record.seq for record in records if isinstance(record, Record)] == [1, 2, 6, 7, 8]
    tail = [record async for record in host.records("p", after_seq=4, follow=False)]
    assert tail[0] == Gap(first=5, last=5)
    status = await host.status("p")
    assert status is not None
    assert (status.state, status.exit_code, status.last_seq) == (ProcessState.CLOSED, 7, 8)


async def test_input_signals_and_endings_are_kept_for_the_test() -> None:
    host = DummyHost()
    await host.start(SPEC)
    await host.write("p", b"hello ")
    await host.write("p", b"world")
    await host.signal("p", 2)
    await host.close_stdin("p")
    with pytest.raises(StdinClosed):
        await host.write("p", b"x")
    outcome = await host.terminate("p", grace=1)
    assert outcome.was_running
    assert [member.command for member in outcome.ended] == ["agent"]
    process = host.processes["p"]
    assert (process.stdin, process.stdin_closed, process.signals) == (b"hello world", True, [2])
    assert process.exit is not None
    assert process.exit.signal == 15
    assert await host.members("p") == []


async def test_failures_can_be_scripted() -> None:
    host = DummyHost()
    host.refuse = "no such program"
    with pytest.raises(StartRefused):
        await host.start(SPEC)
    with pytest.raises(UnknownProcess):
        await host.write("p", b"")
    assert await host.status("p") is None
    assert not (await host.terminate("p")).was_running
    host.unavailable = True
    with pytest.raises(HostUnavailable):
        await host.list()
