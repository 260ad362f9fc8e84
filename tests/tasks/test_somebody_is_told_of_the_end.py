"""When a task is finished, those who are to know are told: at least once, and whatever becomes of it the task stays."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import holdfast.tasks.notification as notification
from holdfast.errors import InvalidRequest
from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.notification import NotifyFailed, post
from holdfast.tasks.request import Notification
from holdfast.tasks.service import TaskService
from holdfast.tasks.state import State
from tests.tasks.conftest import PATIENCE, Bench, succeed, until

PROGRAM = ["/bin/tell", "me"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setattr(notification, "PAUSES", (0.0, 0.0))


@pytest.fixture
async def store(bench: Bench) -> AsyncIterator[Store]:
    async with await Store.open(bench.directory / "holdfast.db") as store:
        yield store


def telling(*exit_codes: int, told: list[bytes]) -> Callable[[DummyProcess], None]:
    """Agents that succeed, and commands that end with these exit codes, one after the other."""
    codes = iter(exit_codes)

    def act(process: DummyProcess) -> None:
        if process.spec.argv != PROGRAM:
            succeed(process)
            return
        assert process.spec.stdin_file is not None
        told.append(process.spec.stdin_file.read_bytes())
        process.emit("stderr", b"oh no\n")
        process.finish(next(codes))

    return act


async def settled(service: TaskService, store: Store, task_id: str) -> None:
    def done(view: object) -> bool:
        return all(told.state != "pending" for told in view.notifications)  # type: ignore[attr-defined]

    await service.wait(task_id, PATIENCE)
    await until(service, store, task_id, done)


async def run(service: TaskService, bench: Bench, *whom: Notification) -> str:
    request = bench.request(notify=list(whom), label="mine")
    await service.accept(request, b"do it\nand more", {"PATH": "/bin"})
    return request.task_id


async def test_a_command_gets_a_digest_and_never_the_answer(bench: Bench, store: Store) -> None:
    told: list[bytes] = []
    bench.script(telling(0, told=told))
    service = await bench.service(store)
    task_id = await run(service, bench, Notification(command=PROGRAM))
    await settled(service, store, task_id)
    (digest,) = map(json.loads, told)
    assert digest["task_id"] == task_id
    assert (digest["status"], digest["ok"], digest["exit_code"]) == ("completed", True, 0)
    assert (digest["label"], digest["agent"], digest["summary"]) == ("mine", "rehearsal", "do it")
    assert digest["directory"] == str(bench.workspace)
    assert b"all done" not in told[0]
    (view,) = (await service.view(task_id)).notifications
    assert (view.state, view.tries, view.error) == ("sent", 1, None)
    assert view.notified_at is not None
    assert set(bench.host.processes) == {f"task-{task_id}-1"}, "its process is forgotten"
    await service.aclose()


async def test_a_failed_try_is_repeated_and_seen(bench: Bench, store: Store) -> None:
    told: list[bytes] = []
    bench.script(telling(3, 0, told=told))
    service = await bench.service(store)
    task_id = await run(service, bench, Notification(command=PROGRAM))
    await settled(service, store, task_id)
    view = await service.view(task_id)
    assert (view.state, view.status) == (State.FINISHED, "completed")
    assert [(each.state, each.tries) for each in view.notifications] == [("sent", 2)]
    await service.aclose()


async def test_it_is_given_up_in_the_end_and_changes_nothing_about_the_task(bench: Bench, store: Store) -> None:
    told: list[bytes] = []
    bench.script(telling(3, 3, 3, told=told))
    service = await bench.service(store)
    task_id = await run(service, bench, Notification(command=PROGRAM))
    await settled(service, store, task_id)
    view = await service.view(task_id)
    assert view.status == "completed"
    assert [(each.state, each.tries) for each in view.notifications] == [("abandoned", 3)]
    assert view.notifications[0].error == "/bin/tell ended with status 3: oh no"
    await service.aclose()


async def test_a_restart_goes_on_telling(bench: Bench, store: Store) -> None:
    told: list[bytes] = []
    hanging: list[DummyProcess] = []
    begun = asyncio.Event()

    def hang(process: DummyProcess) -> None:
        if process.spec.argv == PROGRAM:
            hanging.append(process)
            begun.set()
        else:
            succeed(process)

    bench.script(hang)
    service = await bench.service(store)
    task_id = await run(service, bench, Notification(command=PROGRAM))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await service.aclose()
    assert hanging[0].exit is not None, "nothing is left running"
    bench.script(telling(0, told=told))
    service = await bench.service(store)
    await settled(service, store, task_id)
    assert len(told) == 1
    assert [(each.state, each.tries) for each in (await service.view(task_id)).notifications] == [("sent", 2)]
    await service.aclose()


async def test_the_configuration_is_the_default(bench: Bench, store: Store, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"[notify]\ncommand = {json.dumps(PROGRAM)}\n")
    told: list[bytes] = []
    bench.script(telling(0, told=told))
    service = await bench.service(store)
    request = bench.request()
    await service.accept(request, b"do it", {"PATH": "/bin"})
    await settled(service, store, request.task_id)
    silent = await run(service, bench)
    await settled(service, store, silent)
    assert len(told) == 1
    assert (await service.view(silent)).notifications == []
    await service.aclose()


@pytest.mark.parametrize(
    "wrong",
    [
        Notification(),
        Notification(command=[]),
        Notification(command=["x"], desktop=True),
        Notification(webhook="file:///etc/passwd"),
        Notification(webhook="https://"),
        Notification(webhook="http://[::1"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_starts(
    bench: Bench, store: Store, wrong: Notification
) -> None:
    service = await bench.service(store)
    with pytest.raises(InvalidRequest):
        await run(service, bench, wrong)
    assert bench.host.processes == {}
    await service.aclose()


class _Hook(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, bytes]]] = []
    target: ClassVar[str] = "/hook"

    def do_POST(self) -> None:
        self.seen.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", self.target)
        else:
            self.send_response(204 if self.path == "/hook" else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, type[_Hook]]]:
    _Hook.seen, _Hook.target = [], "/hook"
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", _Hook
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_url_gets_it_by_post(bench: Bench, store: Store, hook: tuple[str, type[_Hook]]) -> None:
    url, seen = hook[0], hook[1].seen
    bench.script(succeed)
    service = await bench.service(store)
    task_id = await run(service, bench, Notification(webhook=f"{url}/hook"))
    await settled(service, store, task_id)
    assert [(path, json.loads(body)["task_id"]) for path, body in seen] == [("/hook", task_id)]
    await service.aclose()


def test_a_redirect_is_followed_to_the_same_host_only(hook: tuple[str, type[_Hook]]) -> None:
    url, handler = hook
    post(f"{url}/moved", b"{}")
    assert handler.seen == [("/moved", b"{}"), ("/hook", b"{}")]
    handler.target = "http://localhost:1/elsewhere"
    with pytest.raises(NotifyFailed, match="another host"):
        post(f"{url}/moved", b"{}")
    handler.target = "/moved"
    with pytest.raises(NotifyFailed, match="circle"):
        post(f"{url}/moved", b"{}")
    with pytest.raises(NotifyFailed, match="answered 500"):
        post(f"{url}/broken", b"{}")
