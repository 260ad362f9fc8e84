"""Whether a part of Holdfast that runs by itself answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from holdfast.doctor.check import Check, Finding, Level
from holdfast.errors import HoldfastError

#: Asks for a sign of life: a sentence about what answered, ``None`` if nothing runs, an error if it runs but fails.
Ask = Callable[[], Awaitable[str | None]]


class ReachableCheck(Check):
    """The daemon, or a host, answers, or is not running (which is no fault: it is started when it is needed)."""

    timeout_s = 10.0

    def __init__(self, id: str, title: str, ask: Ask) -> None:
        self.id = id
        self.title = title
        self._ask = ask

    async def run(self) -> Finding:
        try:
            answer = await self._ask()
        except HoldfastError as error:
            return Finding(
                level=Level.ERROR,
                summary=f"{self.title} does not answer.",
                detail=error.message,
                hint=error.hint or "Stop it with 'holdfast down'; the next command starts it again.",
            )
        if answer is None:
            return Finding(level=Level.INFO, summary=f"{self.title} is not running; it is started when it is needed.")
        return Finding(level=Level.OK, summary=answer)
