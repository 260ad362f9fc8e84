"""``host/status`` counts what is there; ``host/stop`` ends a host that nobody needs, and no other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.daemon.runtime import LocalHost
from holdfast.host.client import HostClient
from holdfast.host.launch import ensure_host
from holdfast.host.port import HostUnavailable, Record
from holdfast.jsonrpc.messages import RpcError

from .harness import BOUND, RunningServer, WireClient, alive, kill_server, server_of, start_host, until_dead, within
from .promises import serving, spec


async def drain(client: HostClient, process_id: str) -> list[Record]:
    return [record async for record in client.records(process_id) if isinstance(record, Record)]


async def test_everything_is_counted(state: Path) -> None:
    async with serving(state, "--retain-bytes", "1000000") as (server, client):
        empty = await client.overview()
        assert empty.version == holdfast.__version__
        assert empty.state_directory == str(state)
        assert (empty.keeper_pid, empty.server_pid) == (server.pid, server.server_pid)
        assert empty.processes == {"running": 0, "exited": 0, "closed": 0, "lost": 0}
        assert (empty.connections, empty.retention.kept, empty.retention.budget) == (1, 0, 1_000_000)
        await client.start(spec("big", "head", "-c", "500000", "/dev/zero"))
        await drain(client, "big")
        await client.start(spec("live", "sleep", "1000"))
        await client.start(spec("held", "sh", "-c", "sleep 1000 & echo up"))
        async for record in client.records("held"):
            if isinstance(record, Record) and record.kind == "exited":
                break
        other = await WireClient.connect(server.url)
        await other.start("mine", "/bin/sleep", "1000")
        found = await client.overview()
        assert found.processes == {"running": 2, "exited": 1, "closed": 1, "lost": 0}
        assert found.connections == 2
        assert found.retention.kept == 500_000
        assert found.disk.logs >= 500_000
        assert found.disk.free > 0
        assert found.memory.server > 5_000_000
        assert found.memory.keeper > 5_000_000
        assert found.uptime >= found.server_uptime >= 0
        await kill_server(server)
        after = await client.overview()
        assert after.keeper_pid == server.pid
        assert after.server_pid != found.server_pid
        assert after.uptime >= found.uptime
        assert after.processes["running"] == 2
        for process_id in ("live", "held"):
            await client.terminate(process_id)
        await other.close()


async def test_an_idle_host_ends_at_once_and_leaves_nothing(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "true"))
    await drain(client, "p")
    assert await client.stop_if_idle()
    # It has ended when the answer is given: the next one can start at once.
    assert server.process.wait(BOUND) == 0
    await client.aclose()
    assert "host.sock" not in os.listdir(state)
    async with serving(state) as (_, again):
        assert [status.process_id for status in await again.list()] == ["p"]
    assert server.process.stdout is not None
    server.process.stdout.close()


async def test_a_live_process_keeps_it(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    await client.start(spec("p", "sleep", "1000"))
    assert not await client.stop_if_idle()
    assert (await client.terminate("p")).was_running
    await client.aclose()


async def test_another_connection_keeps_it(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    other = await HostClient.connect(host.url)
    assert not await client.stop_if_idle()
    assert await other.list() == []
    await other.aclose()
    await client.aclose()


async def test_only_an_idle_one_can_be_asked_for(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    assert (await client.error("host/stop", {"ifIdle": False}))[0] == -32602
    assert (await client.error("host/stop", {}))[0] == -32602
    assert alive(host.pid)
    await client.close()


async def test_who_leaves_an_idle_host_leaves_none_behind(state: Path) -> None:
    local = LocalHost(state)
    await local.host()
    pid = int((state / "lock").read_text())
    await local.aclose()
    assert not alive(pid)


async def test_who_leaves_a_busy_host_leaves_it_at_work(state: Path) -> None:
    local = LocalHost(state)
    await (await local.host()).start(spec("p", "sleep", "1000"))
    pid = int((state / "lock").read_text())
    await local.aclose()
    assert alive(pid)
    client = await ensure_host(state)
    assert (await client.terminate("p")).was_running
    await client.stop_if_idle()
    await client.aclose()
    await until_dead(pid)


async def test_a_host_that_hangs_is_no_host_until_it_goes_on(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalHost(state)
    found = await local.host()
    await found.start(spec("p", "sleep", "1000"))
    pid = int((state / "lock").read_text())
    halted = [pid, server_of(pid)]
    with monkeypatch.context() as hasty:
        hasty.setattr("holdfast.daemon.runtime.HOST_ANSWERS_WITHIN", 0.1)
        for each in halted:
            os.kill(each, signal.SIGSTOP)
        asking = [asyncio.create_task(local.host()) for _ in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking[0]
        for each in asking[1:]:
            with pytest.raises(HostUnavailable, match="does not answer"):
                await within(each)
    for each in halted:
        os.kill(each, signal.SIGCONT)
    # It is the same one, and nothing of it was lost.
    assert await within(local.host()) is found
    assert (await within(found.terminate("p"))).was_running
    await within(local.aclose())
    await until_dead(pid)


async def test_who_leaves_a_host_that_hangs_is_not_held_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.daemon.runtime.HOST_ANSWERS_WITHIN", 0.1)
    local = LocalHost(state)
    await local.host()
    pid = int((state / "lock").read_text())
    halted = [pid, server_of(pid)]
    for each in halted:
        os.kill(each, signal.SIGSTOP)
    asking = asyncio.create_task(local.host())
    await asyncio.sleep(0)
    await within(local.aclose())
    with pytest.raises(HostUnavailable):
        await within(asking)
    for each in halted:
        os.kill(each, signal.SIGCONT)
    await until_dead(pid)


async def test_who_leaves_a_dead_host_is_not_held_up(state: Path) -> None:
    local = LocalHost(state)
    await local.host()
    pid = int((state / "lock").read_text())
    os.kill(pid, signal.SIGTERM)
    await until_dead(pid)
    await within(local.aclose())
    with pytest.raises((HostUnavailable, RpcError)):
        await HostClient.connect(f"unix://{state}/host.sock")


async def test_a_host_that_is_ending_starts_nothing_and_says_so(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    # It has the grace of a persistent process to end, and the host is ending all the while.
    await client.start(spec("stubborn", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"))
    async for _ in client.records("stubborn"):
        break
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(BOUND):
        number = 0
        while True:
            number += 1
            try:
                await client.start(spec(f"late-{number}", "true"))
            except HostUnavailable as refusal:
                assert "told to end" in refusal.message
                break
    await client.aclose()
    assert server.stop() == 0


def test_its_log_can_be_read_by_programs(tmp_path: Path) -> None:
    script = """
import logging
from holdfast.host.log_lines import configure
configure(level=logging.INFO, log_format="json")
logging.getLogger("some.where").warning("two\\nlines of %s", "é")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("x").exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=BOUND)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "some.where", "two\nlines of é")
    assert first["time"].endswith("Z")
    assert "ZeroDivisionError" in second["exception"]
    server = start_host(tmp_path / "state", "unix://", "--log-format", "json")
    assert server.stop() == 0


async def test_a_directory_that_can_hold_no_host_is_why_there_is_none(state: Path) -> None:
    in_the_way = state / "host"
    in_the_way.touch()
    with pytest.raises(HostUnavailable, match=f"{in_the_way} is not a directory") as refusal:
        await LocalHost(in_the_way).host()
    assert refusal.value.hint
