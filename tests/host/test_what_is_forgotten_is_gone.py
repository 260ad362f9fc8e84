"""A closed process can be forgotten, whole and at one stroke; a live one cannot."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.directories import stored_bytes
from holdfast.host.client import HostClient
from holdfast.host.dummy import DummyHost
from holdfast.host.forgetting import delete_forgotten
from holdfast.host.port import Forgotten, Gap, NotClosed, ProcessSpec, ProcessState, Record, UnknownProcess

from .harness import PATH, RunningServer, WireClient, alive, kill_server, serving_child, start_host, until_dead, within
from .promises import eventually

#: A host whose directories cannot be moved, as in a lower layer of an overlay; at SIGUSR1 it deletes nothing any more.
IMMOBILE = """
import errno, os, signal, sys
from holdfast.host import entry, forgetting
rename = os.rename

def refuse(source, target):
    if "/forgotten/" in target:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    rename(source, target)

def keep(*_):
    forgetting.remove = lambda directory: None
    print("kept", flush=True)

os.rename = refuse
signal.signal(signal.SIGUSR1, keep)
sys.exit(entry.main())
"""


@pytest.fixture
async def client(host: RunningServer) -> AsyncIterator[HostClient]:
    connected = await HostClient.connect(host.url)
    yield connected
    await connected.aclose()


def spec(name: str, script: str, *, pipe_stdin: bool = False, signal_drop: bool = False) -> ProcessSpec:
    return ProcessSpec(
        process_id=name,
        argv=["sh", "-c", script],
        cwd=Path("/"),
        env={"PATH": PATH},
        pipe_stdin=pipe_stdin,
        signal_drop=signal_drop,
    )


async def read(client: HostClient, name: str) -> list[Record | Gap]:
    async def collect() -> list[Record | Gap]:
        return [record async for record in client.records(name)]

    return await within(collect())


def kept(state: Path) -> list[Path]:
    """The directories of processes; the places of the next ones hold no description yet."""
    found: list[Path] = []
    for path in (state / "processes").iterdir():
        try:
            if (path / "process").read_bytes():
                found.append(path)
        except FileNotFoundError:
            # Just being made.
            continue
    return found


async def test_nothing_of_it_is_left_and_its_id_is_free(client: HostClient, state: Path) -> None:
    await client.start(spec("p", "head -c 100000 /dev/zero; exit 7", signal_drop=True))
    await client.start(spec("other", "echo here"))
    await read(client, "p")
    await read(client, "other")
    before = await client.overview()
    would = await client.forget("p", dry_run=True)
    assert (would.existed, would.bytes >= 100_000) == (True, True)
    assert len(await read(client, "p")) > 2
    forgotten = await client.forget("p")
    # The file system may have thought again about how many blocks it takes.
    assert (forgotten.existed, forgotten.bytes >= 100_000) == (True, True)
    after = await client.overview()
    assert before.retention.kept - after.retention.kept == 100_000
    assert await client.status("p") is None
    assert [status.process_id for status in await client.list()] == ["other"]
    assert len(kept(state)) == 1
    assert list((state / "forgotten").iterdir()) == []
    with pytest.raises(UnknownProcess):
        await read(client, "p")
    # Again, or never heard of: no error.
    assert await client.forget("p") == await client.forget("nobody") == Forgotten(existed=False)
    status = await client.start(spec("p", "echo new"))
    assert status.state is ProcessState.RUNNING
    assert next(record.data for record in await read(client, "p") if isinstance(record, Record)) == b"new\n"


async def test_what_runs_or_has_an_open_stream_is_kept(client: HostClient) -> None:
    await client.start(spec("live", "read x", pipe_stdin=True))
    await client.start(spec("held", "exec 3<&0; (read x <&3; echo late) & exit 5", pipe_stdin=True))
    for name in ("live", "held"):
        with pytest.raises(NotClosed) as caught:
            await client.forget(name)
        assert caught.value.hint
        await client.terminate(name)
        # Its streams are closed a moment later; nobody has to wait for that.
        assert (await client.forget(name)).existed
        assert await client.status(name) is None


def delete_what_spoke(state: Path) -> None:
    (output,) = state.glob("processes/*/stdout")
    shutil.rmtree(output.parent)


async def test_what_somebody_else_deleted_can_be_forgotten(client: HostClient, state: Path) -> None:
    await client.start(spec("p", "echo one"))
    await read(client, "p")
    delete_what_spoke(state)
    assert await client.forget("p") == Forgotten(existed=True, bytes=0)
    assert await client.status("p") is None


async def test_who_reads_meanwhile_is_told_what_is_gone_and_comes_to_an_end(host: RunningServer) -> None:
    wire = await WireClient.connect(host.url)
    script = "echo first; read x; head -c 300000 /dev/zero; exit 7"
    await wire.start("p", "sh", "-c", script, pipeStdin=True, holdfast={"persistent": True})
    subscription = {"processId": "p", "subscriptionId": 1, "window": 1}
    await wire.result("process/subscribe", subscription)

    def records() -> list[dict[str, Any]]:
        return [record for message in wire.notifications for record in message["params"].get("records", ())]

    await wire.until(records)
    await wire.result("process/write", {"processId": "p", "chunk": "Cg==", "writeId": "1"})

    async def closed() -> None:
        while (await wire.result("process/status", {"processId": "p"}))["status"]["state"] != "closed":
            pass

    await within(closed())
    assert (await wire.result("process/forget", {"processId": "p"}))["existed"]
    wire.notify("process/acknowledge", {"subscriptionId": 1, "bytes": 10**9})
    await wire.until(lambda: wire.notifications[-1]["params"].get("done"))
    told = records()
    position = 0
    for record in told:
        gap = record["kind"] == "gap"
        assert record["first" if gap else "seq"] == position + 1
        position = record["last" if gap else "seq"]
    assert [record["kind"] for record in told] == ["stdout", "gap", "exited", "closed"]
    await wire.close()


async def test_a_lost_process_and_its_drop_are_forgotten(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "echo up; sleep 1000", signal_drop=True))
    drop = client.signal_drop("p")
    status = await client.status("p")
    assert status is not None
    assert status.pid is not None
    victim = serving_child(server.pid)
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    server.kill()
    await until_dead(victim)
    await client.aclose()
    server = start_host(state)
    client = await HostClient.connect(server.url)
    found = await client.status("p")
    assert found is not None
    assert found.state is ProcessState.LOST
    assert drop.exists()
    assert (await client.forget("p")).existed
    # Its directory holds the note that something of it is left: that was ended before.
    assert not alive(status.pid)
    assert not drop.exists()
    assert kept(state) == []
    await client.aclose()
    server.stop()


async def test_a_kill_leaves_all_of_it_or_nothing(state: Path) -> None:
    server = start_host(state)
    client = await HostClient.connect(server.url, reconnect_for=60.0)
    names = [f"p{number}" for number in range(60)]
    for name in names:
        await client.start(spec(name, f"echo {name}; exit 3"))
    for name in names:
        await read(client, name)

    async def forgetting() -> None:
        for name in names[:40]:
            await client.forget(name)

    forgetter = asyncio.ensure_future(forgetting())
    for _ in range(3):
        await kill_server(server)
    await asyncio.wait_for(forgetter, 60)
    assert {status.process_id for status in await client.list()} == set(names[40:])
    for name in names[40:]:
        records = await read(client, name)
        assert next(record.data for record in records if isinstance(record, Record)) == name.encode() + b"\n"
    await kill_server(server)
    assert {status.process_id for status in await client.list()} == set(names[40:])
    await eventually(lambda: list((state / "forgotten").iterdir()) == [], "what was forgotten is still there")
    assert len(kept(state)) == 20
    await client.aclose()
    server.stop()


async def test_what_cannot_be_moved_is_forgotten_as_well(state: Path) -> None:
    server = RunningServer([sys.executable, "-c", IMMOBILE, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(server.url)
    await client.start(spec("p", "echo one"))
    await client.start(spec("q", "echo two"))
    for name in "pq":
        await read(client, name)
    drop = client.signal_drop("p")
    # As of a process that was lost.
    (drop / "new").mkdir(parents=True)
    assert (await client.forget("p")).bytes > 0
    assert not drop.exists()
    assert len(kept(state)) == 1
    await client.start(spec("p", "echo three"))
    records = await read(client, "p")
    assert next(record.data for record in records if isinstance(record, Record)) == b"three\n"

    os.kill(server.server_pid, signal.SIGUSR1)
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == b"kept\n"
    await client.forget("q")
    left = list(state.glob("processes/*/stdout"))  # noqa: ASYNC240 - a test has the loop for itself
    await kill_server(server)
    assert [status.process_id for status in await client.list()] == ["p"]
    assert [path.exists() for path in left].count(True) == len(left) - 1 == 1
    await client.aclose()
    server.stop()


async def test_what_a_killed_server_was_about_to_delete_is_deleted(tmp_path: Path) -> None:
    left = tmp_path / "forgotten" / "x"
    left.mkdir(mode=0o700, parents=True)
    left.parent.chmod(0o700)
    (left / "index").write_bytes(b"x" * 32)
    delete_forgotten(tmp_path)
    await eventually(lambda: not left.exists(), "it is still there")


def test_what_cannot_be_measured_can_be_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")

    def refuse(path: str) -> None:
        # As in a directory that may be listed and no more.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "lstat", refuse)
    assert stored_bytes(tmp_path) == 0


async def test_the_dummy_does_the_same() -> None:
    host = DummyHost()
    await host.start(spec("p", "true"))
    with pytest.raises(NotClosed):
        await host.forget("p")
    host.processes["p"].finish(0)
    assert await host.forget("p", dry_run=True) == await host.forget("p")
    assert await host.forget("p") == Forgotten(existed=False)
