"""Writing all of something: on a full disk the system takes a part of it, or on a network all, without a word."""

from __future__ import annotations

import contextlib
import os


def append_whole(descriptor: int, data: bytes) -> None:
    """Write *data* to the end of a file, all of it or nothing.

    :raises OSError: it does not fit
    """
    written = 0
    try:
        while written < len(data):
            written += os.write(descriptor, data[written:] if written else data)
    except OSError:
        if written:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise


def write_all_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write *data* at *offset*.

    :raises OSError: it does not fit; a part of it may be there
    """
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:] if written else data, offset + written)


def close_file(descriptor: int) -> None:
    """Close a file that was written.

    A network file system says only then that there was no room for it.  It is closed all the same, and who reads it
    sees what is missing; whatever else ends with it must not be left half done.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)
