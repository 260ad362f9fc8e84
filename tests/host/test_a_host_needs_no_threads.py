"""Where no thread can be made, because there are as many tasks as may be, everything is ended, deleted and answered."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import ProcessState
from holdfast.host.threads import NoThread, Threads

from .harness import RunningServer, WireClient, alive, kill_server
from .promises import spec

#: A host in which no thread can be made.
HOST = """
import sys, threading
from holdfast.host import entry

def start(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = start
sys.exit(entry.main())
"""

#: Does not end by itself.
STUBBORN = ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")


async def test_without_any_trees_are_ended_and_processes_forgotten(state: Path) -> None:
    server = RunningServer(
        [sys.executable, "-c", HOST, "--listen", "unix://", "--state-dir", str(state)], stderr=state.parent / "stderr"
    )
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    started = [await client.start(spec(process_id, *STUBBORN)) for process_id in ("a", "b")]
    pids = [status.pid for status in started if status.pid is not None]
    for process_id in ("a", "b"):
        async for _ in client.records(process_id):
            break
    assert [member.pid for member in await client.members("a")][:1] == pids[:1]
    assert (await client.terminate("a", grace=0.0)).survivors == []
    assert [alive(pid) for pid in pids] == [False, True]
    assert (await client.forget("a")).existed
    assert os.listdir(state / "forgotten") == []
    (state / "forgotten" / "left").mkdir()
    await kill_server(server)
    status = await client.status("b")
    assert status is not None
    assert status.state is ProcessState.RUNNING
    assert os.listdir(state / "forgotten") == []
    await client.aclose()
    assert server.stop() == 0
    assert not alive(pids[1])
    assert "Traceback" not in (state.parent / "stderr").read_text()


async def test_without_any_a_name_is_not_looked_for_and_the_reason_told(state: Path) -> None:
    server = RunningServer([sys.executable, "-c", HOST, "--listen", "unix://", "--state-dir", str(state)])
    client = await WireClient.connect(server.url)
    wanted = {"method": "GET", "url": "http://nowhere.invalid/", "requestId": "r"}
    _, message = await client.error("http/request", wanted)
    assert message.startswith("http/request failed: no thread can be made")
    await client.close()
    assert server.stop() == 0


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_was_done_without_a_thread_is_not_done_again_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with Threads() as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            threads.submit(done.append, "without").result()
            assert done == ["without"]
            failed: Future[int] = threads.submit(int, "x")
            with pytest.raises(ValueError, match="invalid literal"):
                failed.result()
        threads.submit(done.append, "with").result()
    assert done == ["without", "with"]


def test_what_nobody_but_a_thread_may_do_is_refused_and_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with Threads(needed=True) as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(NoThread):
                threads.submit(done.append, "without")
        threads.submit(done.append, "with").result()
    assert done == ["with"]
