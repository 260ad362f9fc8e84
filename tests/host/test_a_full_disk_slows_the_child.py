"""With a real file system that is full: the child waits, the status says why, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.host.client import HostClient
from holdfast.host.log_format import RECORD
from holdfast.host.port import Kind, ProcessSpec, ProcessStatus, Record

from .harness import PATH, RunningServer, WireClient, kill_server, start_host, within


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mount], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


async def stalled(client: HostClient, process_id: str) -> ProcessStatus:
    while True:
        status = await client.status(process_id)
        assert status is not None
        if status.stalled:
            return status
        await asyncio.sleep(0.02)


async def read(client: HostClient, process_id: str) -> list[Record]:
    return [record async for record in client.records(process_id) if isinstance(record, Record)]


@pytest.mark.parametrize("tty", [False, True])
async def test_the_child_waits_until_there_is_room(small_disk: Path, tty: bool) -> None:
    state = small_disk / "state"
    state.mkdir(mode=0o700)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 7_000_000)
    # More than fits beside the ballast and in the pipe, which holds a MiB once it pours.
    size = 5_000_000
    server = start_host(state)
    try:
        client = await HostClient.connect(server.url)
        script = f"{'stty raw;' if tty else ''} head -c {size} /dev/zero; exit 4"
        spec = ProcessSpec(process_id="f", argv=["sh", "-c", script], cwd=Path("/"), env={"PATH": PATH}, tty=tty)
        await client.start(spec)

        status = await within(stalled(client, "f"))
        assert status.exit_code is None
        os.truncate(ballast, 0)

        records = await within(read(client, "f"))
        assert sum(len(record.data) for record in records) == size
        assert records[-2].exit_code == 4
        after = await client.status("f")
        assert after is not None
        assert after.stalled is None
        await client.aclose()
    finally:
        server.stop()


@pytest.mark.parametrize("first", ["f", "g"])
async def test_what_cannot_be_written_outlives_the_server_and_is_written_when_it_can_be(
    state: Path, first: str
) -> None:
    """Room can be reserved behind the largest size that a file may have: when that is seen, the pipe is empty."""
    size = 20_000_000
    server = start_host(state)

    def limit(most: int) -> None:
        for pid in (server.pid, server.server_pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    try:
        client = await HostClient.connect(server.url)
        limit(3_000_000)
        argv = ["head", "-c", str(size), "/dev/zero"]
        # The first one's output is stuck half-way, the other's in its pipe.
        for process_id in (first, *({"f", "g"} - {first})):
            await client.start(ProcessSpec(process_id=process_id, argv=argv, cwd=Path("/"), env={"PATH": PATH}))
            await within(stalled(client, process_id))
        for _ in range(2):
            for process_id in ("f", "g"):
                assert (await within(stalled(client, process_id))).exit_code is None
            await kill_server(server)
        # Whoever waits learns of an end although what comes before it is not in the log yet.
        waiting = await WireClient.connect(server.url)
        told = await waiting.result("process/read", {"processId": "g"})
        wait = {"processId": "g", "afterSeq": told["nextSeq"] - 1, "waitMs": 3_600_000}
        asked = waiting.request("process/read", wait)
        await waiting.result("environment/status")
        await client.terminate("g")
        answer = (await waiting.reply(asked))["result"]
        assert (answer["exited"], answer["exitCode"], answer["closed"]) == (True, 128 + signal.SIGKILL, False)
        await waiting.close()
        limit(resource.RLIM_INFINITY)
        records = await within(read(client, "f"))
        assert sum(len(record.data) for record in records) == size
        assert records[-2].exit_code == 0
        last = [record.kind for record in await within(read(client, "g"))][-1]
        assert last is Kind.CLOSED
        await client.aclose()
    finally:
        server.stop()


async def test_nothing_follows_an_end_that_had_to_wait_for_room(state: Path) -> None:
    server = start_host(state)

    def limit(most: int) -> None:
        resource.prlimit(server.server_pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    try:
        client = await HostClient.connect(server.url, reconnect_for=60.0)
        drop = client.signal_drop("e")
        status = await client.start(
            ProcessSpec(process_id="e", argv=["sleep", "1000"], cwd=Path("/"), env={"PATH": PATH}, signal_drop=True)
        )
        assert status.pid is not None
        # There is room for one record: that it exited.
        limit(RECORD.size)
        os.kill(status.pid, signal.SIGKILL)
        assert (await within(stalled(client, "e"))).last_seq == 1
        (drop / "tmp" / "late").write_text("late")
        os.rename(drop / "tmp" / "late", drop / "new" / "late")
        limit(resource.RLIM_INFINITY)
        records = await within(read(client, "e"))
        assert [record.kind for record in records] == [Kind.EXITED, Kind.CLOSED]
        await kill_server(server)
        assert await within(read(client, "e")) == records
        await client.aclose()
    finally:
        server.stop()


async def test_a_start_whose_description_does_not_fit_is_refused_and_leaves_nothing(state: Path) -> None:
    """Without its whole description the process would be unknown to the next server, and run on without a host."""
    server = start_host(state)
    try:
        client = await HostClient.connect(server.url)
        resource.prlimit(server.server_pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        spec = ProcessSpec(process_id="p", argv=["true", "x" * 10_000], cwd=Path("/"), env={"PATH": PATH})
        with pytest.raises(HoldfastError, match="File too large"):
            await client.start(spec)
        assert await client.status("p") is None
        resource.prlimit(server.server_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await client.start(spec)
        assert (await within(read(client, "p")))[-2].exit_code == 0
        await client.aclose()
    finally:
        server.stop()


#: A host whose files are told to have had no room when they are closed, as those of a network file system are.
FUSSY = """
import errno, fcntl, os, sys
from holdfast.host import entry

close = os.close

def closed(descriptor):
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY and os.fstat(descriptor).st_size
    close(descriptor)
    if "/processes/" in name and written:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

os.close = closed
sys.exit(entry.main())
"""


async def test_a_disk_that_is_full_only_when_files_are_closed_leaves_nothing_half_done(state: Path) -> None:
    server = RunningServer([sys.executable, "-c", FUSSY, "--listen", "unix://", "--state-dir", str(state)])
    client = await HostClient.connect(server.url)
    spec = ProcessSpec(process_id="p", argv=["cat"], cwd=Path("/"), env={"PATH": PATH}, pipe_stdin=True)
    for _ in range(2):
        await client.start(spec)
        await client.write("p", b"text")
        await client.close_stdin("p")
        output, exited, closed = await within(read(client, "p"))
        assert (output.data, exited.exit_code, closed.kind) == (b"text", 0, Kind.CLOSED)
        assert (await client.forget("p")).existed
    # What lives in it would keep it.
    assert await client.stop_if_idle()
    await client.aclose()
    assert server.stop() == 0
