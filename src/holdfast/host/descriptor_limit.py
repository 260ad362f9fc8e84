"""How many descriptors a process may have: the host all that it can get, its children what it was started with.

A child inherits the limit of the moment in which it is made, and programs that use ``select``, or that close every
number up to the limit, rely on a low one.  So the host lowers its own around each start.  What it has open stays open,
and other threads can open more, as long as there are free numbers below.  Where there are not, the limit of the child
is set right after its start; it may have looked at it by then.
"""

from __future__ import annotations

import os
import resource
from typing import Final

#: Numbers that have to be free below the limit of children for what other threads open during a start.
_ROOM: Final = 256


class DescriptorLimit:
    """The limit of children, while that of the host is another one."""

    def __init__(self, soft: int | None) -> None:
        own, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._own = (own, hard)
        self._children = (own if soft is None else soft, hard)
        self._lowered = False

    def lower(self, home: int) -> None:
        """Before a start: let what is made now inherit the limit of children; *home* is any descriptor."""
        if self._children == self._own:
            return
        # The lowest free number: nearly all below it are taken.
        free = os.dup(home)
        os.close(free)
        if free + _ROOM < self._children[0]:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._children)
            self._lowered = True

    def give(self, pid: int) -> None:
        """Set that of a child that was made without it."""
        if self._lowered or self._children == self._own:
            return
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, self._children)
        except OSError:
            # A program of other rights keeps what it has.
            pass

    def restore(self) -> None:
        """After a start, also if it failed."""
        if self._lowered:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
            self._lowered = False
