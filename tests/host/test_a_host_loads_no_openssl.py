"""Libraries that a request may need are loaded by that request, not by a host that waits for one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.host.client import HostClient

from .harness import start_host, within

UNWANTED = {"libcrypto", "libssl", "_ssl", "_hashlib", "_bz2", "_lzma"}


def loaded(pid: int) -> set[str]:
    """The names of the libraries in the memory of a process, up to their first dot."""
    names = re.findall(r"/([^/\n]+\.so[^/\n]*)$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("listen", ["unix://", "ws://127.0.0.1:0"])
async def test_neither_of_the_two_loads_what_nobody_asked_for(state: Path, listen: str) -> None:
    server = start_host(state, listen)
    try:
        client = await HostClient.connect(server.url)
        await within(client.overview())
        await client.aclose()
        for pid in (server.pid, server.server_pid):
            assert not loaded(pid) & UNWANTED
    finally:
        server.stop()
