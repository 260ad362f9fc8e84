"""A cancelled await ends the waiting at once, leaves no thread, and says what became of the task."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import holdfast

from .conftest import PATIENCE, Installation, until


async def cancelled(waiting: asyncio.Task[object]) -> list[str]:
    """Cancel, and return the notes of the exception."""
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await asyncio.wait_for(waiting, PATIENCE)
    return getattr(raised.value, "__notes__", [])


async def test_the_task_goes_on_and_can_be_found(installation: Installation, gate: Callable[[], object]) -> None:
    prompt = "rehearse: touch up\nrehearse: wait-for gate\nrehearse: say Still here."
    waiting = asyncio.create_task(holdfast.aio.run("rehearsal", prompt, task_id="left-alone"))
    await asyncio.to_thread(until, (installation.workspace / "up").exists)
    assert await cancelled(waiting) == ["Task left-alone goes on; pick it up with holdfast.wait('left-alone')."]
    assert (await holdfast.aio.status("left-alone")).status is None
    gate()
    assert (await holdfast.aio.wait("left-alone")).message.text == "Still here."


async def test_the_task_is_ended_if_asked(installation: Installation) -> None:
    prompt = "rehearse: touch up\nrehearse: hang"
    waiting = asyncio.create_task(
        holdfast.aio.run("rehearsal", prompt, task_id="ended-with-us", cancel_on_interrupt=True)
    )
    await asyncio.to_thread(until, (installation.workspace / "up").exists)
    assert "is being ended" in (await cancelled(waiting))[0]
    assert (await holdfast.aio.wait("ended-with-us")).status is holdfast.Status.CANCELLED


@pytest.mark.parametrize("ask", [True, False])
async def test_before_it_was_handed_over(installation: Installation, ask: bool) -> None:
    """At whatever moment: afterwards there is a task, and it was dealt with as asked."""
    waiting = asyncio.create_task(
        holdfast.aio.run("rehearsal", "rehearse: hang", task_id="hardly-begun", cancel_on_interrupt=ask)
    )
    await asyncio.sleep(0)
    (note,) = await cancelled(waiting)
    assert ("is being ended" if ask else "goes on") in note
    view = await holdfast.aio.status("hardly-begun")
    assert view.cancel_requested is ask


async def test_starting_says_that_there_is_a_task(installation: Installation) -> None:
    starting = asyncio.create_task(holdfast.aio.start("rehearsal", "rehearse: hang", task_id="who-is-there"))
    await asyncio.sleep(0)
    assert "holdfast.wait('who-is-there')" in (await cancelled(starting))[0]
    assert (await holdfast.aio.cancel("who-is-there")).cancel_requested


async def test_every_way_of_waiting(installation: Installation) -> None:
    task = await holdfast.aio.start("rehearsal", "rehearse: hang")

    async def follow() -> None:
        async for _ in task.progress():
            pass

    async def read() -> None:
        async for _ in task.log(follow=True):
            pass

    for each in (task.wait(), holdfast.aio.wait_any([task, task.id]), holdfast.aio.wait_all([task]), follow(), read()):
        waiting = asyncio.create_task(each)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        await cancelled(waiting)
    await task.cancel()


async def test_an_iteration_that_is_left_early(installation: Installation) -> None:
    task = await holdfast.aio.start("rehearsal", "rehearse: tools 3\nrehearse: hang")
    async with contextlib.aclosing(task.progress()) as lines:
        async for line in lines:
            if line.kind == "tool":
                break
    await task.cancel()
    kinds = [line.kind async for line in task.progress()]
    assert kinds[-1] == "finished"


async def test_a_timeout_of_asyncio(installation: Installation) -> None:
    task = await holdfast.aio.start("rehearsal", "rehearse: hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await task.wait()
    with pytest.raises(holdfast.StillRunning):
        await task.wait(timeout=0.1)
    await task.cancel()


def test_control_c_does_the_same_for_a_blocking_call(installation: Installation) -> None:
    script = "import holdfast; holdfast.run('rehearsal', 'rehearse: touch up\\nrehearse: hang', task_id='interrupted')"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    until((installation.workspace / "up").exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert errors.decode().endswith(
        "KeyboardInterrupt\nTask interrupted goes on; pick it up with holdfast.wait('interrupted').\n"
    )
    assert holdfast.status("interrupted").status is None
