"""When a child was started, as the operating system tells it: in clock ticks since boot."""

from __future__ import annotations

import os
import time
from typing import Final

from holdfast.host.os_process import start_time

#: Clock ticks are this long.
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class StartClock:
    """Start times of children that were started just now, mostly without asking."""

    def __init__(self) -> None:
        #: Whether start times are told in the clock that this process reads; None: not known yet.
        self._same: bool | None = None

    def ticks(self, pid: int, before: int) -> int:
        """Start time in clock ticks since boot of a child that was started after *before* (ns since boot)."""
        first, last = before // _TICK_NS, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK_NS
        if self._same and first == last:
            # There is only one possibility, and nobody has to be asked.
            return first
        told = start_time(pid)
        if self._same is None and told:
            self._same = first <= told <= last
        return told
