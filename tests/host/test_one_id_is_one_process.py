"""However many ask for a process, and whatever dies meanwhile, it is started once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.host.client import HostClient

from .harness import kill_server, within
from .promises import serving, spec

TERMINAL = pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])


@TERMINAL
async def test_one_id_is_one_process_whoever_asks_and_whatever_dies(state: Path, tmp_path: Path, tty: bool) -> None:
    journal = tmp_path / "journal"
    async with serving(state) as (server, client):
        others = [await HostClient.connect(server.url) for _ in range(4)]
        asked = [
            asyncio.ensure_future(each.start(spec("same", "sh", "-c", f"echo x >> {journal}; sleep 1000", tty=tty)))
            for each in [client, *others] * 8
        ]
        await kill_server(server)
        statuses = await within(asyncio.gather(*asked))
        assert len({status.pid for status in statuses}) == 1
        assert [status.process_id for status in await client.list()] == ["same"]
        await client.terminate("same")
        assert journal.read_text() == "x\n"
        for other in others:
            await other.aclose()
