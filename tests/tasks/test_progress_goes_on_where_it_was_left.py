"""Whoever reads progress again from the cursor of any line gets every later line, and no line twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.agents.events import Event, Message, Notice, ToolEnded, ToolStarted, ToolType, TurnStarted, Unrecognized
from holdfast.drivers.one_shot import Cursor
from holdfast.errors import InvalidRequest
from holdfast.tasks import progress
from holdfast.tasks.progress import Position, read_attempt
from holdfast.tasks.state import State

#: What the records of a log say, an event in each.
EVENTS: list[Event] = [
    TurnStarted(turn_id="t"),
    Unrecognized(name="nothing to tell"),
    ToolStarted(item_id="a.b-c/é", tool=ToolType.COMMAND, title="make"),
    Notice(text="one"),
    Notice(text="two"),
    ToolStarted(item_id="2", tool=ToolType.COMMAND, title="test"),
    Unrecognized(name="nothing to tell"),
    ToolEnded(item_id="a.b-c/é", failed=False),
    Message(text="first"),
    ToolEnded(item_id="2", failed=True),
    ToolEnded(item_id="3", failed=False, tool=ToolType.WEB, title="search"),
    Message(text="last"),
]
Take = Callable[[int], None]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Take:
    """Sets how many records make a step: as many as there are when somebody looks."""

    async def follow(host: Any, process_id: str, agent: Any, cursor: Cursor, *, follow: bool) -> AsyncGenerator[Any]:
        for first in range(cursor.seq, len(EVENTS), together):
            events = EVENTS[first : first + together]
            yield SimpleNamespace(events=events, time=100.0, cursor_after=Cursor(seq=first + len(events)))

    together = 1

    def take(number: int) -> None:
        nonlocal together
        together = number

    monkeypatch.setattr(progress, "follow", follow)
    return take


async def read(after: str | None) -> list[tuple[str, str, int, str]]:
    task = cast(Any, SimpleNamespace(created_at=0.0, state=State.RUNNING))
    attempt = cast(Any, SimpleNamespace(process_id="p", number=1))
    nobody = cast(Any, None)
    lines = read_attempt(nobody, nobody, task, attempt, Position.parse(after), follow_on=False)
    return [(line.kind, line.text, line.tool_uses, line.cursor) async for line, _ in lines]


@pytest.mark.parametrize("at_first", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("again_by", [1, 2, 3, 5, 20])
async def test_from_any_line_on_come_the_lines_after_it(take: Take, at_first: int, again_by: int) -> None:
    take(at_first)
    lines = await read(None)
    assert [(kind, text, uses) for kind, text, uses, _ in lines] == [
        ("turn", "turn t", 0),
        ("tool", "make", 1),
        ("notice", "one", 1),
        ("notice", "two", 1),
        ("tool", "test", 2),
        ("message", "first", 2),
        ("tool_failed", "test", 2),
        ("tool", "search", 3),
        ("message", "last", 3),
    ]
    assert len({cursor for *_, cursor in lines}) == len(lines)
    take(again_by)
    for number, (*_, cursor) in enumerate(lines, start=1):
        again = await read(cursor)
        expected = lines[number:]
        assert [line[2] for line in again] == [line[2] for line in expected]
        # The title of a tool that was told of before is not remembered.
        assert [line[:2] if line[0] != "tool_failed" else line[0] for line in again] == [
            line[:2] if line[0] != "tool_failed" else line[0] for line in expected
        ]


@pytest.mark.parametrize("text", ["x", "1", "1.2.3.4.5", "1.2.3.4.5.6.zz", "1.2.3.4.5.6.7.8", "a.2.3.4.5.6.", "."])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a position"):
        Position.parse(text)
