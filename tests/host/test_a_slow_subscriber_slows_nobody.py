"""A subscriber that stands still costs the host no memory and the others no time, and catches up by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.host.port import Kind, Record

from .harness import WireClient, within
from .promises import resident, serving, spec

TERMINAL = pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
SUBSCRIBE = {"processId": "f", "subscriptionId": 1, "afterSeq": 0, "window": 1 << 40}


async def standing_still(url: str) -> WireClient:
    """A client that has subscribed to the process ``f`` and reads no more."""
    client = await WireClient.connect(url)
    await client.result("process/subscribe", SUBSCRIBE)
    assert client.connection is not None
    client.connection._transport.pause_reading()  # type: ignore[attr-defined]
    return client


@TERMINAL
async def test_a_subscriber_that_stands_still_slows_nobody_and_catches_up(state: Path, tty: bool) -> None:
    size = 40_000_000 if not tty else 12_000_000
    async with serving(state) as (server, client):
        script = ("stty raw -echo; " if tty else "") + f"echo up; head -c 1 >/dev/null; head -c {size} /dev/zero"
        await client.start(spec("f", "sh", "-c", script, tty=tty, stdin=not tty))
        async for record in client.records("f"):
            if isinstance(record, Record) and record.data:
                break
        slow = await standing_still(server.url)
        before = resident(server.server_pid)
        await client.write("f", b"x")

        async def drain() -> list[Record]:
            return [record async for record in client.records("f") if isinstance(record, Record)]

        whole = await within(drain())
        assert sum(len(record.data) for record in whole) >= size
        assert whole[-1].kind is Kind.CLOSED
        assert resident(server.server_pid) - before < 16_000_000
        slow.connection._transport.resume_reading()  # type: ignore[attr-defined]
        await slow.until(lambda: any(n["params"].get("done") for n in slow.notifications))
        seqs = [record["seq"] for n in slow.notifications for record in n["params"]["records"]]
        assert seqs == [record.seq for record in whole]
        await slow.close()


async def test_a_subscriber_that_stands_still_can_end_it(state: Path) -> None:
    async with serving(state) as (server, client):
        await client.start(spec("f", "head", "-c", "40000000", "/dev/zero"))
        async for _ in client.records("f"):
            pass
        slow = await standing_still(server.url)
        # Somebody else's answer says that the host has done what came before, and filled the connection.
        await client.list()
        first, second = slow.request("process/unsubscribe", {"subscriptionId": 1}), slow.request("host/status")
        await client.list()
        slow.connection._transport.resume_reading()  # type: ignore[attr-defined]
        await slow.reply(first)
        told = len(slow.notifications)
        await slow.reply(second)
        # The same number is another subscription, and gets each record once.
        await slow.result("process/subscribe", SUBSCRIBE)
        await slow.until(lambda: any(n["params"].get("done") for n in slow.notifications))
        seqs = [record["seq"] for n in slow.notifications[told:] for record in n["params"]["records"]]
        assert seqs == list(range(1, len(seqs) + 1))
        await slow.close()
