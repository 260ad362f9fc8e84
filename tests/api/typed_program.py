"""A program as a type checker sees it; never run.  A comment that ignores an error demands that there is one."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import holdfast
from holdfast import aio


def blocking() -> None:
    result = holdfast.run("codex", "Explain.", cwd=Path.cwd(), write=False, timeout=None, model="m", resume="abcdefgh")
    assert_type(result, holdfast.Result)
    assert_type(result.status, holdfast.Status)
    assert_type(result.message.text, str | None)
    task = holdfast.start("claude", b"Explain.", sandbox=holdfast.Sandbox.READ_ONLY, resume=holdfast.Task("abcdefgh"))
    assert_type(task, holdfast.Task)
    assert_type(task.wait(timeout=1.5, check=True), holdfast.Result)
    assert_type(task.status(), holdfast.TaskView)
    assert_type(task.message(limit=1), bytes)
    assert_type([line.text for line in task.progress()], list[str])
    assert_type([entry.data for entry in task.log(follow=True)], list[bytes])
    assert_type(holdfast.wait_any([task, "abcdefgh"]), holdfast.Result)
    assert_type(holdfast.wait_all(holdfast.list()), list[holdfast.Result])
    assert_type(holdfast.list(active=True), list[holdfast.TaskView])
    assert_type(holdfast.review("codex", base="main", adversarial=True, model="m").findings, list[holdfast.Finding])
    assert_type(holdfast.read_review(holdfast.start_review(pull_request="7")), holdfast.Review)


async def awaited() -> None:
    assert_type(await aio.run("codex", "Explain.", check=True, write=True), holdfast.Result)
    task = await holdfast.aio.start("codex", "Explain.", label="x")
    assert_type(task, aio.Task)
    assert_type(await task.wait(timeout=1), holdfast.Result)
    assert_type(await task.cancel(), holdfast.TaskView)
    assert_type(await aio.review(commit="HEAD"), holdfast.Review)
    assert_type(await holdfast.aio.wait_all([task]), list[holdfast.Result])
    assert_type([line.text async for line in task.progress()], list[str])


async def wrong() -> None:
    holdfast.run("codex", 5)  # pyright: ignore[reportArgumentType]
    holdfast.run("codex", "Explain.", modell="m")  # pyright: ignore[reportCallIssue]
    holdfast.run("codex", "Explain.", timeout="1h")  # pyright: ignore[reportArgumentType]
    await aio.run("codex", "Explain.", retries="2")  # pyright: ignore[reportArgumentType]
    await aio.wait(7)  # pyright: ignore[reportArgumentType]
    aio.status("abcdefgh")  # pyright: ignore[reportUnusedCoroutine]
