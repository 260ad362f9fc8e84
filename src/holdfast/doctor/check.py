"""The port of every check: look at one thing, explain what is wrong with it, and mend it where that is safe."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, TypeVar

import msgspec

from holdfast.errors import InvalidRequest

T = TypeVar("T")


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    #: Nothing is wrong; worth knowing.
    INFO = "info"
    #: Something works worse than it could.
    WARNING = "warning"
    #: Something does not work, or is not safe.
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found."""

    level: Level
    #: One sentence: what is.
    summary: str
    #: What is known beyond it: paths, numbers, what a program said.
    detail: str | None = None
    #: One sentence: what to do.  Always there when the level is warning or error.
    hint: str | None = None
    #: The check can mend it by itself.
    fixable: bool = False


class NothingToFix(InvalidRequest):
    """The check has no way to mend anything."""

    code = "nothing_to_fix"


class Check(abc.ABC):
    """One thing that can be wrong.  Looking changes nothing."""

    #: Stable name for programs: ``state.directory``.
    id: ClassVar[str] | str
    #: For people, a few words.
    title: ClassVar[str] | str
    #: Seconds after which the check itself counts as hanging.
    timeout_s: ClassVar[float] | float = 5.0

    @abc.abstractmethod
    async def run(self) -> Finding:
        """Look."""

    async def fix(self) -> None:
        """Mend what a finding called ``fixable``; doing it again, or when nothing is wrong, changes nothing.

        :raises NothingToFix: this check never mends anything
        """
        raise NothingToFix(f"The check {self.id} cannot mend anything.", hint="Follow the hint of its finding.")


class BlockingCheck(Check):
    """A check made of calls that block; they run in a thread of their own, which a hanging one cannot hold us up by."""

    @abc.abstractmethod
    def look(self) -> Finding:
        """Look; may block."""

    def mend(self) -> None:
        """Mend; may block."""
        raise NothingToFix(f"The check {self.id} cannot mend anything.", hint="Follow the hint of its finding.")

    async def run(self) -> Finding:
        return await in_own_thread(self.look)

    async def fix(self) -> None:
        await in_own_thread(self.mend)


async def in_own_thread(function: Callable[[], T]) -> T:
    """Run *function* in a daemon thread.

    The event loop's own threads are waited for when the program ends; one that hangs in a system call (a dead network
    file system, for instance) would keep it from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        caught: BaseException | None = None
        try:
            result = function()
        except BaseException as error:  # handed to whoever waits
            caught = error
        # The loop is closed when nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, caught)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await future
