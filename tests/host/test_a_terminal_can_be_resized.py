"""The size of a process's terminal follows whoever looks at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import Kind, NoTerminal, ProcessSpec, Record, UnknownProcess

from .harness import PATH, RunningServer, within

SCRIPT = "trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.05; done"


async def test_the_process_hears_of_its_new_size(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    argv = ["/bin/bash", "-c", SCRIPT]
    await client.start(ProcessSpec(process_id="p", argv=argv, cwd=Path("/"), env={"PATH": PATH}, tty=True))
    shown = b""

    async def watch() -> None:
        nonlocal shown
        async for record in client.records("p"):
            if isinstance(record, Record) and record.kind is Kind.PTY:
                shown += record.data
                if shown == b"24 80\r\n":
                    await client.resize("p", columns=132, rows=50)

    await within(watch())
    assert shown == b"24 80\r\n50 132\r\n"
    with pytest.raises(NoTerminal):
        await client.resize("p", columns=80, rows=24)
    await client.aclose()


async def test_without_a_terminal_there_is_no_size(host: RunningServer) -> None:
    client = await HostClient.connect(host.url)
    await client.start(ProcessSpec(process_id="p", argv=["sleep", "600"], cwd=Path("/"), env={"PATH": PATH}))
    with pytest.raises(NoTerminal):
        await client.resize("p", columns=80, rows=24)
    with pytest.raises(UnknownProcess):
        await client.resize("nobody", columns=80, rows=24)
    await client.terminate("p")
    await client.aclose()
