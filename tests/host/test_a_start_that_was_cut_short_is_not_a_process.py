"""A server killed between writing down what it is about to start and starting it leaves nothing that looks like one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from holdfast.clock import boot_id
from holdfast.host.port import ProcessState, Record

from .harness import alive, kill_server, serving_child, until_dead
from .promises import serving, spec


def leave(state: Path, process_id: str, index: bool = True) -> Path:
    """What a server leaves that is killed just before it gives the streams to the keeper."""
    directory = state / "processes" / f"cut-{process_id}"
    directory.mkdir(mode=0o700)
    description = {
        "processId": process_id,
        "sessionId": None,
        "argv": ["sh", "-c", "echo never"],
        "cwd": "/",
        "tty": False,
        "marker": "0" * 32,
        "createdNs": 1,
        "bootId": boot_id(),
    }
    (directory / "process").write_text(json.dumps(description) + "\n")
    if index:
        (directory / "index").touch(0o600)
    return directory


async def test_after_a_kill_it_is_forgotten_and_the_repeated_start_starts(state: Path) -> None:
    async with serving(state) as (server, client):
        directory = leave(state, "p")
        await kill_server(server)
        assert await client.status("p") is None
        assert not directory.exists()
        status = await client.start(spec("p", "sh", "-c", "echo once; exit 4"))
        assert status.state is ProcessState.RUNNING
        records = [record async for record in client.records("p")]
        assert isinstance(records[0], Record)
        assert records[0].data == b"once\n"


async def test_after_the_death_of_both_it_is_lost_because_nobody_can_know(state: Path) -> None:
    async with serving(state) as (server, _):
        victim = serving_child(server.pid)
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        server.kill()
        await until_dead(victim)
        leave(state, "p")
        assert not alive(victim)
        async with serving(state) as (_, again):
            status = await again.status("p")
            assert status is not None
            assert status.state is ProcessState.LOST
