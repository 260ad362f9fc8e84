"""Memory of the keeper's, through which output that pours in reaches its file.

Moving a pipe into a file at one stroke (``splice``) is safe, but slow: page by page, with the pipe locked against the
child all the while.  Moving it into memory and writing that to the file takes two thirds of the processor's time,
leaves the pipe to the child, and whoever is up to date is served from that memory.  But what was taken out of the pipe
is nowhere else until it is in the file, so the memory must outlive the server: it is a file without a name that the
keeper holds as well.  How much has arrived is its position, which the kernel moves on in the very system call that
empties the pipe; where it belongs was written down before.  The next server lets it land once more: the same bytes at
the same place.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import struct
from collections.abc import Callable, Container
from time import monotonic
from typing import Final, NamedTuple

#: Bytes that are taken at one go: as much as a pipe holds at most if its owner has no privileges.
CAPACITY: Final = 1024 * 1024
#: The process (its directory), the file of the stream there, and the offset in that.
_HEAD: Final = struct.Struct("<255p31pQ")
#: Where the output begins.
_BEGIN: Final = mmap.PAGESIZE
#: ``RWF_DONTCACHE`` (Linux 6.14): write to the disk from now on, and let go of the memory when that is done.
_DONT_CACHE: Final = 0x80
_NOT_KNOWN: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
#: Seconds that the disk may take to accept a portion; else it is left to its own pace for so many seconds.
_PATIENCE: Final = 0.005
_RESPITE: Final = 1.0


class Portion(NamedTuple):
    """What was taken at one go: for which file of a process, where in it, and how many bytes."""

    name: str
    offset: int
    length: int


class Staging:
    """One for all processes of a host: what is in it leaves before more is taken."""

    def __init__(self, hold: Callable[[dict[str, int]], None]) -> None:
        """*hold* gives the keeper what :meth:`holdings` is going to say, or raises :exc:`OSError`."""
        self._hold = hold
        self._memory = -1
        self._map: mmap.mmap | None = None
        #: Bytes that were taken, and those of them that have landed.
        self._taken = self._landed = 0
        #: What an earlier server left, and the process that it belongs to.
        self._left: tuple[str, Portion] | None = None
        #: Whether that is for a later server, and nothing is taken until then.
        self._reserved = False
        #: Changes whenever something else is taken.
        self.generation = 0
        #: When (monotonic) the disk may be asked again to write what landed at once.
        self._patient_from = 0.0

    @classmethod
    def recover(cls, hold: Callable[[dict[str, int]], None], held: dict[str, int]) -> Staging:
        """Take over what the keeper *held* for an earlier server; whose it is may :meth:`claim` what is in it."""
        staging = cls(hold)
        staging._memory = memory = held["memory"]
        taken = os.lseek(memory, 0, os.SEEK_CUR) - _BEGIN
        if taken > 0:
            key, name, offset = _HEAD.unpack(os.pread(memory, _HEAD.size, 0))
            staging._left = key.decode(), Portion(name.decode(), offset, taken)
        return staging

    def claim(self, key: str) -> Portion | None:
        """What an earlier server had taken last, if it was from the process *key*: to land again, if it has not."""
        if self._left is None or self._left[0] != key:
            return None
        portion, self._left = self._left[1], None
        if self._map is None:
            self._prepare()
        self.generation += 1
        self._taken, self._landed = portion.length, 0
        return portion

    def drop(self) -> None:
        """What was claimed has landed before, or there is no place for it."""
        self._landed = self._taken

    def reserve(self, passed_over: Container[str]) -> None:
        """Keep what an earlier server left, if it is of one of the processes that this server has *passed_over*."""
        self._reserved = self._left is not None and self._left[0] in passed_over

    def holdings(self) -> dict[str, int]:
        """The descriptors that a keeper has to hold, by name."""
        return {"memory": self._memory} if self._memory >= 0 else {}

    @property
    def free(self) -> bool:
        """Whether everything that was taken has landed, and nothing waits for a later server."""
        return self._landed == self._taken and not self._reserved

    def take(self, source: int, key: str, name: str, offset: int) -> int:
        """Take what is in the pipe *source*, for the file *name* of the process *key*, at *offset*; only when free.

        Returns the number of bytes, 0 at end of file.

        :raises BlockingIOError: the pipe is empty
        :raises OSError: there is no memory, and nothing was taken
        """
        memory = self._map or self._prepare()
        self._left = None
        self.generation += 1
        self._taken = self._landed = 0
        # First nothing has arrived, then the head changes: it never speaks of what belongs elsewhere.
        os.lseek(self._memory, _BEGIN, os.SEEK_SET)
        _HEAD.pack_into(memory, 0, key.encode(), name.encode(), offset)
        self._taken = os.splice(source, self._memory, CAPACITY, flags=os.SPLICE_F_NONBLOCK)
        return self._taken

    def land(self, descriptor: int, offset: int, *, forget: bool) -> bool:
        """Write what was taken to its place; after an error, the same call goes on where that one was.

        :param forget: whether the page cache should let go of it as soon as it is on the disk
        :returns: whether it will
        :raises OSError: it cannot be written
        """
        began = monotonic()
        forget = forget and began >= self._patient_from
        while self._landed < self._taken:
            try:
                data = self.view(self._landed, self._taken)
                written = os.pwritev(descriptor, [data], offset + self._landed, _DONT_CACHE if forget else 0)
            except OSError as error:
                if not forget or error.errno not in _NOT_KNOWN:
                    raise
                forget = False
                self._patient_from = math.inf
            else:
                self._landed += written
        if forget and (now := monotonic()) - began > _PATIENCE:
            # Its queue is full, and the event loop waited for it: the kernel writes the next ones when it likes.
            self._patient_from = now + _RESPITE
        return forget

    def view(self, begin: int, end: int) -> memoryview:
        """A part of what was taken last; it changes when more is taken."""
        assert self._map is not None
        return memoryview(self._map)[_BEGIN + begin : _BEGIN + end]

    def _prepare(self) -> mmap.mmap:
        if self._memory < 0:
            memory = os.memfd_create("holdfast-staging")
            try:
                self._hold({"memory": memory})
            except BaseException:
                os.close(memory)
                raise
            self._memory = memory
        os.ftruncate(self._memory, _BEGIN + CAPACITY)
        self._map = mmap.mmap(self._memory, _BEGIN + CAPACITY)
        return self._map
