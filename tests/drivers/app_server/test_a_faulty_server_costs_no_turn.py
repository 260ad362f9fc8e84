"""However the server misbehaves, every turn has one truthful end, and none is begun twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from holdfast.agents.commands import Interrupt
from holdfast.agents.events import CommandAnswered, Malformed, Notice, TurnCompleted, Unrecognized, Waiting
from holdfast.agents.failure import FailureClass
from holdfast.drivers.app_server import agent
from tests.drivers.app_server.conftest import begun
from tests.drivers.app_server.rig import Rig

Make = Callable[[str], Rig]

#: Faults that a turn survives.
SURVIVED = [
    "none",
    "stops reading after a turn",
    "exits 0 after a turn",
    "exits 1 when asked to begin",
    "drops the connection in the middle",
    "falls silent on the connection",
]
#: Faults that end the turn with the server.
FATAL = ["exits 0 after it accepted", "is killed after it accepted"]


@pytest.mark.parametrize("fault", SURVIVED)
async def test_six_turns_in_sequence_all_come_to_their_answers(fake: Make, fault: str) -> None:
    rig = fake(fault)
    launches = [rig.launch(f"number {number}") for number in range(6)]
    deaf = {"probe_every": 0.2, "probe_within": 2.0} if fault == "stops reading after a turn" else {}
    async with rig.serving(launches[0], most_starts=100, **deaf):
        for number, launch in enumerate(launches):
            done = await rig.run(launch)
            assert done.answer == f"You said: number {number}", done.stderr
            assert not done.of(Malformed)
    assert begun(rig) == [f"work-{number}" for number in range(1, 7)]


@pytest.mark.parametrize("fault", FATAL)
async def test_a_turn_that_dies_with_its_server_is_a_crash_and_is_not_begun_again(fake: Make, fault: str) -> None:
    rig = fake(fault)
    launches = [rig.launch(f"number {number}") for number in range(3)]
    async with rig.serving(launches[0], most_starts=100):
        for launch in launches:
            done = await rig.run(launch)
            assert done.exit_code == 0, done.stderr
            assert done.failure.failure_class is FailureClass.BACKEND_CRASH
            assert done.thread_id in done.failure.message
    assert begun(rig) == [f"work-{number}" for number in range(1, 4)]


async def test_what_is_said_twice_or_not_understood_changes_nothing(fake: Make) -> None:
    rig = fake("says everything twice, and more")
    launch = rig.launch("hello")
    async with rig.serving(launch):
        done = await rig.run(launch)
    assert done.answer == "You said: hello"
    assert len(done.of(TurnCompleted)) == 1
    assert {event.name for event in done.of(Unrecognized)} == {"thread/horoscope/updated"}
    assert any("item/tarot/draw" in event.text for event in done.of(Notice))


async def test_a_server_that_says_nothing_for_long_is_alive_if_it_answers_anything(fake: Make) -> None:
    rig = fake("is old, and thinks for long")
    done = await rig.run(rig.launch("hello"))
    assert done.answer == "You said: hello", done.stderr
    assert done.stderr == ""


async def test_the_last_message_is_the_answer_even_if_it_is_not_the_last_word(fake: Make) -> None:
    rig = fake("goes on talking")
    launch = rig.launch("hello")
    async with rig.serving(launch):
        done = await rig.run(launch)
    assert done.answer == "You said: hello"


async def test_a_turn_that_only_waits_can_be_interrupted(fake: Make) -> None:
    rig = fake("retries for ever")
    launch = rig.launch("hello")
    async with rig.serving(launch):
        program = rig.start(launch)
        await asyncio.to_thread(program.until, Waiting)
        program.tell(Interrupt(id="enough"))
        done = await asyncio.to_thread(program.finish)
    assert done.failure.failure_class is FailureClass.CANCELLED
    assert [event.refusal for event in done.of(CommandAnswered)] == [None]


async def test_without_a_server_it_is_said_that_nothing_was_begun(fake: Make) -> None:
    rig = fake("none")
    rig.agent.patience = 0.3
    done = await rig.run(rig.launch("hello"))
    assert done.exit_code == 75
    assert "Nothing was begun" in done.stderr
    (failed,) = rig.agent.diagnose(stderr_tail=done.stderr, exit_code=75)
    assert failed.failure.failure_class is FailureClass.BACKEND_CRASH  # type: ignore[union-attr]


async def test_a_program_of_another_version_than_who_asked_for_it_begins_nothing(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = fake("none")
    monkeypatch.setattr(agent, "__version__", "0.0.older")
    launch = rig.launch()
    async with rig.serving(launch):
        done = await rig.run(launch)
    assert done.failure.failure_class is FailureClass.INTERNAL
    assert "the daemon of 0.0.older ran" in done.failure.message
    assert "holdfast down" in done.failure.message
    assert begun(rig) == []


async def test_a_codex_without_sockets_is_talked_to_over_pipes(fake: Make) -> None:
    rig = fake("is too old for sockets")
    launch = rig.launch("hello")
    assert launch.server is None
    done = await rig.run(launch)
    assert done.answer == "You said: hello"
    again = await rig.run(launch)
    assert again.answer == "You said: hello"
    assert begun(rig) == ["work-1"]
