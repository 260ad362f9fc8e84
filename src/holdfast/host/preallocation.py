"""Room for output, reserved before the output is taken from where it is safe.

What lies behind the end of a file belongs to it, but not to its size: a log that is recovered by its size is not
misled, and what was not needed is given back in the end.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_FALLOC_FL_KEEP_SIZE: Final = 1

_libc: Final = ctypes.CDLL(None)
_fallocate: Final = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)


def reserve(descriptor: int, offset: int, size: int) -> bool:
    """Reserve room on the disk for *size* bytes at *offset*; False if there is none, or none can be reserved."""
    if _fallocate is None:
        return False
    return _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)) == 0


def give_back(descriptor: int) -> None:
    """Give back what was reserved behind the end of the file."""
    try:
        # Linux frees what is behind the end also where the size stays the same.
        os.ftruncate(descriptor, os.fstat(descriptor).st_size)
    except OSError:
        # It goes with the file.
        pass
