"""kill -9 of the daemon in the middle of a wait: whoever waits does not notice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import holdfast

from .conftest import Installation, until


def test_while_one_waits(installation: Installation, gate: Callable[[], object]) -> None:
    results: list[holdfast.Result] = []
    task = holdfast.start("rehearsal", "rehearse: touch up\nrehearse: wait-for gate\nrehearse: say Survived.")
    waiting = threading.Thread(target=lambda: results.append(task.wait()))
    waiting.start()
    until((installation.workspace / "up").exists)
    for _ in range(2):
        killed = installation.daemon_pid()
        assert installation.kill_daemon()
        # The one who waits starts another; killed before it has answered it would be a start that failed.
        until(lambda killed=killed: installation.daemon_pid() not in (None, killed))
        assert task.status().status is None
    gate()
    waiting.join()
    assert [result.message.text for result in results] == ["Survived."]


async def test_while_many_wait_in_one_program(installation: Installation, gate: Callable[[], object]) -> None:
    """One death is one death, however many notice it."""
    prompt = "rehearse: wait-for gate\nrehearse: say {}"
    tasks = [await holdfast.aio.start("rehearsal", prompt.format(number)) for number in range(8)]
    waiting = [asyncio.create_task(task.wait()) for task in tasks]
    first = asyncio.create_task(holdfast.aio.wait_any(tasks))
    await tasks[-1].status()
    killed = installation.daemon_pid()
    assert installation.kill_daemon()
    await asyncio.to_thread(until, lambda: installation.daemon_pid() not in (None, killed))
    gate()
    results = await asyncio.gather(*waiting)
    assert [result.message.text for result in results] == [str(number) for number in range(8)]
    assert (await first).task_id in {task.id for task in tasks}


def test_while_progress_is_followed(installation: Installation, gate: Callable[[], object]) -> None:
    prompt = "rehearse: tools 3\nrehearse: wait-for gate\nrehearse: tools 3\nrehearse: say Ok"
    task = holdfast.start("rehearsal", prompt)
    tools = 0
    for line in task.progress():
        tools += line.kind == "tool"
        if tools == 3 and not (installation.workspace / "gate").exists():
            assert installation.kill_daemon()
            gate()
    assert tools == 6
