"""Attempts that are one piece of work: one that broke off, and those that collect what went on without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.tasks.rows import AttemptRow

#: The reason of an attempt that collects what goes on without the process that was started for it.
REATTACH: Final = "reattach"


def continued(attempts: Sequence[AttemptRow]) -> list[AttemptRow]:
    """The last of *attempts* and those that it continues, newest first; none if there is none.

    One that collects tells again what those before it had told, unless nothing was on record any more.
    """
    work: list[AttemptRow] = []
    for attempt in reversed(attempts):
        work.append(attempt)
        if attempt.reason != REATTACH:
            break
    return work
