"""The page cache behind a long log: what was written a while ago is on the disk, and its memory is used again.

Else a process that says a gigabyte takes a gigabyte of memory until somebody else wants it.  The kernel would write it
out all the same, half a minute later; and on a virtual machine that gives free memory back, as many do, a page that was
never used, or was given back, costs ten times what writing to it does.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from holdfast.host.ending import hear_none

#: How far before the end of the file it is looked, in bytes; a log that is shorter stays where it is.
WINDOW: Final = 32 * 1024 * 1024
#: Bytes after which it is looked at again.
STEP: Final = 4 * 1024 * 1024

_busy: Final = threading.Lock()


def drop_behind(descriptor: int, end: int) -> None:
    """Have the file written out up to *end*, and let go of the memory of what is written already.

    Returns at once: a slow disk keeps a thread waiting, and who asks meanwhile is not heard.
    """
    if not _busy.acquire(blocking=False):
        return
    own = -1
    try:
        # The log may be closed while the thread is at it, and the number be another file's.
        own = os.dup(descriptor)
        threading.Thread(target=_drop, args=(own, end), name="page cache", daemon=True).start()
    except (OSError, RuntimeError):
        # There is no descriptor or thread left; it was only for the better.
        if own >= 0:
            os.close(own)
        _busy.release()


def _drop(descriptor: int, end: int) -> None:
    hear_none()
    begin = max(0, end - WINDOW)
    try:
        # Begins to write what is not written, and drops what is.  A file system need not take advice.
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
        _busy.release()
