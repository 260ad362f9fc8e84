"""The format of the index of a log: records of a fixed size, each about one chunk of output, one event or one end."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable

#: seq, time (ns UTC), offset in the stream's file, length, exit code, signal, kind; see :class:`Entry`.
RECORD: Final = struct.Struct("<QqQIhBB")
#: The largest chunk that one record describes, in bytes.
CHUNK: Final = 512 * 1024
#: Stands in the index for "how it ended is not known".
UNKNOWN_EXIT: Final = -1


class EntryKind(IntEnum):
    """What a record of the index describes; the values are part of the file format."""

    #: Nothing that could be had any more: retention deleted it, or a loss of power left no record (zeros, most often)
    #: or not all of its bytes.
    GONE = 0
    STDOUT = 1
    STDERR = 2
    PTY = 3
    SIGNAL = 4
    EXITED = 5
    CLOSED = 6


#: The file that holds the bytes of a kind.
STREAM_FILES: Final = {
    EntryKind.STDOUT: "stdout",
    EntryKind.STDERR: "stderr",
    EntryKind.PTY: "pty",
    EntryKind.SIGNAL: "signals",
}


class Entry(NamedTuple):
    """One record of the index."""

    seq: int
    #: Nanoseconds since the epoch, UTC.
    time_ns: int
    #: Where the bytes begin in the stream's file, and how many they are.
    offset: int
    length: int
    #: ``EXITED`` only: 0-255, or 128 + signal number; :data:`UNKNOWN_EXIT` if nobody saw the end.
    exit_code: int
    #: ``EXITED`` only: the signal that ended the process, or 0.
    signal: int
    kind: int


def gone(seq: int) -> Entry:
    """What stands in the place of a record that cannot be had any more."""
    return Entry(seq, 0, 0, 0, 0, 0, EntryKind.GONE)


#: Makes an entry of a tuple, without the function that a named tuple has for it.
new_entry: Final = cast("Callable[[type[Entry], tuple[int, ...]], Entry]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
