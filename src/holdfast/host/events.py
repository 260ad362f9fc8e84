"""Events on their way from the drop of a process into its log: some at a time, and all of them before its end."""

from __future__ import annotations

import asyncio
from typing import Protocol

from holdfast.host.drop import SignalDrop
from holdfast.host.log import ProcessLog
from holdfast.host.log_index import LogFull


class EventsOwner(Protocol):
    """The process whose events they are."""

    #: Why nothing can be written to the log at the moment, if nothing can.
    stalled: str | None

    def notify(self) -> None:
        """Something is in the log that was not."""

    def events_recorded(self) -> None:
        """Its end may have waited for them."""

    def stall(self, reason: LogFull) -> None:
        """The log takes nothing at the moment; the owner decides when to :meth:`Events.collect`."""


class Events:
    """The events of one process."""

    def __init__(self, owner: EventsOwner, drop: SignalDrop, log: ProcessLog) -> None:
        self._owner = owner
        self._drop = drop
        self._log = log
        #: Whether more are about to be collected.
        self._collecting = False
        #: Whether something arrived meanwhile.
        self._more_arrived = False
        #: Whether the last record is written, or waits for room: nothing follows it.
        self._over = False
        #: Whether the next record waits for events that were there before it.
        self.awaited = False

    def watch(self) -> None:
        """Collect them from now on."""
        self._drop.watch(self._arrived)

    def look(self) -> None:
        """Look into a drop that cannot be watched."""
        if not self._drop.watched:
            self._arrived()

    def _arrived(self) -> None:
        if self._collecting:
            self._more_arrived = True
        elif self._owner.stalled is None and self.collect():
            self._owner.notify()

    def collect(self) -> bool:
        """Turn some into records, and the others soon; returns whether there was one."""
        if self._over:
            return False
        try:
            found = self._drop.collect(self._log)
        except LogFull as error:
            self._owner.stall(error)
            return False
        if (self._drop.more or self._more_arrived) and not self._collecting:
            self._collecting, self._more_arrived = True, False
            asyncio.get_running_loop().call_soon(self._collect_more)
        return found

    def _collect_more(self) -> None:
        self._collecting = False
        if self._owner.stalled is None:
            self._arrived()
            self._owner.events_recorded()

    def all_recorded(self) -> bool:
        """Whether all are that were there when this was first asked; if not, it is asked again."""
        if not self.awaited:
            self.awaited = True
            if self._drop.waiting:
                self._drop.look()
            self.collect()
        self.awaited = self._drop.waiting or self._owner.stalled is not None
        return not self.awaited

    def end(self) -> None:
        """Collect no more."""
        self._over = True

    def close(self) -> None:
        """Remove the drop: nothing is expected any more."""
        self._drop.close()
