"""Places that may never answer: file systems of other machines, and those that a program serves.

A start happens on the event loop, which changes its directory and looks for the program: there it must not meet one of
them that hangs.  What is told here comes from the table of mounts alone; none of the places is touched.
"""

from __future__ import annotations

import os
import posixpath
import select
import stat
from typing import Final

from holdfast.host.mounts import TABLE, read_mounts

#: Types of file systems, up to the first dot.
_KINDS: Final = frozenset(
    {
        *("9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs"),
    }
)
#: Symlinks followed before a path is declared a loop (the kernel's own number).
_LINK_LIMIT: Final = 40


class HangingMounts:
    """What is mounted of that kind, now."""

    def __init__(self) -> None:
        self._table = os.open(TABLE, os.O_RDONLY | os.O_CLOEXEC)
        # The kernel reports a change of the table as an exceptional condition of it: to ask costs a microsecond.
        self._changed = select.poll()
        self._changed.register(self._table, select.POLLPRI)
        self._points = self._read()

    def any(self) -> bool:
        """Whether there are some."""
        if self._changed.poll(0):
            self._points = self._read()
        return bool(self._points)

    def _read(self) -> frozenset[str]:
        found = frozenset(mount.point for mount in read_mounts() if mount.kind.partition(".")[0] in _KINDS)
        # If everything hangs there is nobody left to be spared.
        return found - {"/"}

    def lead(self, path: str) -> bool:
        """Whether an absolute *path*, its symlinks followed, leads into one of them."""
        place, steps, links = "/", path.split("/")[::-1], 0
        while steps:
            step = steps.pop()
            if step in ("", "."):
                continue
            if step == "..":
                place = posixpath.dirname(place)
                continue
            place = posixpath.join(place, step)
            if place in self._points:
                return True
            try:
                if not stat.S_ISLNK(os.lstat(place).st_mode):
                    continue
                target = os.readlink(place)
            except OSError:
                # There is nothing on the way any more.
                return False
            links += 1
            if links > _LINK_LIMIT:
                return False
            place = "/" if target.startswith("/") else posixpath.dirname(place)
            steps += target.split("/")[::-1]
        return False

    def close(self) -> None:
        """Look no more."""
        os.close(self._table)


def touch(paths: list[str]) -> None:
    """Look at each of *paths*, in a worker thread: it comes back when they answer, and whatever they do."""
    for path in paths:
        try:
            os.stat(path)
        except (OSError, ValueError):
            # Whoever uses it is told.
            continue
