"""Cutting a byte stream that arrives in records into lines, and knowing where to go on after a restart.

No partial line is ever stored.  What is stored is a :class:`Cursor`, a place in the log such that reading again from
there yields exactly what was not folded yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

#: Longest line that is put together in memory, in bytes.  Of a longer one only the beginning is kept.
LONGEST_LINE = 64 * 1024 * 1024
#: How much of the beginning of a longer line is kept, in bytes.
_KEPT = 4096


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log is folded.

    All records up to ``seq`` are folded.  So are the first ``skip`` bytes of record ``seq + 1`` if that is one of
    standard output, and of the records up to ``seen`` those that are not.  (The records of standard output between
    ``seq`` and ``seen`` hold the beginning of a line whose end had not been seen.)
    """

    seq: int = 0
    skip: int = 0
    seen: int = 0


class OverlongLine(msgspec.Struct, frozen=True):
    """A line longer than :data:`LONGEST_LINE`: its beginning, and its length in bytes."""

    beginning: bytes
    length: int


class LineCutter:
    """Puts lines together, and remembers at which record and byte the unfinished one begins."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0
        self._start: tuple[int, int] | None = None

    def feed(self, seq: int, data: bytes, begin: int = 0) -> Iterator[bytes | OverlongLine]:
        """Add the bytes of record *seq* from *begin* on; yields the lines that end in it, without their line feeds."""
        while (end := data.find(b"\n", begin)) >= 0:
            self._add(data[begin:end])
            begin = end + 1
            yield self._take()
        if begin < len(data):
            if self._start is None:
                self._start = (seq, begin)
            self._add(data[begin:])

    def flush(self) -> bytes | OverlongLine | None:
        """The unfinished line, which nothing will finish any more; ``None`` if there is none."""
        return self._take() if self._start is not None else None

    def cursor(self, seen: int) -> Cursor:
        """The place to go on at, when all records up to *seen* were handled."""
        if self._start is None:
            return Cursor(seq=seen, skip=0, seen=seen)
        seq, offset = self._start
        return Cursor(seq=seq - 1, skip=offset, seen=seen)

    def _add(self, piece: bytes) -> None:
        if not piece:
            return
        self._length += len(piece)
        if self._length <= LONGEST_LINE:
            self._pieces.append(piece)
        elif len(self._pieces) != 1 or len(self._pieces[0]) > _KEPT:
            self._pieces = [b"".join(self._pieces)[:_KEPT] or piece[:_KEPT]]

    def _take(self) -> bytes | OverlongLine:
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        length = self._length
        self._pieces, self._length, self._start = [], 0, None
        if length > LONGEST_LINE:
            return OverlongLine(whole, length)
        return whole[:-1] if whole.endswith(b"\r") else whole
