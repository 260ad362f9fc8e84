"""What can be asked of a pipe."""

from __future__ import annotations

import fcntl
import termios
from typing import Final

_F_SETPIPE_SZ: Final = 1031
#: Bytes of a C int, in which ``FIONREAD`` answers.
_INT: Final = 4


def enlarge_pipe(pipe: int, capacity: int) -> None:
    """Let *pipe* hold *capacity* bytes, if possible: a writer may run this far ahead before it waits."""
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, capacity)
    except OSError:
        # The user's quota of pipe memory is spent; it works as well with less, only slower.
        pass


def holds_something(pipe: int) -> bool:
    """Whether there is anything in *pipe*.

    ``poll`` looks without the pipe's lock, first for data and then for writers: of one that wrote and left in between
    it says that it is hung up and holds nothing.  This looks with the lock.
    """
    count = bytearray(_INT)
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return any(count)
