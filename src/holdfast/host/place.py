"""Places: empty directories for the processes that come next, with their files made.

ext4 looks for a free inode in the block group of the directory and passes over those that were deleted in the last
minutes, one by one, at each creation: where tests or builds delete by the thousand, one small file costs a millisecond.
So a place is made in a *nursery*, a directory that the file system is asked to put into a group of its own (the top of
a hierarchy, in its terms), and then moved to where it belongs; what is later made inside stays in that group.  A group
in which somebody else deletes is found out by the time that it takes, and left.  Other file systems ignore the wish.
"""

from __future__ import annotations

import array
import fcntl
import os
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from holdfast.clock import monotonic
from holdfast.directories import private_directory, remove_directory
from holdfast.errors import HoldfastError
from holdfast.host.log import ProcessLog

#: The description file, and the index of the log.
_RECORD: Final = "process"
_INDEX: Final = "index"
#: Places made in one nursery before the next one: what the host itself deleted meanwhile is passed over as well.
_LITTER: Final = 1000
#: Seconds that a place may take (usually it is a twentieth of a millisecond), and how many that take longer, one after
#: the other, are reason enough to look for another group.
_SLOW: Final = 0.0003
_SUSPICIOUS: Final = 16

# linux/fs.h; the argument is an int, whatever the size in the number says.
_FS_IOC_GETFLAGS: Final = 0x80006601 | array.array("l").itemsize << 16
_FS_IOC_SETFLAGS: Final = 0x40006602 | array.array("l").itemsize << 16
_FS_TOPDIR_FL: Final = 0x00020000


class Place(NamedTuple):
    """An empty directory for a process, with its description file and its log open."""

    directory: str
    record: int
    log: ProcessLog

    @classmethod
    def open(cls, directory: str) -> Place:
        """Take a place that :func:`make_place` made.

        :raises OSError: no descriptors; the place is still there
        """
        record = os.open(f"{directory}/{_RECORD}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return cls(directory, record, ProcessLog.create(directory))
        except BaseException:
            os.close(record)
            raise

    def discard(self) -> None:
        """Remove it."""
        os.close(self.record)
        self.log.close()
        remove_place(self.directory)


class Nursery:
    """Where places are made, by any thread."""

    def __init__(self, state_directory: Path) -> None:
        """It is made in *state_directory* when it is first needed."""
        self._above = state_directory / "nurseries"
        self._ready = False
        self._directory = ""
        self._made = 0
        self._slow = 0
        self._lock = Lock()

    def make_directory(self, directory: str) -> None:
        """Make *directory*, which is on the same file system.

        :raises OSError: no room
        :raises HoldfastError: there is no place for a nursery
        """
        with self._lock:
            if not self._directory or self._made >= _LITTER:
                self._renew()
            self._made += 1
            cradle = f"{self._directory}/{self._made}"
            os.mkdir(cradle, 0o700)
            os.rename(cradle, directory)

    def took(self, seconds: float) -> None:
        """A place was made in that time."""
        with self._lock:
            self._slow = self._slow + 1 if seconds > _SLOW else 0
            if self._slow >= _SUSPICIOUS:
                self._made = _LITTER

    def _renew(self) -> None:
        if not self._ready:
            # Empty, or with what a killed server was about to make.
            remove_directory(self._above)
            private_directory(self._above)
            _spread_below(self._above)
            self._ready = True
        directory = f"{self._above}/{os.urandom(8).hex()}"
        os.mkdir(directory, 0o700)
        left, self._directory = self._directory, directory
        self._made = self._slow = 0
        if left:
            remove_directory(left)

    def close(self) -> None:
        """Remove it."""
        remove_directory(self._above)


def make_place(nursery: Nursery, directory: str) -> None:
    """Make the place *directory*: both files are there and empty.

    :raises OSError: no room, or no descriptors; nothing is left
    :raises HoldfastError: there is no place for a nursery
    """
    began = monotonic()
    nursery.make_directory(directory)
    try:
        for name in (_RECORD, _INDEX):
            os.close(os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except BaseException:
        remove_place(directory)
        raise
    nursery.took(monotonic() - began)


def make_places(nursery: Nursery, directories: list[str]) -> list[str]:
    """Make as many of them as can be made; returns those."""
    made: list[str] = []
    try:
        for directory in directories:
            make_place(nursery, directory)
            made.append(directory)
    except (OSError, HoldfastError):
        # No room or no descriptors: the start that needs a place will say so.
        pass
    return made


def recycle_place(directory: str, name: str) -> bool:
    """Make a place called *name* of the directory of a process that is forgotten; False if it is not fit for that.

    Recovery never mistakes what is left half-way for a process: what described it goes first.
    """
    try:
        os.truncate(f"{directory}/{_RECORD}", 0)
        os.truncate(f"{directory}/{_INDEX}", 0)
        for other in os.listdir(directory):
            if other not in (_RECORD, _INDEX):
                os.unlink(f"{directory}/{other}")
        os.rename(directory, name)
    except OSError:
        # Something that the host did not put there, or a full disk.
        return False
    return True


def remove_place(directory: str) -> None:
    """Remove a place, whatever is in it."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:
        # Something that the host did not put there, or a full disk that needs room to delete.
        remove_directory(directory)


def _spread_below(directory: Path) -> None:
    """Let each directory that is made in *directory* be in a part of the disk of its own."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = array.array("l", [0])
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
        flags[0] |= _FS_TOPDIR_FL
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags)
    except OSError:
        # A file system that knows no such wish.
        pass
    finally:
        os.close(descriptor)
