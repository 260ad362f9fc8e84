"""Jobs that another program wrote into the view: shown as far as they go, and never believed to run for ever."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from holdfast.companion.view import Record, is_active

_STATE_FIELD: Final = 0


def as_it_is(record: Record) -> Record:
    """*record*, or what became of it: one whose process is gone has failed, whatever it says.

    A record without a process id is left as it is: nothing can be found out about it.
    """
    pid = process_of(record)
    if not is_active(record) or pid is None or is_alive(pid):
        return record
    return {
        **record,
        "status": "failed",
        "phase": "failed",
        "pid": None,
        "errorMessage": record.get("errorMessage")
        or f"Its process {pid} is gone, and no result was recorded; how it ended is not known.",
        "completedAt": record.get("completedAt") or record.get("updatedAt"),
    }


def process_of(record: Record) -> int | None:
    """The process that a record names, if it is one that may be looked at and ended."""
    pid = record.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 1 < pid < 1 << 31 or pid == os.getpid():
        return None
    return pid


def is_alive(pid: int) -> bool:
    """Whether the process runs.  One that is dead and not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        # The name, in parentheses, may hold anything; the state follows the last one.
        return file.read().rpartition(b")")[2].split()[_STATE_FIELD] not in (b"Z", b"X")
    return True


def end(record: Record) -> None:
    """Ask the job's process, and its group if it leads one, to end."""
    pid = process_of(record)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid and pid != os.getpgrp():
            os.killpg(pid, signal.SIGTERM)
        elif pid != os.getppid():
            os.kill(pid, signal.SIGTERM)
