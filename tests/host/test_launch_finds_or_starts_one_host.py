"""However many ask at once, a state directory has one host; and a failed start says why."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest

from holdfast.directories import socket_path
from holdfast.host.launch import ensure_host
from holdfast.host.port import HostUnavailable, ProcessSpec

from .harness import server_of, start_host, until_dead, within


def host_pid(state: Path) -> int:
    return int((state / "lock").read_text())


async def test_callers_that_race_get_the_same_detached_host(state: Path) -> None:
    clients = await asyncio.gather(*(ensure_host(state, idle_exit=3) for _ in range(5)))
    assert len({client.instance_id for client in clients}) == 1
    assert {client.state_directory for client in clients} == {str(state)}
    pid = host_pid(state)
    assert os.getsid(pid) != os.getsid(0)
    for client in clients:
        await client.aclose()
    # Nobody is connected and nothing runs: it leaves by itself.
    await until_dead(pid)


async def test_an_idle_host_stays_as_long_as_a_process_lives(state: Path) -> None:
    client = await ensure_host(state, idle_exit=1.0)
    spec = ProcessSpec(process_id="p", argv=["/bin/sleep", "1000"], cwd=Path("/"), env={})
    await client.start(spec)
    await client.aclose()
    await asyncio.sleep(0.3)
    again = await ensure_host(state, idle_exit=1.0)
    assert again.instance_id == client.instance_id
    await again.terminate("p")
    await again.aclose()
    await until_dead(host_pid(state))


async def test_a_dead_host_is_replaced(state: Path) -> None:
    first = await ensure_host(state, idle_exit=5)
    await first.aclose()
    pid = host_pid(state)
    os.kill(pid, signal.SIGTERM)
    await until_dead(pid)
    second = await ensure_host(state, idle_exit=1.0)
    assert second.instance_id != first.instance_id
    await second.aclose()
    await until_dead(host_pid(state))


def test_a_host_with_an_overlong_path_leaves_nothing_elsewhere_that_is_its_own(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 30)
    place = socket_path(state, "x", make=False).parent
    server = start_host(state)
    try:
        assert server.url == f"unix://{place}/host.sock"
        (place / "another.sock").touch()
        assert server.stop() == 0
        # It is somebody else's as well.
        assert os.listdir(place) == ["another.sock"]
        (place / "another.sock").unlink()
        assert start_host(state).stop() == 0
        assert not place.exists()
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def test_a_host_that_cannot_start_says_why(state: Path) -> None:
    (state / "processes").write_text("in the way")
    with pytest.raises(HostUnavailable, match="is not a directory") as caught:
        await ensure_host(state)
    assert caught.value.hint
    assert "host.log" in caught.value.hint


async def test_a_host_that_hangs_is_not_started_a_second_time(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await ensure_host(state, idle_exit=1.0)
    await client.start(ProcessSpec(process_id="p", argv=["/bin/sleep", "1000"], cwd=Path("/"), env={}))
    pids = [host_pid(state), server_of(host_pid(state))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as hasty:
        hasty.setattr("holdfast.host.connection._ANSWERS_WITHIN", 0.1)
        with pytest.raises(HostUnavailable, match="does not answer"):
            await within(ensure_host(state))
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert (await within(client.terminate("p"))).was_running
    await client.aclose()
    await until_dead(pids[0])


async def test_a_host_that_is_just_ending_is_waited_for(state: Path) -> None:
    # As seen from outside: nobody listens any more, and the directory is not free yet.
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    starting = asyncio.ensure_future(ensure_host(state, idle_exit=1.0))
    await asyncio.wait({starting}, timeout=0.3)
    os.close(lock)
    client = await within(starting)
    assert await client.list() == []
    pid = host_pid(state)
    await client.aclose()
    await until_dead(pid)
