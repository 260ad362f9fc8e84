"""Reaping what became a child of the server because its own parent died.

The server is a subreaper, so whatever a hosted process leaves behind ends up with it; what could not be hosted is left
to this as well.  It has other children, which are not to be reaped here: hosted processes, whose exit status is reaped
when it is on disk, and programs that a thread runs through :mod:`subprocess`, which must find their exit status.  The
latter are in the server's own session.  What comes from a hosted process never is: each leads a session of its own, and
no process can enter another's session.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator

from holdfast.host.os_process import all_processes


def reap_orphans(hosted: Container[int]) -> int:
    """Reap every child that has ended and that nobody else will; returns how many.  *hosted* are pids to leave."""
    if not _somebody_ended():
        return 0
    reaped = 0
    own_session = os.getsid(0)
    for pid in _children():
        if pid in hosted:
            continue
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # Not from /proc, which may hide who has become somebody else's.
            if os.getsid(pid) != own_session:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
                reaped += 1
        except (ChildProcessError, ProcessLookupError):
            # Reaped by whoever waited for it.
            continue
    return reaped


def _somebody_ended() -> bool:
    """Whether any child waits to be reaped: a look that costs nothing and changes nothing."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _children() -> Iterator[int]:
    """The children of all threads of this process."""
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                text = file.read()
        except OSError:
            if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                # A kernel without that file: look at everybody's parent.
                own = os.getpid()
                yield from [process.pid for process in all_processes().values() if process.parent == own]
                return
            # The thread has ended, and its children went to another one; the next look finds them.
            continue
        yield from map(int, text.split())
