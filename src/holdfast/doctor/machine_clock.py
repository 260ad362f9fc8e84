"""The clocks: one that tells boots apart, and one that people can read."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from holdfast.clock import boot_id, isoformat, monotonic, wall
from holdfast.doctor.check import BlockingCheck, Finding, Level

#: Seconds by which our own files may seem to come from the future (time zones of archives, slow clocks).
_SKEW: Final = 86_400.0


class ClockCheck(BlockingCheck):
    """This boot can be told from others, time goes on, and it is not long ago."""

    id = "clock"
    title = "Clock"

    def look(self) -> Finding:
        try:
            boot = boot_id()
        except OSError as error:
            boot = ""
            detail = str(error)
        else:
            detail = boot
        if not boot:
            return Finding(
                level=Level.ERROR,
                summary="This boot of the machine cannot be told from others, so time limits cannot outlive a restart.",
                detail=detail,
                hint="Make /proc/sys/kernel/random/boot_id readable.",
            )
        if monotonic() <= 0:
            return Finding(
                level=Level.ERROR,
                summary="The monotonic clock does not run.",
                hint="Look at the machine's clock source.",
            )
        newest = max(os.stat(path).st_mtime for path in Path(__file__).parent.glob("*.py"))
        if wall() < newest - _SKEW:
            installed = datetime.fromtimestamp(newest, UTC).date()
            return Finding(
                level=Level.WARNING,
                summary=f"The clock says {isoformat(wall())}, but Holdfast itself was installed on {installed}.",
                hint="Set the clock, or switch on time synchronisation.",
            )
        return Finding(level=Level.OK, summary=isoformat(wall()), detail=detail)
