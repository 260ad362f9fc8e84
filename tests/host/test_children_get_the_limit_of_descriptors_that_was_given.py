"""The host takes all descriptors that it can get; a child gets the limit with which the host was started."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import RunningServer, WireClient, kill_server, needed_codex, start_codex, start_host, until_dead, within
from .promises import kill_keeper

HARD = 8192
SCRIPT = ("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn")


@pytest.fixture
def given() -> Iterator[int]:
    """The limit with which what is started here begins."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < HARD:
        pytest.skip("NOT TESTED: this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def host_at_work(given: int, state: Path) -> Iterator[RunningServer]:
    server = start_host(state, "ws://127.0.0.1:0")
    yield server
    server.stop()


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


async def told(client: WireClient, process_id: str, *, tty: bool = False) -> list[int]:
    await client.start(process_id, *SCRIPT, tty=tty)
    await client.until_closed(process_id)
    return [int(word) for word in client.output(process_id).split()]


async def test_with_pipes_and_on_a_terminal_as_the_reference_does(given: int, state: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = start_host(state, "ws://127.0.0.1:0")
    client = await WireClient.connect(server.url)
    assert await told(client, "p") == await told(client, "t", tty=True) == [given, hard]
    assert soft_limit(server.server_pid) == soft_limit(server.pid) == hard
    await client.close()
    assert server.stop() == 0


@pytest.mark.real_agent
async def test_the_reference_does_so(given: int, tmp_path: Path) -> None:
    server = start_codex(needed_codex(), tmp_path / "home")
    client = await WireClient.connect(server.url)
    assert (await told(client, "p"))[0] == (await told(client, "t", tty=True))[0] == given
    await client.close()
    server.stop()


async def test_after_deaths_of_server_and_keeper_too(given: int, state: Path) -> None:
    server = start_host(state, "ws://127.0.0.1:0")
    await kill_server(server)
    client = await WireClient.connect(server.url)
    assert (await told(client, "p"))[0] == given
    await client.close()
    keeper = await kill_keeper(server.pid)
    server.kill()
    client = await WireClient.connect(server.url)
    assert (await told(client, "p"))[0] == given
    await client.close()
    os.kill(keeper, signal.SIGTERM)
    await until_dead(keeper)


async def test_a_start_that_fails_leaves_the_host_its_own(given: int, host_at_work: RunningServer) -> None:
    client = await WireClient.connect(host_at_work.url)
    before = soft_limit(host_at_work.server_pid)
    with pytest.raises(AssertionError, match="No such file"):
        await client.start("p", "/no/such/program")
    assert soft_limit(host_at_work.server_pid) == before > given
    await client.close()


async def test_a_host_with_more_open_than_a_child_may_have_starts_more(given: int, host_at_work: RunningServer) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    client = await WireClient.connect(host_at_work.url)
    address = host_at_work.url.removeprefix("ws://").split(":")
    others = [await within(asyncio.open_connection(*address)) for _ in range(given + 100)]
    await client.start("p", "/bin/sh", "-c", "read x; ulimit -Sn", pipeStdin=True)
    await client.result("process/write", {"processId": "p", "chunk": "Cg==", "writeId": "1"})
    await client.until_closed("p")
    assert int(client.output("p")) == given
    for _, writer in others:
        writer.close()
    await client.close()
