"""A result that could not tell the outcome is replaced once by one that can; no other result is ever replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks import late, notification
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.request import Notification, TaskRequest
from holdfast.tasks.result import Result, Status
from holdfast.tasks.service import TaskService
from holdfast.tasks.view import TaskView

from .conftest import ENVIRONMENT, PATIENCE, Bench, say, succeed, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_PAUSE", 0.01)
    monkeypatch.setattr(late, "_LONGEST_PAUSE", 0.05)


def talk(process: DummyProcess) -> None:
    say(process, '{"event":"thread_started","thread_id":"thread-1"}', '{"event":"message","text":"half"}')


async def unknown(bench: Bench, store: Store, *, cancel: bool, **fields: Any) -> tuple[TaskService, TaskRequest]:
    """A service with a task that runs on a host that went away."""
    first, request = await bench.running(store, talk, **fields)
    await first.aclose()
    bench.host.unavailable = True
    service = await bench.service(store)
    if cancel:
        await service.cancel(request.task_id)
    await service.wait(request.task_id, PATIENCE)
    result = await service.result(request.task_id)
    assert (result.status, result.revision) == (Status.OUTCOME_UNKNOWN, 1)
    return service, request


async def known(service: TaskService, store: Store, request: TaskRequest) -> Result:
    await until(service, store, request.task_id, lambda view: view.status is not Status.OUTCOME_UNKNOWN)
    return await service.result(request.task_id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.tasks.attempt.HOST_PATIENCE", 0.2)


def finish(bench: Bench) -> None:
    (process,) = bench.host.processes.values()
    say(process, '{"event":"message","text":"the whole"}', '{"event":"turn_completed"}')
    process.finish(0)


async def test_b11_a_result_that_comes_late_is_accepted(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False)
        finish(bench)
        bench.host.unavailable = False
        result = await known(service, store, request)
        assert (result.status, result.revision, result.message.text) == (Status.COMPLETED, 2, "the whole")
        view = await service.view(request.task_id)
        assert (view.status, view.exit_code) == (Status.COMPLETED, 0)
        kept = bench.directory / "tasks" / request.task_id / "result.json"
        assert msgspec.json.decode(kept.read_bytes(), type=Result) == result
        await service.aclose()


async def test_b11_what_was_counted_before_the_host_went_away_is_not_counted_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What has no events stays in memory.
    monkeypatch.setattr("holdfast.tasks.attempt._FOLD_INTERVAL", PATIENCE)
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await bench.running(store, talk)
        (process,) = bench.host.processes.values()
        bench.host.away_after = process.emit("stderr", b"0123456789").seq
        await service.wait(request.task_id, PATIENCE)
        assert (await service.result(request.task_id)).status is Status.OUTCOME_UNKNOWN
        finish(bench)
        bench.host.unavailable = False
        assert (await known(service, store, request)).status is Status.COMPLETED
        (attempt,) = await Ledger(store).attempts(request.task_id)
        assert attempt.facts.stderr_bytes == 10
        await service.aclose()


async def test_b11_what_still_runs_is_waited_for(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False)
        bench.host.unavailable = False
        await asyncio.sleep(0)
        finish(bench)
        assert (await known(service, store, request)).status is Status.COMPLETED
        await service.aclose()


async def test_b11_whoever_was_told_is_told_of_the_upgrade(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(notification, "post", lambda url, body: told.append(json.loads(body)))
    whom = [Notification(webhook="http://127.0.0.1/hook")]

    def sent(times: int) -> Callable[[TaskView], bool]:
        return lambda view: len(told) == times and [each.state for each in view.notifications] == ["sent"]

    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False, notify=whom)
        await until(service, store, request.task_id, sent(1))
        finish(bench)
        bench.host.unavailable = False
        await known(service, store, request)
        await until(service, store, request.task_id, sent(2))
        await service.aclose()
        # And only once.
        again = await bench.service(store)
        await again.aclose()
    assert [(each["status"], each["upgrade"], each["revision"]) for each in told] == [
        ("outcome_unknown", False, 1),
        ("completed", True, 2),
    ]


async def test_b11_an_upgrade_replaces_what_was_not_told_yet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(notification, "PAUSES", (3600.0,))

    def post(url: str, body: bytes) -> None:
        told.append(json.loads(body))
        if not told[-1]["upgrade"]:
            raise notification.NotifyFailed("not now")

    monkeypatch.setattr(notification, "post", post)
    whom = [Notification(webhook="http://127.0.0.1/hook")]
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False, notify=whom)
        await until(service, store, request.task_id, lambda view: view.notifications[0].error is not None)
        finish(bench)
        bench.host.unavailable = False
        await known(service, store, request)
        await until(service, store, request.task_id, lambda view: view.notifications[0].state == "sent")
        view = await service.view(request.task_id)
        assert [(each.tries, each.error) for each in view.notifications] == [(1, None)]
        await service.aclose()
    assert [each["status"] for each in told] == ["outcome_unknown", "completed"]


async def test_b11_what_was_to_be_cancelled_is_ended(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=True)
        bench.host.unavailable = False
        result = await known(service, store, request)
        assert (result.status, result.message.text) == (Status.CANCELLED, "half")
        await service.aclose()


async def test_b11_the_next_daemon_goes_on_looking(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        first, request = await unknown(bench, store, cancel=False)
        await first.aclose()
        finish(bench)
        bench.host.unavailable = False
        second = await bench.service(store)
        assert (await known(second, store, request)).revision == 2
        await second.aclose()


async def test_b11_a_host_that_knows_nothing_changes_nothing(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False)
        await service.aclose()
        bench.host.processes.clear()
        bench.host.unavailable = False
        second = await bench.service(store)
        watch = next(task for task in asyncio.all_tasks() if task.get_name().startswith("late outcome"))
        await asyncio.wait_for(asyncio.wait({watch}), PATIENCE)
        result = await second.result(request.task_id)
        assert (result.status, result.revision) == (Status.OUTCOME_UNKNOWN, 1)
        await second.aclose()


async def test_b11_no_other_result_is_ever_replaced(bench: Bench, service: TaskService) -> None:
    bench.script(succeed)
    request = bench.request()
    await service.accept(request, b"do it", ENVIRONMENT)
    await service.wait(request.task_id, PATIENCE)
    result = await service.result(request.task_id)
    ledger = Ledger(service._store)  # pyright: ignore[reportPrivateUsage]
    better = msgspec.structs.replace(result, revision=2)
    assert not await ledger.upgrade(better)
    assert await service.result(request.task_id) == result


async def test_b11_only_the_next_revision_of_an_unknown_outcome_is_taken(bench: Bench) -> None:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service, request = await unknown(bench, store, cancel=False)
        await service.aclose()
        ledger = Ledger(store)
        result = await service.result(request.task_id)
        for revision in (1, 3):
            assert not await ledger.upgrade(msgspec.structs.replace(result, status=Status.COMPLETED, revision=revision))
        assert not await ledger.upgrade(msgspec.structs.replace(result, revision=2))
        assert await ledger.upgrade(msgspec.structs.replace(result, status=Status.ABORTED, revision=2))
        assert not await ledger.upgrade(msgspec.structs.replace(result, status=Status.COMPLETED, revision=3))
