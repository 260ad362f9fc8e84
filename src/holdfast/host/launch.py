"""Finding the host of a state directory, or starting it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

from holdfast.clock import monotonic
from holdfast.directories import open_private, private_directory
from holdfast.host.address import host_url
from holdfast.host.client import HostClient
from holdfast.host.connection import RECONNECT_FOR
from holdfast.host.port import HostUnavailable

#: Seconds that a new host has to say that it is ready.
READY_WITHIN: Final = 20.0
#: Seconds that a host which listens no more has to let go of its directory, and between looks.
_END_WITHIN: Final = 5.0
_PAUSE: Final = 0.02
#: Bytes of the host's log that an error shows.
_TAIL: Final = 2000
LOG_NAME: Final = "host.log"


async def ensure_host(
    state_directory: Path, *, idle_exit: float | None = None, reconnect_for: float = RECONNECT_FOR
) -> HostClient:
    """Connect to the host of *state_directory*, starting a detached one if there is none.

    Several callers at once get the same host.  What the host has to say goes to ``host.log`` in that directory.

    :raises HostUnavailable: it did not start (the message carries the end of its log), or it hangs
    :raises InsecureDirectory: the directory is not private
    :raises UnusableDirectory: it cannot be made, or what has to be in it cannot be opened
    """
    private_directory(state_directory)
    url = host_url(state_directory)
    try:
        return await HostClient.connect(url, reconnect_for=reconnect_for)
    except HostUnavailable as error:
        if isinstance(error.__cause__, TimeoutError):
            # It is there: no other one gets the directory.
            raise
    lock = open_private(state_directory / "launch.lock", os.O_RDWR)
    try:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        deadline = monotonic() + _END_WITHIN
        while True:
            try:
                return await HostClient.connect(url, reconnect_for=reconnect_for)
            except HostUnavailable:
                if _is_free(state_directory) or monotonic() > deadline:
                    break
            # Another one is just ending, or just coming up by itself.
            await asyncio.sleep(_PAUSE)
        await asyncio.to_thread(_start, state_directory, idle_exit)
        return await HostClient.connect(url, reconnect_for=reconnect_for)
    finally:
        os.close(lock)


def _is_free(state_directory: Path) -> bool:
    """Whether no host has the directory at the moment."""
    lock = open_private(state_directory / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _start(state_directory: Path, idle_exit: float | None) -> None:
    """Start a host in a session of its own and wait for its one line."""
    log_path = state_directory / LOG_NAME
    log = open_private(log_path, os.O_WRONLY | os.O_APPEND)
    arguments = ["--listen", "unix://", "--state-dir", str(state_directory)]
    if idle_exit is not None:
        arguments += ["--idle-exit", str(idle_exit)]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast.host", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    assert process.stdout is not None
    ready = _read_line(process.stdout.fileno())
    process.stdout.close()
    if ready:
        # It is on its own from here; whoever is our parent's reaper gets it when we end.
        process.returncode = 0
        return
    process.kill()
    process.wait()
    with open(log_path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read().decode("utf-8", "replace").strip()
    raise HostUnavailable(
        f"The host of {state_directory} did not start: {tail or 'it said nothing'}", hint=f"See {log_path}."
    )


def _read_line(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    received = b""
    while b"\n" not in received:
        if not poll.poll(READY_WITHIN * 1000):
            return False
        part = os.read(descriptor, 4096)
        if not part:
            return False
        received += part
    return True
