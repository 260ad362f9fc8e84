"""The index of a log: records of a fixed size, one for each chunk of output, each event and each end.

Record *n* lies at ``(n - 1) * 32``, so a cursor read costs the same anywhere in the log.  Nobody is told of a record
before it is in the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections import deque
from itertools import islice
from typing import Final

from holdfast.errors import HoldfastError
from holdfast.host.log_format import RECORD, STREAM_FILES, Entry, EntryKind, gone, new_entry
from holdfast.host.whole import close_file, write_all_at

#: How many of the newest records are also held in memory, for readers that are up to date.
_TAIL: Final = 64
#: That of an index to which nobody writes: an empty one of its own would take half a KiB.
_NO_TAIL: Final[deque[Entry]] = deque(maxlen=0)
#: How many records are read at a time when one is looked for.
_STRIDE: Final = 512

#: The kinds that describe no bytes.
_ENDS: Final = frozenset({EntryKind.EXITED, EntryKind.CLOSED})

#: Errors of a file system that say that there is no room.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: An entry without its number.
Unnumbered = tuple[int, int, int, int, int, int]


class LogFull(HoldfastError):
    """The file system has no room (or cannot write); nothing was lost, and the same call may succeed later."""

    code = "log_full"


def log_full(what: str, error: OSError) -> LogFull:
    """That *what* cannot be written at the moment.  Whatever the reason is, the writer waits and does not give up."""
    if error.errno in FULL:
        return LogFull(f"No room for {what}.")
    return LogFull(f"Cannot write {what}: {error.strerror}.")


class LogIndex:
    """The records in one file: a single writer, any number of readers, no memory that grows with it."""

    __slots__ = ("__weakref__", "_descriptor", "_path", "_release", "_tail", "last_seq", "waiting")

    def __init__(self, path: str, descriptor: int = -1, last_seq: int = 0) -> None:
        self._path = path
        self._descriptor = descriptor
        self._tail: deque[Entry] = deque(maxlen=_TAIL) if descriptor >= 0 else _NO_TAIL
        self._release: weakref.finalize[..., LogIndex] | None = None
        #: The highest sequence number that readers may see.
        self.last_seq = last_seq
        #: Records whose bytes are safe but which are not in the file yet; invisible until they are.
        self.waiting: list[Unnumbered] = []

    @classmethod
    def writable(cls, path: str) -> LogIndex:
        """Open the index at *path*, or begin one; half of a record at its end is cut off.

        :raises OSError: that cannot be done; nothing stays open
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            count, surplus = divmod(size, RECORD.size)
            if surplus:
                os.ftruncate(descriptor, size - surplus)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, count)

    @classmethod
    def complete(cls, path: str) -> LogIndex:
        """Open an index that nobody will write to any more; it holds no descriptor."""
        return cls(path, last_seq=os.stat(path).st_size // RECORD.size)

    def append(self, fields: Unnumbered) -> None:
        """Write one record; nothing else waits.

        :raises LogFull: no room; :meth:`flush` brings it in later
        """
        entry = new_entry(Entry, (self.last_seq + 1, *fields))
        try:
            written = os.pwrite(self._descriptor, RECORD.pack(*entry), self.last_seq * RECORD.size)
        except OSError:
            written = 0
        if written == RECORD.size:
            self._tail.append(entry)
            self.last_seq += 1
        else:
            self.waiting.append(fields)
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        :raises LogFull: there is still no room
        """
        if not self.waiting:
            return
        seq = self.last_seq
        entries: list[Entry] = []
        packed = b""
        for number, fields in enumerate(self.waiting, seq + 1):
            entry = new_entry(Entry, (number, *fields))
            entries.append(entry)
            packed += RECORD.pack(*entry)
        try:
            write_all_at(self._descriptor, packed, seq * RECORD.size)
        except OSError as error:
            raise log_full(f"the index in {os.path.dirname(self._path)}", error) from error
        self._tail.extend(entries)
        self.last_seq = seq + len(entries)
        self.waiting.clear()

    def entries(self, after: int, limit: int) -> list[Entry]:
        """Up to *limit* records with sequence numbers above *after*, in order.

        None is missing: where the file holds none that was ever written there stands one that is *gone*.
        """
        last = self.last_seq
        if after >= last:
            return []
        tail = self._tail
        if tail and tail[0].seq <= after + 1:
            skip = after + 1 - tail[0].seq
            return list(islice(tail, skip, skip + limit))
        size, position = min(limit, last - after) * RECORD.size, after * RECORD.size
        packed = b""
        if self._descriptor >= 0:
            packed = os.pread(self._descriptor, size, position)
        else:
            # Somebody may have deleted it, or all of the directory.
            with contextlib.suppress(FileNotFoundError):
                descriptor = self._open()
                try:
                    packed = os.pread(descriptor, size, position)
                finally:
                    os.close(descriptor)
        entries: list[Entry] = []
        for seq, fields in enumerate(RECORD.iter_unpack(packed.ljust(size, b"\0")), after + 1):
            entry = new_entry(Entry, fields)
            entries.append(entry if entry.seq == seq and _makes_sense(entry) else gone(seq))
        return entries

    def last(self, kind: EntryKind) -> Entry | None:
        """The newest record of *kind*, looking backwards."""
        end = self.last_seq
        while end > 0:
            begin = max(0, end - _STRIDE)
            for entry in reversed(self.entries(begin, end - begin)):
                if entry.kind == kind:
                    return entry
            end = begin
        return None

    def hold(self) -> None:
        """Let who reads a complete index at this moment go on reading it when the file is deleted."""
        if self._descriptor < 0:
            # Somebody may have deleted it already.
            with contextlib.suppress(FileNotFoundError):
                self._descriptor = self._open()
                self._release = weakref.finalize(self, os.close, self._descriptor)

    def close(self) -> None:
        """Close the file; reading goes on working, writing does not."""
        if self._release is not None:
            self._release.detach()
        descriptor, self._descriptor = self._descriptor, -1
        self._tail = _NO_TAIL
        if descriptor >= 0:
            close_file(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _makes_sense(entry: Entry) -> bool:
    return entry.kind in STREAM_FILES or (not entry.length and entry.kind in _ENDS)
