"""What a session holds can be read for a while after it closed, and a session to which no client comes back ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import Held
from holdfast.host.session import RETAIN_SESSION, Sessions

from .harness import PATH, RunningServer, WireClient, alive, within
from .promises import eventually

#: The host, with times that a test can wait for; at SIGUSR1 it prints how many processes and pushes are in memory.
HURRIED = """
import gc, signal, sys
from holdfast.host import entry, process, push, server, session
server._SWEEP = 0.05
session.RETAIN_CLOSED = session.RETAIN_SESSION = 0.5

def count(*_):
    kinds = (process.HostedProcess, push.Notifications)
    gc.collect()
    print(sum(isinstance(one, kinds) for one in gc.get_objects()), flush=True)

signal.signal(signal.SIGUSR1, count)
sys.exit(entry.main())
"""


@pytest.fixture
def hurried(state: Path) -> Iterator[RunningServer]:
    argv = [sys.executable, "-c", HURRIED, "--listen", "unix://", "--state-dir", str(state)]
    server = RunningServer(argv)
    yield server
    server.stop()


def directories(state: Path) -> int:
    """How many directories of processes there are that describe one."""
    found = 0
    for place in (state / "processes").iterdir():
        try:
            found += (place / "process").stat().st_size > 0
        except FileNotFoundError:
            # It was given another name meanwhile.
            continue
    return found


async def test_a_closed_process_is_forgotten_and_its_id_is_free(hurried: RunningServer, state: Path) -> None:
    client = await WireClient.connect(hurried.url)
    await client.start("p", "/bin/sh", "-c", "echo once")
    await client.start("q", "/bin/sleep", "1000")
    await client.until_closed("p")
    assert client.output("p") == b"once\n"

    async def forgotten() -> None:
        while "result" in await client.call("process/read", {"processId": "p"}):
            pass

    await within(forgotten())
    await eventually(lambda: directories(state) == 1, "the log of a forgotten process stayed")
    assert (await client.result("process/read", {"processId": "q"}))["exited"] is False
    client.notifications.clear()
    await client.start("p", "/bin/sh", "-c", "echo again")
    await client.until_closed("p")
    assert client.output("p") == b"again\n"
    await client.close()


async def test_nothing_of_a_forgotten_process_stays_with_its_connection(hurried: RunningServer, state: Path) -> None:
    client = await WireClient.connect(hurried.url)
    for number in range(20):
        await client.start(f"{number}", "/bin/true")
        await client.until_closed(f"{number}")
    await eventually(lambda: directories(state) == 0, "the log of a forgotten process stayed")
    os.kill(hurried.server_pid, signal.SIGUSR1)
    assert hurried.process.stdout is not None
    assert int(await within(asyncio.to_thread(hurried.process.stdout.readline))) == 0
    await client.close()


async def test_a_client_that_stands_still_gets_the_rest_however_late(hurried: RunningServer, state: Path) -> None:
    still, sending = await asyncio.open_unix_connection(hurried.url.removeprefix("unix://"), limit=1024 * 1024)

    def send(**message: object) -> None:
        sending.write(json.dumps(message).encode() + b"\n")

    size = 40_000_000
    start = {"processId": "big", "argv": ["head", "-c", str(size), "/dev/zero"], "cwd": "file:///tmp"}
    send(id=1, method="initialize", params={"clientName": "test"})
    send(method="initialized")
    send(id=2, method="process/start", params={**start, "env": {"PATH": PATH}, "tty": False, "arg0": None})
    await eventually(
        lambda: sum(file.stat().st_size for file in state.glob("processes/*/stdout")) == size, "it wrote less"
    )
    # What closes later has been forgotten already when the other one is read.
    other = await WireClient.connect(hurried.url)
    for number in range(2):
        await other.start(f"{number}", "/bin/true")
        await other.until_closed(f"{number}")
        await eventually(lambda: directories(state) == 1, "the log of a forgotten process stayed")
    got = 0
    while (message := json.loads(await within(still.readline()))).get("method") != "process/closed":
        if message.get("method") == "process/output":
            got += len(base64.b64decode(message["params"]["chunk"]))
    assert got == size
    await eventually(lambda: directories(state) == 0, "the log of a process that was read stayed")
    await other.close()
    sending.close()


async def test_a_session_ends_with_its_processes_if_nobody_comes_back(hurried: RunningServer, state: Path) -> None:
    client = await WireClient.connect(hurried.url)
    await client.start("done", "/bin/true")
    await client.until_closed("done")
    await client.start("p", "/bin/sh", "-c", "echo $$; exec sleep 1000")
    await client.until_output("p", b"\n")
    pid = int(client.output("p"))
    await client.close()
    await eventually(lambda: not alive(pid), "a process outlived its session")
    await eventually(lambda: directories(state) == 0, "the logs of a session that ended stayed")
    other = await WireClient.connect(hurried.url, initialize=False)
    refused = await other.error("initialize", {"clientName": "test", "resumeSessionId": client.session})
    assert refused == (-32600, f"unknown session id {client.session}")
    await other.close()


async def test_a_session_goes_on_with_whoever_resumed_it(hurried: RunningServer) -> None:
    first = await WireClient.connect(hurried.url)
    await first.start("p", "/bin/sh", "-c", "sleep 2; echo still here")
    second = await WireClient.connect(hurried.url, resume=first.session)
    await first.until_lost()
    await second.until_closed("p")
    assert second.output("p") == b"still here\n"
    assert second.exit_code("p") == 0
    await second.close()


class RecordingLink(KeeperLink):
    """Remembers what a keeper would hold."""

    def __init__(self) -> None:
        super().__init__(None)
        self.held: Held = {}

    def hold(self, held: Held) -> None:
        self.held |= held

    def let(self, key: str) -> None:
        del self.held[key]


def test_the_keeper_knows_the_sessions_that_there_are() -> None:
    link = RecordingLink()
    sessions = Sessions(link)
    first, second = sessions.open(), sessions.open()
    assert link.held == sessions.holdings()
    later = Sessions(link)
    later.recover({**link.held, "of a process": {}})
    assert {session.session_id for session in later} == {first.session_id, second.session_id}
    first.detached_at -= RETAIN_SESSION + 1
    second.detach()
    sessions.end_the_forsaken()
    assert link.held == sessions.holdings()
    assert sessions.find(first.session_id) is None
    assert sessions.find(second.session_id) is second
