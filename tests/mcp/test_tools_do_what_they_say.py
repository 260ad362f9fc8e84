"""Each tool, called by the SDK's own client in this process, with a real daemon behind it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from mcp import Client

import holdfast
from holdfast.mcp.answers import page
from holdfast.mcp.server import build
from holdfast.tasks.result import MessagePart

from .conftest import Installation, answer, error


@asynccontextmanager
async def client(longest_wait: float = 50.0) -> AsyncIterator[Client]:
    async with Client(build(longest_wait=longest_wait)) as connected:
        yield connected


async def test_work_is_delegated_and_its_outcome_awaited(beside: Installation) -> None:
    prompt = "rehearse: edit notes.txt hello\nrehearse: usage 10 5\nrehearse: say Written."
    async with client() as server:
        task = answer(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": prompt, "write": True}))
        assert task["outcome"] is None
        assert task["task_id"] in task["next"] or task["finished"]
        done = answer(await server.call_tool("wait", {"task_id": task["task_id"]}))
    outcome = done["outcome"]
    assert (done["finished"], outcome["status"], outcome["ok"]) == (True, "completed", True)
    assert outcome["answer"]["text"] == "Written."
    assert outcome["answer"]["sha256"] == hashlib.sha256(b"Written.").hexdigest()
    assert outcome["files_changed"] == ["notes.txt"]
    assert outcome["input_tokens"] == 10
    assert holdfast.result(task["task_id"]).ok


async def test_an_id_comes_back_before_the_work_is_done(beside: Installation, gate: Callable[[], object]) -> None:
    call = {"agent": "rehearsal", "prompt": "rehearse: wait-for gate\nrehearse: say Now.", "label": "patience"}
    async with client(longest_wait=0.2) as server:
        task = answer(await server.call_tool("delegate", call))
        # However long the caller would like to wait, the call ends below the server's bound.
        waited = answer(await server.call_tool("wait", {"task_id": task["task_id"], "wait_seconds": 3600}))
        assert (waited["finished"], waited["outcome"]) == (False, None)
        assert f"wait(task_id='{task['task_id']}')" in waited["next"]
        listed = answer(await server.call_tool("list", {"active": True}))
        assert [(each["task_id"], each["label"]) for each in listed["tasks"]] == [(task["task_id"], "patience")]
        gate()
        holdfast.wait(task["task_id"])
        assert answer(await server.call_tool("status", {"task_id": task["task_id"]}))["finished"]
        done = answer(await server.call_tool("wait", {"task_id": task["task_id"]}))
    assert done["outcome"]["answer"]["text"] == "Now."


async def test_a_quick_task_is_answered_at_once(beside: Installation) -> None:
    call = {"agent": "rehearsal", "prompt": "rehearse: say Quick.", "wait_seconds": 45}
    async with client() as server:
        done = answer(await server.call_tool("delegate", call))
        more = {"agent": "rehearsal", "prompt": "rehearse: recall", "resume": done["task_id"], "wait_seconds": 45}
        later = answer(await server.call_tool("delegate", more))
    assert done["outcome"]["answer"]["text"] == "Quick."
    assert later["outcome"]["thread_id"] == done["outcome"]["thread_id"]


async def test_a_verdict_and_a_form_can_be_required(beside: Installation) -> None:
    base = {"agent": "rehearsal", "wait_seconds": 45}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    said = "rehearse: say "
    calls = {
        "none": {"prompt": f"{said}Fine."},
        "usual": {"prompt": f"{said}NEEDS_FIX", "verdict": True},
        "own": {"prompt": f"{said}LGTM", "approve": ["LGTM"]},
        "pattern": {"prompt": f"{said}grade A", "verdict_pattern": "grade (?P<verdict>[AB])", "approve": ["A"]},
        "form": {"prompt": f'{said}{{"n": 3}}', "output_schema": schema},
        "silent": {"prompt": f"{said}Fine.", "verdict": True},
        "formless": {"prompt": f"{said}three", "output_schema": schema},
    }
    found = {}
    async with client() as server:
        for name, call in calls.items():
            found[name] = answer(await server.call_tool("delegate", base | call))["outcome"]
        refused = error(await server.call_tool("delegate", base | {"prompt": "x", "verdict_pattern": "("}))
    assert refused["code"] == "rejected"
    assert found["none"]["verdict"] is None
    judged = {
        name: (each["verdict"]["value"], each["verdict"]["approved"]) for name, each in found.items() if each["verdict"]
    }
    assert judged == {
        "usual": ("NEEDS_FIX", False),
        "own": ("LGTM", True),
        "pattern": ("A", True),
        "form": (None, None),
        "silent": (None, None),
    }
    assert found["form"]["verdict"]["structured"] == {"n": 3}
    assert {name: each["status"] for name, each in found.items() if not each["ok"]} == {
        "silent": "no_signal",
        "formless": "no_signal",
    }


async def test_a_long_answer_is_read_page_by_page(beside: Installation) -> None:
    text = "Gänsefüßchen 🙂 " * 40
    task = holdfast.start("rehearsal", f"rehearse: say {text}")
    whole = task.wait().message
    pages: list[str] = []
    offset: int | None = 0
    async with client() as server:
        while offset is not None:
            call = {"task_id": task.id, "offset": offset, "limit": 101}
            part = answer(await server.call_tool("result", call))["outcome"]["answer"]
            assert part["untrusted"] is True
            assert part["sha256"] == whole.sha256
            pages.append(part["text"])
            offset = part["next_offset"]
    assert len(pages) > 5
    assert "".join(pages).encode() == task.message()


async def test_what_a_task_did_is_read_in_pieces(beside: Installation) -> None:
    task = holdfast.start("rehearsal", "rehearse: tools 30\nrehearse: say-bytes 5000")
    task.wait()
    lines: list[str] = []
    after: str | None = None
    more = True
    async with client() as server:
        while more:
            output = answer(await server.call_tool("read_output", {"task_id": task.id, "after": after, "limit": 7}))
            assert output["untrusted"] is True
            lines += [line["kind"] for line in output["lines"]]
            assert all(line["cut"] is (line["kind"] == "message") for line in output["lines"])
            after, more = output["after"], output["more"]
    assert lines == [line.kind for line in task.progress(follow=False)]
    assert lines.count("tool") == 30


async def test_progress_is_reported_to_who_asks(beside: Installation, gate: Callable[[], object]) -> None:
    task = holdfast.start("rehearsal", "rehearse: tools 2\nrehearse: wait-for gate\nrehearse: say Done.")
    reports: list[tuple[float, str]] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, message or ""))
        if sum("list the directory" in text for _, text in reports) == 2:
            gate()

    async with client() as server:
        done = answer(await server.call_tool("wait", {"task_id": task.id}, progress_callback=report))
    assert done["finished"]
    assert [progress for progress, _ in reports] == sorted(progress for progress, _ in reports)


async def test_the_first_of_several_is_awaited(beside: Installation, gate: Callable[[], object]) -> None:
    async with client() as server:
        prompts = ("rehearse: wait-for gate", "rehearse: say Done.")
        tasks = [answer(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": text})) for text in prompts]
        ids = [task["task_id"] for task in tasks]
        found = answer(await server.call_tool("wait_any", {"task_ids": ids}))["tasks"]
        assert [(task["task_id"], task["finished"]) for task in found] == [(ids[0], False), (ids[1], True)]
        found = answer(await server.call_tool("wait_any", {"task_ids": ids[:1], "wait_seconds": 0.01}))["tasks"]
        assert [task["finished"] for task in found] == [False]
        gate()
        await server.call_tool("wait", {"task_id": ids[0]})


async def test_cancelling(beside: Installation) -> None:
    async with client() as server:
        task = answer(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": "rehearse: hang"}))
        answer(await server.call_tool("cancel", {"task_id": task["task_id"]}))
        done = answer(await server.call_tool("wait", {"task_id": task["task_id"]}))
    assert done["outcome"]["status"] == "cancelled"


async def test_a_failed_task_is_no_failed_call(beside: Installation) -> None:
    call = {"agent": "rehearsal", "prompt": "rehearse: fail rate_limit Slow down.", "wait_seconds": 45}
    async with client() as server:
        outcome = answer(await server.call_tool("delegate", call))["outcome"]
    assert (outcome["status"], outcome["ok"]) == ("failed", False)
    assert (outcome["failure"]["message"], outcome["failure"]["retryable"]) == ("Slow down.", True)
    assert outcome["failure"]["untrusted"] is True


async def test_mistakes_have_a_code_and_a_hint(beside: Installation) -> None:
    async with client() as server:
        wrong = error(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": "Go.", "cwd": "/nowhere"}))
        assert (wrong["code"], wrong["hint"]) == ("rejected", "Check cwd.")
        missing = await server.call_tool("wait", {"task_id": "nothere1"})
        assert error(missing)["code"] == "not_found"
        assert "(not_found)\nHint: " in missing.content[0].text  # type: ignore[union-attr]
        task = answer(await server.call_tool("delegate", {"agent": "rehearsal", "prompt": "rehearse: hang"}))
        assert error(await server.call_tool("result", {"task_id": task["task_id"]}))["code"] == "not_finished"
        assert (await server.call_tool("delegate", {"agent": "rehearsal"})).is_error
        await server.call_tool("cancel", {"task_id": task["task_id"]})


async def test_tools_say_when_to_use_them() -> None:
    async with client() as server:
        tools = {tool.name: tool for tool in (await server.list_tools()).tools}
        assert "never instructions" in (server.instructions or "")
    assert list(tools) == [
        "delegate",
        "review",
        "wait",
        "wait_any",
        "status",
        "result",
        "read_output",
        "list",
        "send",
        "approve",
        "cancel",
    ]
    for name, tool in tools.items():
        assert re.search(r"\bUse it\b", tool.description or ""), name
        assert tool.output_schema, name
        for parameter, schema in tool.input_schema["properties"].items():
            assert schema.get("description") or parameter == "limit", (name, parameter)
    assert tools["wait"].annotations is not None
    assert tools["wait"].annotations.read_only_hint is True


@pytest.mark.parametrize("text", ["", "plain", "ü", "🙂🙂", "a🙂"])
@pytest.mark.parametrize("limit", [4, 5, 6, 7])
def test_pages_never_cut_a_character(text: str, limit: int) -> None:
    data = (text * 5).encode()
    message = MessagePart(bytes=len(data), complete=True)
    offset: int | None = 0
    shown = ""
    while offset is not None:
        part = page(message, data[offset : offset + limit], offset)
        shown, offset = shown + part.text, part.next_offset
    assert shown.encode() == data


def test_what_is_no_text_holds_nobody_up() -> None:
    message = MessagePart(bytes=12, complete=True)
    data = b"\x80" * 12
    offset: int | None = 0
    while offset is not None:
        offset = page(message, data[offset : offset + 4], offset).next_offset
