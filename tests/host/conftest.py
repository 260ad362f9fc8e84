from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from .harness import BOTH, RunningServer, WireClient, needed_codex, start_codex, start_host


@pytest.fixture(autouse=True, scope="session")
def heard() -> None:
    """A run of the tests that was put aside ignores these, and so would every host."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def host(state: Path) -> Iterator[RunningServer]:
    """Our host on a Unix socket."""
    server = start_host(state)
    yield server
    server.stop()


@pytest.fixture(params=BOTH)
def either(request: pytest.FixtureRequest, state: Path) -> Iterator[RunningServer]:
    """Our host and the reference implementation, on WebSocket: the same conversation has to work with both."""
    if request.param == "holdfast":
        server = start_host(state, "ws://127.0.0.1:0")
    else:
        server = start_codex(needed_codex(), request.getfixturevalue("codex_home"))
    yield server
    server.stop()


@pytest.fixture
async def client(either: RunningServer) -> AsyncIterator[WireClient]:
    """A client that speaks to either of them."""
    connected = await WireClient.connect(either.url)
    yield connected
    await connected.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    return directory
