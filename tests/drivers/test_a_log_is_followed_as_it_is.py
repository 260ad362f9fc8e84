"""Gaps, long lines, plain text, late output and lost hosts are reported as what they are."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from pathlib import Path

import pytest

from holdfast.agents.events import Malformed, Message
from holdfast.agents.neutral import interpret
from holdfast.drivers import intake, lines
from holdfast.drivers.one_shot import Cursor, Exit, OutputGone, Step, follow, tail, whole_stdout
from holdfast.host.dummy import DummyHost
from holdfast.host.port import Gap, HostUnavailable, Kind, ProcessSpec, UnknownProcess
from tests.drivers.recorded import Parrot, RecordedHost, log


async def steps_of(*entries: object, agent: Parrot | None = None, cursor: Cursor | None = None) -> list[Step]:
    host = RecordedHost(log(*entries))  # type: ignore[arg-type]
    return [step async for step in follow(host, "p", agent or Parrot(), cursor or Cursor())]


def texts(steps: list[Step]) -> list[str]:
    return [event.text for step in steps for event in step.events if isinstance(event, Message)]


async def test_a_gap_is_reported_and_breaks_the_line_it_falls_into() -> None:
    steps = await steps_of(("stdout", b"whole\nhalf"), ("gap", 5), ("stdout", b"rest\nnext\n"), ("exited", 0), "closed")
    assert [gap for step in steps for gap in step.gaps] == [Gap(first=2, last=6)]
    assert texts(steps) == ["whole", "half", "rest", "next"]
    assert steps[-1].cursor_after == Cursor(seq=9, seen=9)


async def test_output_after_the_exit_is_kept() -> None:
    steps = await steps_of(("exited", 0), ("stdout", b"late\n"), "closed")
    assert texts(steps) == ["late"]


async def test_a_lost_host_is_no_exit() -> None:
    steps = await steps_of(("stdout", b"a\n"), ("exited", None), "closed")
    assert [step.exited for step in steps if step.exited] == [Exit(exit_code=None, signal=None, lost=True)]


async def test_plain_text_is_not_interpreted_but_counted() -> None:
    steps = await steps_of(
        ("stdout", b"an ans"), ("stdout", b"wer"), ("exited", 0), "closed", agent=Parrot(plain_text=True)
    )
    assert texts(steps) == []
    assert sum(step.stdout_bytes for step in steps) == 9
    assert steps[-1].cursor_after == Cursor(seq=4, seen=4)


async def test_a_line_of_ten_mebibytes_is_one_line() -> None:
    chunk = b"x" * 65536
    steps = await steps_of(*[("stdout", chunk)] * 160, ("stdout", b"\nend\n"), ("exited", 0), "closed")
    assert [len(text) for text in texts(steps)] == [160 * 65536, 3]


async def test_a_line_beyond_the_bound_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1024 * 1024)
    chunk = b"y" * 65536
    tracemalloc.start()
    try:
        steps = await steps_of(*[("stdout", chunk)] * 1024, ("stdout", b"\nend\n"), ("exited", 0), "closed")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    malformed = [event for step in steps for event in step.events if isinstance(event, Malformed)]
    assert len(malformed) == 1
    assert malformed[0].excerpt.startswith("yyyy")
    assert "67108864 bytes" in malformed[0].excerpt
    assert texts(steps) == ["end"]


async def test_a_step_is_bounded_and_a_slow_reader_holds_the_host_back() -> None:
    count = 20 * intake.MOST_RECORDS
    host = RecordedHost(log(*[("stdout", b"a\n")] * count, ("exited", 0), "closed"))
    async with contextlib.aclosing(follow(host, "p", Parrot(), Cursor())) as stream:
        sizes = [len(step.events) async for step in stream]
    assert sum(sizes) == count
    assert max(sizes) <= intake.MOST_RECORDS


async def test_events_arrive_while_the_agent_still_works() -> None:
    host = DummyHost()
    await host.start(ProcessSpec(process_id="p", argv=["x"], cwd=Path("/"), env={}))
    process = host.processes["p"]
    async with contextlib.aclosing(follow(host, "p", Parrot(), Cursor())) as stream:
        process.emit("stdout", b"first\nsec")
        async with asyncio.timeout(60):
            assert texts([await anext(stream)]) == ["first"]
            process.emit("stdout", b"ond\n")
            assert texts([await anext(stream)]) == ["second"]
            process.finish(0)
            rest = [step async for step in stream]
    assert rest[-1].closed


async def test_an_unreachable_host_is_an_error_after_what_it_had_said() -> None:
    class Failing(RecordedHost):
        async def records(self, process_id, *, after_seq=0, follow=True):
            async for record in super().records(process_id, after_seq=after_seq, follow=follow):
                if isinstance(record, Gap) or record.seq == 3:
                    raise HostUnavailable("gone")
                yield record

    host = Failing(log(("stdout", b"a\n"), ("stdout", b"b\nc"), ("stdout", b"d\n"), ("exited", 0), "closed"))
    seen: list[Step] = []
    with pytest.raises(HostUnavailable):
        async for step in follow(host, "p", Parrot(), Cursor()):
            seen.append(step)
    assert texts(seen) == ["a", "b"]
    assert seen[-1].cursor_after == Cursor(seq=1, skip=2, seen=2)
    rest = [step async for step in follow(RecordedHost(host.entries), "p", Parrot(), seen[-1].cursor_after)]
    assert texts(rest) == ["cd"]


async def test_an_unknown_process_is_an_error() -> None:
    with pytest.raises(UnknownProcess):
        async for _ in follow(DummyHost(), "p", Parrot(), Cursor()):
            pass
    with pytest.raises(UnknownProcess):
        await tail(DummyHost(), "p", Kind.STDERR, 10)


async def test_looking_without_following_stops_at_the_present_end() -> None:
    host = RecordedHost(log(("stdout", b"a\nb")))
    steps = [step async for step in follow(host, "p", Parrot(), Cursor(), follow=False)]
    assert texts(steps) == ["a"]
    assert steps[-1].cursor_after == Cursor(seq=0, skip=2, seen=1)


@pytest.mark.parametrize("size", [0, 1, 7, 100, 5000, 10**6])
async def test_the_tail_of_a_stream_is_its_last_bytes(size: int) -> None:
    pieces = [(("stdout" if number % 3 else "stderr"), f"{number} ".encode()) for number in range(3000)]
    host = RecordedHost(log(*pieces, ("exited", 0), "closed"))
    whole = b"".join(data for kind, data in pieces if kind == "stderr")
    assert await tail(host, "p", Kind.STDERR, size) == (whole[-size:] if size else b"")


async def test_the_tail_has_no_hole() -> None:
    host = RecordedHost(log(("stderr", b"before"), ("gap", 3), ("stderr", b"after"), ("exited", 0), "closed"))
    assert await tail(host, "p", Kind.STDERR, 100) == b"after"


async def test_the_whole_output_is_whole_or_an_error() -> None:
    host = RecordedHost(log(("stdout", b"a"), ("stderr", b"-"), ("stdout", b"b"), ("exited", 0), "closed"))
    assert [chunk async for chunk in whole_stdout(host, "p")] == [b"a", b"b"]
    broken = RecordedHost(log(("stdout", b"a"), ("gap", 1), ("stdout", b"b"), ("exited", 0), "closed"))
    with pytest.raises(OutputGone):
        [chunk async for chunk in whole_stdout(broken, "p")]
    assert broken.readers == 0


def test_the_neutral_dialect_reads_a_line_with_carriage_return() -> None:
    cutter = lines.LineCutter()
    found = list(cutter.feed(1, b'{"event":"message","text":"a"}\r\n'))
    assert [interpret(line) for line in found if isinstance(line, bytes)] == [[Message(text="a")]]
