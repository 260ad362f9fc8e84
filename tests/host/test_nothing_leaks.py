"""Hundreds of processes later the host holds what it held before."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from .harness import RunningServer, WireClient, within


def descriptors(pid: int) -> list[str]:
    found: list[str] = []
    ready = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        if "/processes/" in target:
            # A few places are kept ready for the next processes, two files each.
            ready += 1
            continue
        # Numbers of sockets, pipes and directories are new each time; their kinds and how many there are must not be.
        found.append(re.sub(r"[0-9a-f]{16}|\d+", "N", target))
    assert ready <= 16
    return sorted(found)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_hundreds_of_processes_leave_no_descriptor_zombie_or_thread(host: RunningServer) -> None:
    client = await WireClient.connect(host.url)

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

    await run("warm", 50)
    before = descriptors(host.server_pid)
    await run("p", 400)
    assert descriptors(host.server_pid) == before
    assert children(host.server_pid) == []
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

    await visit(0)
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
