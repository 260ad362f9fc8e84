"""What waits for a file system that never answers waits alone: other clients, and all that needs no file, go on."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.host.files import service

from .harness import RunningServer, WireClient

_MNT_DETACH = 2


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """Where a file system in user space is mounted whose program has stopped; its death is the end of the test."""
    top = tmp_path / "hung"
    top.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        program = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"there is no FUSE: {error}")
    try:
        options = f"fd={program},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
        if libc.mount(b"hung", os.fsencode(top), b"fuse", 0, options.encode()) != 0:
            pytest.skip(f"this account may not mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield top
        finally:
            libc.umount2(os.fsencode(top), _MNT_DETACH)
    finally:
        os.close(program)


async def test_a_client_whose_files_hang_takes_no_threads_of_others(
    host: RunningServer, hung: Path, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("there")
    stuck, other = await WireClient.connect(host.url), await WireClient.connect(host.url)
    waiting = [stuck.request("fs/readFile", {"path": f"file://{hung}/{number}"}) for number in range(50)]
    waiting.append(stuck.request("fs/readDirectory", {"path": f"file://{hung}"}))
    root = {"id": "a", "path": f"file://{hung}"}
    waiting.append(stuck.request("capabilityRoots/discoverV1", {"roots": [root]}))
    assert await stuck.result("environment/status") == {"status": "ready"}
    assert await other.result("fs/readFile", {"path": f"file://{tmp_path}/f"}) == {"dataBase64": "dGhlcmU="}
    await other.start("p", "/bin/echo", "hello")
    await other.until_output("p", b"hello")
    await stuck.start("p", "/bin/echo", "hello")
    await stuck.until_output("p", b"hello")
    assert not [identity for identity in waiting if identity in stuck.replies]
    # Who gave up, and comes again, does not take theirs either.
    await stuck.close()
    assert await other.result("fs/readFile", {"path": f"file://{tmp_path}/f"}) == {"dataBase64": "dGhlcmU="}
    await other.close()


async def test_a_large_answer_does_not_wait_for_ever_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LARGE_PATIENCE", 0.01)
    async with service.large_turn():
        async with asyncio.timeout(30):
            async with service.large_turn():
                pass
    # And who waited in vain has let go of nothing that was not theirs.
    async with service.large_turn():
        pass
    assert not service._large_turn().locked()
