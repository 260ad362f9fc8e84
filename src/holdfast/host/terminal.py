"""Emptying a terminal as fast as the kernel fills it.

Linux gives a terminal's output away by the page, and a worker of the kernel brings the next page when one was taken.
Whoever asks for it before it is there, by ``read``, ``splice`` or ``poll``, sleeps until the worker is done, and that
costs more than the page.  ``FIONREAD`` only says what is there.  Looking out with it for the few microseconds that the
worker takes is faster than any loop that waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from typing import Final

#: Bytes that a terminal gives at one go; the kernel takes as many pages as it is asked for before it looks.
_PAGE: Final = 4096
#: Bytes that are followed by more in no time; whoever wrote less may have said what it wanted to say.
_MUCH: Final = _PAGE // 2
#: How often it is looked for the next page before it is asked for: some 40 us.
_LOOKS: Final = 60
#: Bytes of a C int, in which ``FIONREAD`` answers.
_INT: Final = 4


def drain(terminal: int, sink: int, *, alone: bool) -> bool:
    """Move what *terminal*, which does not block, holds into the pipe *sink*, until it is empty or the pipe is full.

    *alone* says that there is one processor, so that looking would only keep the worker from running.

    :returns: whether the terminal has come to its end
    """
    count = bytearray(_INT)
    total = 0
    try:
        while moved := os.splice(terminal, sink, _PAGE, flags=os.SPLICE_F_NONBLOCK):
            total += moved
            if total < _MUCH or alone:
                continue
            for _ in range(_LOOKS):
                fcntl.ioctl(terminal, termios.FIONREAD, count)
                if any(count):
                    break
    except BlockingIOError:
        return False
    except OSError as error:
        # EIO is how Linux says that nobody holds the other side any more.
        if error.errno != errno.EIO:
            raise
    return True
