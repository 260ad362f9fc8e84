"""Time: monotonic for everything that is measured, wall clock only for people.

``CLOCK_MONOTONIC`` is one clock for all processes of a machine, so a reading may be stored and compared after a
restart of Holdfast, but only within one boot: store it together with :func:`boot_id`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def monotonic() -> float:
    """Seconds on the machine-wide monotonic clock (unaffected by changes of the wall clock)."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def wall() -> float:
    """Seconds since the epoch, UTC; for display and for ordering what people read."""
    return time.time()


def isoformat(seconds: float) -> str:
    """Render :func:`wall` seconds as RFC 3339 with milliseconds, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@cache
def boot_id() -> str:
    """Identify this boot of the machine; a monotonic reading of another boot means nothing here.

    Linux gives one directly; elsewhere the boot time, to the second, stands for it.
    """
    path = Path("/proc/sys/kernel/random/boot_id")
    if path.exists():
        return path.read_text().strip()
    import psutil

    return f"boot-{int(psutil.boot_time())}"
