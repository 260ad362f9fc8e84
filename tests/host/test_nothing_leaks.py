"""Hundreds of processes later the host holds what it held before."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .harness import RunningServer, WireClient, kill_server, within
from .promises import children, descriptors, eventually


async def test_hundreds_of_processes_leave_no_descriptor_zombie_or_thread(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)
    idle = descriptors(host.server_pid)

    async def run(prefix: str, count: int) -> None:
        for first in range(0, count, 50):
            identities = [f"{prefix}{number}" for number in range(first, first + 50)]
            for number, identity in enumerate(identities):
                await client.start(
                    identity,
                    *("/bin/sh", "-c", "echo hi; exit 3"),
                    tty=number % 4 == 0,
                    pipeStdin=number % 3 == 0,
                )
            for identity in identities:
                await client.until_closed(identity)
        bad = {"processId": "x", "argv": ["/nonexistent"], "cwd": "file:///", "env": {}, "tty": False}
        for tty in (False, True):
            assert (await client.error("process/start", {**bad, "tty": tty}))[0] == -32603

    await run("p", 450)
    await eventually(lambda: descriptors(host.server_pid) == idle, "the server holds what is closed")
    assert children(host.server_pid) == []
    await client.close()


async def test_a_keeper_lets_go_of_what_is_closed_also_after_a_kill(host: RunningServer) -> None:
    # So that a start is made ready when the server is killed, and the keeper holds what nobody has a use for then.
    client = await WireClient.connect(host.url)
    await client.start("p", "/bin/true")
    await client.until_closed("p")
    await kill_server(host)
    await client.until_lost()
    client = await WireClient.connect(host.url)
    await client.start("p", "/bin/true")
    await client.until_closed("p")
    idle = len(descriptors(host.pid))
    for number in range(20):
        await client.start(f"q{number}", "/bin/true")
        await client.until_closed(f"q{number}")
    await eventually(lambda: len(descriptors(host.pid)) < idle + 20, "the keeper holds what is closed")
    await client.close()


async def test_connections_that_come_and_go_leave_nothing(host: RunningServer) -> None:
    async def visit(number: int) -> None:
        client = await WireClient.connect(host.url)
        await client.start("s", "/bin/sh", "-c", "echo hi; sleep 1000", tty=number % 2 == 0)
        client.request("process/read", {"processId": "s", "afterSeq": 1, "waitMs": 60_000})
        await client.until_output("s", b"hi")
        await client.result("process/terminate", {"processId": "s"})
        await client.until_closed("s")
        await client.close()

    keeper = await WireClient.connect(host.url)
    await keeper.result("environment/status")
    before = descriptors(host.server_pid)
    for _ in range(5):
        await asyncio.gather(*(visit(number) for number in range(20)))

    async def forgotten() -> None:
        # The goodbyes of other connections arrive in no particular order with what is asked on this one.
        while descriptors(host.server_pid) != before:
            await keeper.result("environment/status")

    await within(forgotten())
    await keeper.close()


async def test_a_client_that_leaves_while_a_watch_is_set_up_leaves_nothing(host: RunningServer, tmp_path: Path) -> None:
    keeper = await WireClient.connect(host.url)
    await keeper.result("environment/status")
    before = descriptors(host.server_pid)
    params = {"watchId": 1, "missing": [f"file://{tmp_path}/{number}" for number in range(60)]}
    for number in range(40):
        client = await WireClient.connect(host.url)
        client.request("fs/watchMissing", params)
        # At some of these moments the thread is at work.
        await asyncio.sleep(0.0005 * (number % 8))
        await client.close()
    await eventually(lambda: descriptors(host.server_pid) == before, "the host watches for nobody")
    await keeper.close()
