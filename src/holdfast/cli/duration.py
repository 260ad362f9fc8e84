"""Lengths of time as people type and read them."""

from __future__ import annotations

import re
from typing import Final

import click

from holdfast.clock import monotonic

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def option(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes ``90``, ``90s``, ``10m``, ``1h30m`` or ``none`` (infinity); gives seconds."""
    if value is None:
        return None
    seconds = parse(value)
    if seconds is None:
        raise click.BadParameter(f"{value!r} is not a length of time; write 90, 90s, 10m, 1h30m or none")
    return seconds


def parse(text: str) -> float | None:
    """Seconds, infinity for ``none``, or ``None`` if *text* is no length of time."""
    if text == "none":
        return float("inf")
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    if len(parts) > 1 and any(not unit for _, unit in parts):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return seconds if seconds > 0 else None


def limit(seconds: float) -> float | None:
    """A limit of a request: ``None`` stands for infinity there."""
    return None if seconds == float("inf") else seconds


def deadline(seconds: float | None) -> float | None:
    """The monotonic instant that is *seconds* from now; none for no limit."""
    wait = None if seconds is None else limit(seconds)
    return None if wait is None else monotonic() + wait


def clock(seconds: float) -> str:
    """A running time that is read while it grows: ``0:07``, ``12:34``, ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def words(seconds: float) -> str:
    """A length of time in at most two units: ``0.4s``, ``12s``, ``3m20s``, ``2h5m``, ``4d``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    total = int(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if total >= size:
            whole, rest = divmod(total, size)
            return f"{whole}{unit}{rest // below}{small}" if rest // below else f"{whole}{unit}"
    return f"{total}s"
