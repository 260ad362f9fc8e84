"""A stream that pours: its file, the room that is reserved there, and what is on its way through the staging."""

from __future__ import annotations

from typing import Final

from holdfast.host.preallocation import give_back, reserve
from holdfast.host.staging import CAPACITY, Portion, Staging

#: Bytes of disk that are reserved at a time at the most, and after which it is tried again if there were none.
_RESERVE: Final = 8 * 1024 * 1024
#: How much of the file stays in the page cache, in bytes: memory that is used again and again is quick.
_REMEMBERED: Final = 4 * 1024 * 1024


class Pouring:
    """The way of a stream by large portions: each is taken out of the pipe, and then lands in the file."""

    def __init__(self, staging: Staging, key: str, name: str, descriptor: int) -> None:
        """The stream's file is called *name*, belongs to the process *key*, and is open as *descriptor*."""
        self._staging = staging
        self._key = key
        self._name = name
        self._descriptor = descriptor
        #: Up to where in the file there is room for sure, and up to where it is not worth asking for.
        self._reserved = self._refused_until = 0
        self._generation = 0
        #: Where in the file belongs what was taken last, and how much it was.
        self.offset = 0
        self.length = 0

    def possible(self, offset: int) -> bool:
        """Whether more can be taken, with room for it at *offset*: out of the pipe, nothing else holds it."""
        if not self._staging.free:
            return False
        end = offset + CAPACITY
        if self._reserved < end and offset >= self._refused_until:
            # A stream that has not said much yet may say no more.
            size = min(max(CAPACITY, offset), _RESERVE)
            if reserve(self._descriptor, offset, size):
                self._reserved = offset + size
            else:
                self._refused_until = offset + _RESERVE
        return self._reserved >= end

    def take(self, source: int, offset: int) -> int:
        """Take what is in the pipe *source*, for *offset*; returns the number of bytes, 0 at end of file.

        :raises BlockingIOError: the pipe is empty
        :raises OSError: there is no memory, and nothing was taken
        """
        taken = self._staging.take(source, self._key, self._name, offset)
        self._generation = self._staging.generation
        self.offset, self.length = offset, taken
        return taken

    def resume(self, portion: Portion) -> None:
        """What an earlier server had taken is to land."""
        self._generation = self._staging.generation
        self.offset, self.length = portion.offset, portion.length

    def land(self) -> bool:
        """Write to the file what was taken; returns whether the page cache will let go of it by itself.

        :raises OSError: it cannot be written; the same call may succeed later
        """
        return self._staging.land(self._descriptor, self.offset, forget=self.offset >= _REMEMBERED)

    def data(self, begin: int, end: int) -> memoryview | None:
        """The part from *begin* to *end* of the file, if it is still where it was written from."""
        if self._generation != self._staging.generation:
            return None
        if begin < self.offset or end > self.offset + self.length:
            return None
        return self._staging.view(begin - self.offset, end - self.offset)

    def close(self) -> None:
        """Give back what was reserved and not needed."""
        give_back(self._descriptor)
