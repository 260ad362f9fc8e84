"""Processes of the operating system: what ``/proc`` tells of them, and signals that reach exactly one.

Pids are used again by the kernel, so a process is always (pid, start time), and signals go through a pidfd that was
opened before the start time was checked.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import Final, NamedTuple

from holdfast.jsonrpc.streams import EXHAUSTED

#: ``linux/sched.h``: among the flags of a process.
_PF_FORKNOEXEC: Final = 0x40


class OsProcess(NamedTuple):
    """One process of the operating system, as ``/proc`` shows it."""

    pid: int
    parent: int
    group: int
    session: int
    #: Clock ticks since boot; with the pid this identifies a process for as long as the machine is up.
    started: int
    command: str
    #: False for a zombie: it has ended and only waits to be reaped.
    alive: bool
    #: Whether it became another program after it was forked.
    executed: bool


def read_process(pid: int) -> OsProcess | None:
    """What ``/proc`` tells of *pid*; None if there is no such process, or none that may be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # The last: somebody else's, where /proc is mounted with hidepid=1.
        return None
    # The command is in parentheses and may itself contain parentheses and spaces.
    before, _, after = text.rpartition(b")")
    fields = after.split()
    if len(fields) < 20:
        return None
    return OsProcess(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        command=before.partition(b"(")[2].decode("utf-8", "replace"),
        alive=fields[0] not in (b"Z", b"X"),
        executed=not int(fields[6]) & _PF_FORKNOEXEC,
    )


def start_time(pid: int) -> int:
    """Start time of *pid* in clock ticks since boot, or 0 if it is gone."""
    process = read_process(pid)
    return process.started if process else 0


@cache
def first_started() -> int | None:
    """When the first process of this pid namespace was started: no other namespace of the same boot began then.

    In clock ticks since boot; None where it may not be seen.
    """
    return start_time(1) or None


def all_processes() -> dict[int, OsProcess]:
    """Every process of the machine, by pid."""
    found: dict[int, OsProcess] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process is not None:
                found[process.pid] = process
    return found


def carries(pid: int, marker: bytes) -> bool:
    """Whether the environment of *pid* holds the entry *marker*.

    :raises OSError: there are no descriptors to look with
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        # It has ended, or is somebody else's.
        return False


def send(process: OsProcess, number: int) -> bool:
    """Send signal *number* to exactly this process; False if it is gone."""
    handle = open_handle(process.pid, process.started)
    if handle < 0:
        return False
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def open_handle(pid: int, started: int) -> int:
    """A pidfd of the process that has *pid* and was *started* then (ticks since boot); -1 if it is gone.

    :raises OSError: there are no descriptors to open it, or to look, with
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    try:
        now = read_process(pid)
    except BaseException:
        os.close(handle)
        raise
    if now is None or now.started != started:
        os.close(handle)
        return -1
    return handle
