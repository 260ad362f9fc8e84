"""What is asked for reaches the real Codex, and what it does is told."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from holdfast.agents.adapter import Approvals, ReviewKind, ReviewTarget, Sandbox, UnsupportedOption
from holdfast.agents.commands import Decide, Steer
from holdfast.agents.events import (
    ApprovalRequested,
    ApprovalResolved,
    CommandAnswered,
    FilesClaimed,
    Malformed,
    Message,
    ReviewReported,
    ThreadStarted,
    ToolEnded,
    Unrecognized,
    UsageReported,
)
from holdfast.agents.failure import FailureClass
from tests.drivers.app_server.rig import PATIENCE, Rig, Run
from tests.model_server import Fail, Gate, ModelServer, Say, Shell, Tool, WriteFile

pytestmark = pytest.mark.real_agent

ASKING = {"sandbox_permissions": "require_escalated", "justification": "It is needed."}


def understood(done: Run) -> Run:
    """Nothing that was written was beyond us."""
    assert not done.of(Malformed), done.stdout.decode()
    assert not done.of(Unrecognized), done.of(Unrecognized)
    return done


async def test_answers_tools_files_usage_and_failures(rig: Rig, model_server: ModelServer) -> None:
    launch = rig.launch("What is it?")
    async with rig.serving(launch):
        model_server.script(Say("Forty-two.", input_tokens=700, output_tokens=30))
        plain = understood(await rig.run(launch))
        assert plain.answer == "Forty-two."
        (started,) = plain.of(ThreadStarted)
        assert started.model == "gpt-5.5"
        assert model_server.main_requests[0].has_prompt("What is it?")

        model_server.script(
            Shell("exit 3"), WriteFile("made.txt", "x\n"), Say("Done.", input_tokens=5, output_tokens=2)
        )
        again = rig.launch("Go on.", resume=plain.thread_id, sandbox=Sandbox.WORKSPACE_WRITE)
        worked = understood(await rig.run(again))
        assert worked.thread_id == plain.thread_id
        assert worked.answer == "Done."
        ended = {event.tool: event.failed for event in worked.of(ToolEnded)}
        assert {str(tool): failed for tool, failed in ended.items()} == {"command": True, "file_change": False}
        assert [os.path.basename(path) for event in worked.of(FilesClaimed) for path in event.paths] == ["made.txt"]
        assert (rig.workspace / "made.txt").read_text() == "x\n"
        usage = worked.of(UsageReported)[-1]
        # Of this turn alone: two requests of 1000 tokens and one of 5.
        assert (usage.of_thread, usage.usage.input_tokens, usage.usage.output_tokens) == (False, 2005, 22)

        model_server.script(Fail(401, times=10))
        failed = understood(await rig.run(rig.launch()))
        assert failed.failure.failure_class is FailureClass.AUTH


async def test_prompts_arrive_exactly_or_are_refused(rig: Rig, model_server: ModelServer) -> None:
    prompt = "\ufeff --model x\r\n'\"`$(id)`\\ \0 \U0001f600" + "y" * 200_000
    launch = rig.launch(prompt)
    async with rig.serving(launch):
        model_server.script(Say("Read."))
        assert (await rig.run(launch)).answer == "Read."
        assert model_server.main_requests[0].has_prompt(prompt)
        for bad in (b"\xff", b" \n", b"x" * 1_048_577):
            refused = await rig.run(rig.launch(bad))
            assert refused.failure.failure_class is FailureClass.BAD_REQUEST
    assert len(model_server.main_requests) == 1


async def test_schema_fork_name_and_forgetting(rig: Rig, model_server: ModelServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    launch = rig.launch("base", thread_name="The base", output_schema=schema)
    async with rig.serving(launch):
        model_server.script(Say('{"a": 1}'), Say("Forked."), Say("Forked again."))
        base = understood(await rig.run(launch))
        assert base.answer == '{"a": 1}'
        assert model_server.main_requests[0].body["text"]["format"]["schema"] == schema
        forked = understood(await rig.run(rig.launch("more", fork=base.thread_id, ephemeral=True)))
        assert forked.answer == "Forked."
        assert forked.thread_id != base.thread_id
        assert model_server.main_requests[1].has_prompt("base") and model_server.main_requests[1].has_prompt("more")
        for unknown in (forked.thread_id, "last"):
            lost = await rig.run(rig.launch("more", resume=unknown))
            assert lost.failure.failure_class is FailureClass.THREAD_UNKNOWN, lost.failure


async def test_a_review_is_done_by_the_model_that_was_asked_for(rig: Rig, model_server: ModelServer) -> None:
    findings: dict[str, Any] = {
        "findings": [],
        "overall_correctness": "patch is correct",
        "overall_explanation": "Looks right.",
        "overall_confidence_score": 0.9,
    }
    launch = rig.launch(review=ReviewTarget(kind=ReviewKind.UNCOMMITTED), model="gpt-5.4", effort="high")
    async with rig.serving(launch):
        model_server.script(Say(json.dumps(findings)))
        done = understood(await rig.run(launch))
        assert done.answer == "Looks right."
        assert [event.document for event in done.of(ReviewReported)] == [findings]
        assert model_server.journal[0].body["model"] == "gpt-5.4"
        assert model_server.journal[0].body["reasoning"]["effort"] == "high"
        model_server.script(Fail(401, times=10))
        failed = await rig.run(rig.launch(review=ReviewTarget(kind=ReviewKind.UNCOMMITTED)))
        assert failed.failure.failure_class in (FailureClass.AUTH, FailureClass.UNKNOWN), failed.events


async def test_a_person_is_asked_and_answers(rig: Rig, model_server: ModelServer) -> None:
    made = rig.workspace / "made.txt"
    async with rig.serving(rig.launch()):
        for decision in ("accept", "decline", "cancel"):
            made.unlink(missing_ok=True)
            model_server.script(Tool("exec_command", {"cmd": "touch made.txt", **ASKING}), Say("Done."))
            launch = rig.launch(approvals=Approvals.ASK)
            program = rig.start(launch)
            asked = await asyncio.to_thread(program.until, ApprovalRequested)
            assert "touch made.txt" in asked.title and asked.reason == "It is needed."
            if decision == "accept":
                # A question that nobody answered is asked again.
                program.kill()
                program = rig.start(launch)
                assert await asyncio.to_thread(program.until, ApprovalRequested) == asked
            program.tell(Decide(id="1", request_id="another", decision="accept"))
            program.tell(Decide(id="2", request_id=asked.request_id, decision=decision))
            done = understood(await asyncio.to_thread(program.finish))
            assert [event.refusal is None for event in done.of(CommandAnswered)] == [False, True]
            assert [event.decision for event in done.of(ApprovalResolved)] == [decision]
            assert made.exists() == (decision == "accept")
            if decision == "cancel":
                assert done.failure.failure_class is FailureClass.CANCELLED
            else:
                assert done.answer == "Done."


async def test_nobody_is_asked(rig: Rig, model_server: ModelServer) -> None:
    made = rig.workspace / "made.txt"
    async with rig.serving(rig.launch()):
        for policy in (Approvals.ACCEPT, Approvals.DECLINE):
            made.unlink(missing_ok=True)
            model_server.script(Tool("exec_command", {"cmd": "touch made.txt", **ASKING}), Say("Done."))
            done = understood(await rig.run(rig.launch(approvals=policy)))
            assert done.answer == "Done."
            assert not done.of(ApprovalRequested)
            assert made.exists() == (policy is Approvals.ACCEPT)


async def test_a_turn_can_be_steered_once(rig: Rig, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Say("First.", gate=gate), Say("Both."))
    launch = rig.launch()
    async with rig.serving(launch):
        program = rig.start(launch)
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE)
        for _ in range(2):
            program.tell(Steer(id="more", text="And this."))
            assert (await asyncio.to_thread(program.until, CommandAnswered)).refusal is None
        gate.open()
        done = understood(await asyncio.to_thread(program.finish))
    assert done.of(Message)[-1].text == "Both."
    assert [text for text in model_server.main_requests[-1].user_texts if text == "And this."] == ["And this."]


def test_what_codex_cannot_do_is_refused_before_anything_starts(rig: Rig) -> None:
    wishes: list[dict[str, Any]] = [
        {"fork": "01a1fea3-b470-7d93-a232-fed6d3b93bb0", "resume": "01a1fea3-b470-7d93-a232-fed6d3b93bb0"},
        {"review": ReviewTarget(kind=ReviewKind.BASE)},
        {"review": ReviewTarget(kind=ReviewKind.UNCOMMITTED), "output_schema": {}},
        {"work_id": ""},
    ]
    for options in wishes:
        with pytest.raises(UnsupportedOption):
            rig.launch(**options)
            pytest.fail(f"{options} was accepted")
