"""What the real Codex sets to work is told of, asks only us, and ends with our turn."""

from __future__ import annotations

import asyncio
import json
import os
import time

import psutil
import pytest

from holdfast.agents.adapter import Approvals, Launch, Sandbox
from holdfast.agents.commands import Decide
from holdfast.agents.events import (
    ApprovalRequested,
    ApprovalResolved,
    Malformed,
    Message,
    Notice,
    SubagentReported,
    SubagentStep,
    ToolEnded,
    ToolStarted,
    ToolType,
    Unrecognized,
    UsageReported,
)
from holdfast.agents.failure import FailureClass
from holdfast.clock import monotonic
from holdfast.drivers.app_server import calls
from tests.drivers.app_server.rig import PATIENCE, Rig, Run
from tests.model_server import Decide as Choose
from tests.model_server import Gate, ModelServer, Say, Shell, Tool
from tests.model_server.script import Step

pytestmark = pytest.mark.real_agent

GROUP = "multi_agent_v1"
ASKING = {"cmd": "touch made.txt", "sandbox_permissions": "require_escalated", "justification": "It is needed."}


def play(model_server: ModelServer, child: Step, *, leaves: bool = False) -> None:
    """The agent sets another to work, which takes the step *child*, and waits for it, or *leaves* it."""

    def choose(results: list[str]) -> Step:
        if not results:
            return child
        if "agent_id" not in results[0]:
            return Say("It is made.")
        if leaves or len(results) > 1:
            return Say("Both are done.")
        agent: str = json.loads(results[0])["agent_id"]
        return Tool("wait_agent", {"targets": [agent], "timeout_ms": 60_000}, namespace=GROUP)

    spawn = Tool("spawn_agent", {"message": "Make it.", "agent_type": "worker"}, namespace=GROUP)
    model_server.script(spawn, *[Choose(choose)] * 6)


def socket(launch: Launch) -> str:
    assert launch.server is not None
    return launch.server.socket


def steps(run: Run) -> list[SubagentStep]:
    return [event.step for event in run.of(SubagentReported)]


async def test_it_is_told_of_and_asks_nobody_else(rig: Rig, model_server: ModelServer) -> None:
    gate = Gate()
    others, launch = rig.launch("Other.", approvals=Approvals.ACCEPT), rig.launch(approvals=Approvals.ASK)
    async with rig.serving(launch):
        model_server.script(Say("Something else.", gate=gate))
        other = rig.start(others)
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE)
        play(model_server, Tool("exec_command", ASKING))
        program = rig.start(launch)
        asked = await asyncio.to_thread(program.until, ApprovalRequested)
        assert asked.title.startswith("Subagent ") and "touch made.txt" in asked.title
        program.tell(Decide(id="1", request_id=asked.request_id, decision="accept"))
        done = await asyncio.to_thread(program.finish)
        gate.open()
        neighbour = await asyncio.to_thread(other.finish)
    assert not done.of(Malformed) and not done.of(Unrecognized)
    # 0.142.2 also puts the end of the subagent before the model as a message; when that comes after the last
    # request, it makes one more, and the model says the same again.
    last = len(model_server.main_requests) - 5
    assert last in (1, 2)
    assert done.answer == "Both are done."
    assert [event.text for event in done.of(Message)] == ["Both are done."] * last
    assert [event.decision for event in done.of(ApprovalResolved)] == ["accept"]
    assert steps(done) == [SubagentStep.STARTED, SubagentStep.MESSAGE, SubagentStep.ENDED]
    started, said, ended = done.of(SubagentReported)
    assert (started.text, said.text, ended.text) == ("spawnAgent", "It is made.", "completed")
    assert len({event.label for event in (started, said, ended)}) == 1
    assert started.thread_id != done.thread_id and started.label not in ("", started.thread_id)
    (command,) = [event for event in done.of(ToolStarted) if event.tool is ToolType.COMMAND]
    assert command.title.startswith(f"Subagent {started.label}: ") and "touch made.txt" in command.title
    assert command.item_id in {event.item_id for event in done.of(ToolEnded)}
    # Of both: at least three requests of the one and two of the other.
    assert done.of(UsageReported)[-1].usage.input_tokens == 4000 + 1000 * last
    # Its neighbour hears everything, takes nothing of it for its own, and does not answer for it.
    assert neighbour.answer == "Something else."
    assert not neighbour.of(SubagentReported) and not neighbour.of(Notice) and not neighbour.of(ToolStarted)
    assert neighbour.of(UsageReported)[-1].usage.input_tokens == 1000


async def test_it_is_attached_to_again(rig: Rig, model_server: ModelServer) -> None:
    launch = rig.launch(approvals=Approvals.ASK)
    async with rig.serving(launch):
        play(model_server, Tool("exec_command", ASKING))
        program = rig.start(launch)
        asked = await asyncio.to_thread(program.until, ApprovalRequested)
        program.kill()
        program = rig.start(launch)
        again = await asyncio.to_thread(program.until, ApprovalRequested)
        assert again == asked
        program.tell(Decide(id="1", request_id=again.request_id, decision="decline"))
        done = await asyncio.to_thread(program.finish)
    assert done.answer == "Both are done."
    assert steps(done) == [SubagentStep.MESSAGE, SubagentStep.ENDED]
    assert not (rig.workspace / "made.txt").exists()


@pytest.mark.parametrize("killed", [False, True], ids=["told", "killed"])
async def test_it_ends_with_a_cancelled_turn(rig: Rig, model_server: ModelServer, killed: bool) -> None:
    pipe = str(rig.directory / "pipe")
    os.mkfifo(pipe)
    launch = rig.launch(sandbox=Sandbox.WORKSPACE_WRITE)
    async with rig.serving(launch):
        play(model_server, Shell(f"cat {pipe}; touch made.txt"))
        program = rig.start(launch)
        await asyncio.to_thread(program.until, ToolStarted, lambda event: pipe in event.title)
        if killed:
            program.kill()
            assert await asyncio.to_thread(rig.agent.end, launch, None) is None
        else:
            program.process.terminate()
            done = await asyncio.to_thread(program.finish)
            assert done.failure.failure_class is FailureClass.CANCELLED
            assert not done.of(Message)
        assert not await asyncio.to_thread(calls.is_busy, socket(launch))
        await asyncio.to_thread(gone, pipe)
    assert not (rig.workspace / "made.txt").exists()


async def test_it_ends_with_a_turn_that_left_it_at_work(rig: Rig, model_server: ModelServer) -> None:
    pipe = str(rig.directory / "pipe")
    os.mkfifo(pipe)
    launch = rig.launch(sandbox=Sandbox.WORKSPACE_WRITE)
    async with rig.serving(launch):
        play(model_server, Shell(f"cat {pipe}; touch made.txt"), leaves=True)
        done = await rig.run(launch)
        assert not await asyncio.to_thread(calls.is_busy, socket(launch))
        await asyncio.to_thread(gone, pipe)
    assert done.answer == "Both are done."
    label = done.of(SubagentReported)[0].label
    assert [event.text for event in done.of(Notice)] == [
        f"Still at work when the turn ended, and stopped: sub-agents {label}"
    ]
    assert not (rig.workspace / "made.txt").exists()


def gone(pipe: str) -> None:
    """Wait until no command reads from *pipe* any more; Codex says that a turn is over before it has ended them."""
    deadline = monotonic() + 20
    while any(pipe in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        assert monotonic() < deadline
        time.sleep(0.1)
