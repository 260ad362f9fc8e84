"""Where the host keeps its own things: who reaches them from within a sandbox is not in it any more."""

from __future__ import annotations

import os
import socket
import stat
from functools import cache
from typing import Final

#: The file that a host holds in its state directory as long as it lives.
_LOCK: Final = "/lock"


@cache
def own_places() -> tuple[str, ...]:
    """The real paths of the state directory and of the socket of the host that this process serves.

    What the process holds open tells them: both are there before the first request, and stay for its life.
    """
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.endswith(_LOCK) and os.path.isdir(target.removesuffix(_LOCK) + "/processes"):
                found.append(target.removesuffix(_LOCK))
            elif stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found += _listening_at(int(name))
        except OSError:
            # Closed meanwhile; what is looked for is not.
            continue
    return tuple(dict.fromkeys(found))


def _listening_at(descriptor: int) -> list[str]:
    """The path of a listening Unix socket, if it has one."""
    with socket.socket(fileno=os.dup(descriptor)) as found:
        if found.family != socket.AF_UNIX or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return []
        path = found.getsockname()
    if not isinstance(path, str) or not path.startswith("/"):
        return []
    return [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))]
