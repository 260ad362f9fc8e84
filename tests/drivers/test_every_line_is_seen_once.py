"""Whatever the chunks and wherever a reader starts again: the same lines, each once, and every byte counted once."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.agents.events import Message
from holdfast.drivers.one_shot import Cursor, Step, follow
from tests.drivers.recorded import Parrot, RecordedHost, log

#: Chunks of output, small and with many line feeds, so that lines straddle chunks in every way.
CHUNKS = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stdout", "stdout", "stderr", "signal"]),
        st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r\n", b"\xff", b"word", b""]), max_size=6).map(b"".join),
    ),
    max_size=14,
)


def expected_lines(stdout: bytes) -> list[str]:
    """The oracle: the stream as a whole, cut at line feeds; what follows the last one is a line if it is not empty."""
    lines = stdout.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [line.removesuffix(b"\r").decode("latin-1") for line in lines]


@given(
    chunks=CHUNKS,
    late=CHUNKS,
    pauses=st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=30),
    stops=st.lists(st.integers(1, 3), max_size=30),
)
async def test_any_chunks_and_any_restarts_give_the_same_events(
    chunks: list[tuple[str, bytes]], late: list[tuple[str, bytes]], pauses: list[set[int]], stops: list[int]
) -> None:
    entries = log(*chunks, ("exited", 0), *late, "closed")
    steps: list[Step] = []
    cursor = Cursor()
    for number in range(len(entries) + 2):
        host = RecordedHost(entries, pauses[number % len(pauses)])
        stop_after = stops[number] if number < len(stops) else None
        taken = 0
        async with contextlib.aclosing(follow(host, "p", Parrot(), cursor)) as stream:
            async for step in stream:
                steps.append(step)
                cursor = step.cursor_after
                taken += 1
                if taken == stop_after:
                    break
        assert host.readers == 0
        if steps[-1].closed:
            break
    everything = [*chunks, *late]
    assert [event.text for step in steps for event in step.events if isinstance(event, Message)] == expected_lines(
        b"".join(data for kind, data in everything if kind == "stdout")
    )
    for kind, sizes in (("stdout", "stdout_bytes"), ("stderr", "stderr_bytes")):
        assert sum(getattr(step, sizes) for step in steps) == sum(
            len(data) for name, data in everything if name == kind
        )
    assert [step.exited.exit_code for step in steps if step.exited] == [0]
    assert [step.closed for step in steps].count(True) == 1
    assert cursor == Cursor(seq=len(entries), skip=0, seen=len(entries))


@given(
    chunks=CHUNKS.filter(bool),
    pauses=st.sets(st.integers(0, 14)),
)
async def test_a_cursor_never_moves_back_and_never_skips_a_byte(
    chunks: list[tuple[str, bytes]], pauses: set[int]
) -> None:
    entries = log(*chunks, ("exited", 0), "closed")
    before = Cursor()
    async with contextlib.aclosing(follow(RecordedHost(entries, pauses), "p", Parrot(), before)) as stream:
        async for step in stream:
            after = step.cursor_after
            assert (after.seq, after.skip) >= (before.seq, before.skip)
            assert after.seen > before.seen
            assert after.seen >= after.seq
            before = after


async def test_a_reader_that_comes_after_the_end_has_nothing_to_do() -> None:
    entries = log(("stdout", b"a\n"), ("exited", 0), "closed")
    cursor = Cursor(seq=3, seen=3)
    assert [step async for step in follow(RecordedHost(entries), "p", Parrot(), cursor)] == []
