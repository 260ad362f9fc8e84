"""With a real file system that is full: the child waits, the status says why, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.host.client import HostClient
from holdfast.host.port import ProcessSpec, ProcessStatus, Record

from .harness import PATH, start_host, within


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

        async def stalled() -> ProcessStatus:
            while True:
                status = await client.status("f")
                assert status is not None
                if status.stalled:
                    return status
                await asyncio.sleep(0.02)

        status = await within(stalled())
        assert status.exit_code is None
        os.truncate(ballast, 0)

        async def read() -> list[Record]:
            return [record async for record in client.records("f") if isinstance(record, Record)]

        records = await within(read())
        assert sum(len(record.data) for record in records) == size
        assert records[-2].exit_code == 4
        after = await client.status("f")
        assert after is not None
        assert after.stalled is None
        await client.aclose()
    finally:
        server.stop()
