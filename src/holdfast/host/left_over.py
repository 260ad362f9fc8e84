"""What a lost process left running, and the end of it.

Nobody reads what it writes any more and nobody will see it exit, so it is ended.  Its log says that it is lost before
that is done; so that a server which is killed in between leaves the rest to the next one, it is noted in the directory
of the process until nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

from holdfast.host.tree import end_tree

if TYPE_CHECKING:
    from holdfast.host.process import HostedProcess

#: The file whose existence says that something is left.
_NOTE: Final = "left-over"

_log = logging.getLogger(__name__)


def note(directory: str) -> None:
    """Write down that what the process of *directory* left has to be ended.

    :raises OSError: there is no room for that
    """
    os.close(os.open(f"{directory}/{_NOTE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def is_noted(directory: str) -> bool:
    """Whether that was written down, and not done."""
    return os.path.exists(f"{directory}/{_NOTE}")


class LeftOver:
    """All of it, of the lost processes of one host."""

    def __init__(self, grace: float) -> None:
        """*grace*: seconds between being asked to end and being killed."""
        self._grace = grace
        self._endings: dict[HostedProcess, asyncio.Task[None]] = {}

    def end(self, process: HostedProcess) -> None:
        """See to the end of what *process* left, which is of this boot."""
        self._endings[process] = asyncio.get_running_loop().create_task(self._end(process))

    def ending(self, process: HostedProcess) -> asyncio.Task[None] | None:
        """What ends the rest of *process*, or could not tell what is alive of it; None if nothing has to be ended."""
        return self._endings.get(process)

    @property
    def ended(self) -> bool:
        """Whether nothing of it has yet to be ended."""
        return all(ending.done() for ending in self._endings.values())

    async def wait(self) -> None:
        """Wait until that is so.

        :raises OSError: what is alive of it cannot be told
        """
        for failure in await asyncio.gather(*self._endings.values(), return_exceptions=True):
            if failure is not None:
                raise failure

    async def _end(self, process: HostedProcess) -> None:
        assert process.tree is not None
        ending = await end_tree(process.tree, grace=self._grace)
        for member in ending.ended:
            _log.warning(
                "ended pid %d (%s), left over by lost process %r", member.pid, member.command, process.process_id
            )
        for member in ending.survivors:
            _log.error(
                "pid %d (%s), left over by lost process %r, cannot be ended",
                member.pid,
                member.command,
                process.process_id,
            )
        if not ending.survivors:
            # Without a note there was no room for one.
            with contextlib.suppress(OSError):
                os.unlink(f"{process.directory}/{_NOTE}")
        del self._endings[process]
