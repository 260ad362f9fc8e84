"""What in ``/proc`` is the machine's and not a process's: whoever may write there turns the machine, sandbox or not."""

from __future__ import annotations

import os
import stat
from functools import cache
from typing import Final

#: Too much to look through, and there is always something.
_SETTINGS: Final = "/proc/sys"


@cache
def machine_files() -> tuple[str, ...]:
    """The entries of ``/proc`` in which this account could write, those of processes excepted.

    For most accounts that is ``/proc/sys`` only.  Nothing that a kernel module brings later is among them.
    """
    with os.scandir("/proc") as entries:
        paths = sorted(entry.path for entry in entries if not entry.name.isdecimal())
    return tuple(path for path in paths if path == _SETTINGS or _is_writable(path))


def _is_writable(path: str) -> bool:
    """Whether the modes of *path*, or of anything in it, let this account write.

    Capabilities do not count: a command in a sandbox has none, but root of it is root as an owner.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return any(_is_writable(f"{path}/{name}") for name in os.listdir(path))
    except OSError:
        # Gone meanwhile, or not for this account.
        return False
    allowing = stat.S_IWGRP | stat.S_IWOTH | (stat.S_IWUSR if status.st_uid == os.geteuid() else 0)
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & allowing)
