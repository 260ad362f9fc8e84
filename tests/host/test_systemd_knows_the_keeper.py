"""systemd asks the keeper for the end of the service; so it is told when another process has become the keeper."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import BOUND, RunningServer, WireClient, until_dead
from .promises import kill_keeper

#: Starts a program as systemd does.
AS_SYSTEMD = ["sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh"]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(BOUND)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def start(state: Path, *around: str) -> RunningServer:
    host = [sys.executable, "-m", "holdfast.host", "--listen", "ws://127.0.0.1:0", "--state-dir", str(state)]
    return RunningServer([*around, *host], env=dict(os.environ))


async def replace_keeper(server: RunningServer) -> int:
    heir = await kill_keeper(server.pid)
    server.kill()
    return heir


async def stop(keeper: int) -> None:
    os.kill(keeper, signal.SIGTERM)
    await until_dead(keeper)


async def test_of_each_keeper_that_took_the_place_of_another(manager: socket.socket, state: Path) -> None:
    server = start(state, *AS_SYSTEMD)
    heir = await replace_keeper(server)
    assert manager.recv(100) == b"MAINPID=%d" % heir
    second = await kill_keeper(heir)
    assert manager.recv(100) == b"MAINPID=%d" % second
    await stop(second)


async def test_who_only_inherited_the_variable_tells_nothing(manager: socket.socket, state: Path) -> None:
    server = start(state)
    heir = await replace_keeper(server)
    await stop(heir)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


async def test_no_process_of_the_host_gets_what_was_meant_for_it(
    manager: socket.socket, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DELEGATED_UNIT", "holdfast-host.service")
    server = start(state, *AS_SYSTEMD)
    client = await WireClient.connect(server.url)
    policy = {"inherit": "all", "ignoreDefaultExcludes": True, "exclude": [], "set": {}, "includeOnly": []}
    await client.start("p", "/usr/bin/env", envPolicy=policy)
    await client.until_closed("p")
    assert b"SYSTEMD_EXEC_PID" in client.output("p")
    assert b"NOTIFY_SOCKET" not in client.output("p")
    assert b"HOLDFAST_DELEGATED_UNIT" not in client.output("p")
    await client.close()
    assert server.stop() == 0
