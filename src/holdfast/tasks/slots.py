"""How many tasks work at once: first come, first served, with a bound for all and one for each agent.

A task that is asked for from within a task is *nested*: whoever asked holds a slot and waits, so it is not counted
among the others, or a full set of waiting askers would stand still for ever.

The queue lives in memory and is made again from the tasks that are stored as queued, in the order in which they were
accepted; so a restart loses no place.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from holdfast.agents.catalogue import read_table, slots_of_agents
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.errors import HoldfastError

logger: Final = logging.getLogger(__name__)


#: How many nested tasks may be at work for each slot of the others.
NESTED: Final = 4


class SlotsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[slots]`` of the configuration file."""

    total: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SlotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks may work at once."""

    total: int
    #: By agent; one that is not named has no bound of its own.
    agents: dict[str, int] = {}


def configured_limits() -> SlotLimits:
    """The bounds that the configuration file sets.

    :raises InvalidConfiguration: it cannot be understood
    """
    total = read_table("slots", SlotsTable).total
    return SlotLimits(total=total or max(8, 2 * (os.cpu_count() or 1)), agents=slots_of_agents())


def no_slot(seconds: float) -> Failure:
    """Why a task that found no slot within *seconds* was never started."""
    return Failure(
        failure_class=FailureClass.OVERLOADED,
        message=f"No slot was free within {seconds:g} s; nothing was started.",
        remedy=[Remedy(text="Try again, allow more with --slot-wait, or raise the numbers in [slots].")],
    )


class Ticket:
    """The place of one task: in the queue, or at work."""

    def __init__(self, task_id: str, agent: str, *, nested: bool) -> None:
        self.task_id = task_id
        self.agent = agent
        self.nested = nested
        #: Set as soon as the task may work.
        self.granted = asyncio.Event()


class Slots:
    """Who is at work and who waits.  Used from one event loop."""

    def __init__(self, limits: Callable[[], SlotLimits] = configured_limits) -> None:
        """*limits* is asked again whenever a slot is given out, so a change needs no restart."""
        self._limits = limits
        self._known: SlotLimits | None = None
        self._queue: dict[str, Ticket] = {}
        self._working: dict[str, Ticket] = {}

    def enter(self, task_id: str, agent: str, *, at_work: bool = False, nested: bool = False) -> Ticket:
        """Take a place at the end of the queue; a task that is *at_work* already goes on whatever the bounds are."""
        ticket = Ticket(task_id, agent, nested=nested)
        if at_work:
            self._admit(ticket)
        else:
            self._queue[task_id] = ticket
            self._give_out()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place back; doing it twice is the same as once."""
        self._queue.pop(ticket.task_id, None)
        if self._working.pop(ticket.task_id, None) is not None:
            self._give_out()

    def before(self, task_id: str) -> int | None:
        """How many tasks wait before this one; ``None`` if it does not wait."""
        if task_id not in self._queue:
            return None
        return list(self._queue).index(task_id)

    def _give_out(self) -> None:
        if not self._queue:
            return
        limits = self._current_limits()
        busy = Counter(ticket.agent for ticket in self._working.values() if not ticket.nested)
        nested = len(self._working) - busy.total()
        for ticket in list(self._queue.values()):
            if ticket.nested:
                if nested < limits.total * NESTED:
                    nested += 1
                    del self._queue[ticket.task_id]
                    self._admit(ticket)
            elif busy.total() < limits.total and busy[ticket.agent] < limits.agents.get(ticket.agent, limits.total):
                busy[ticket.agent] += 1
                del self._queue[ticket.task_id]
                self._admit(ticket)

    def _admit(self, ticket: Ticket) -> None:
        self._working[ticket.task_id] = ticket
        ticket.granted.set()

    def _current_limits(self) -> SlotLimits:
        try:
            self._known = self._limits()
        except HoldfastError as error:
            # Whoever asks for work next is told; what was accepted goes on under the bounds that were known.
            logger.error("the bounds of the slots cannot be read: %s", error)
            self._known = self._known or SlotLimits(total=max(8, 2 * (os.cpu_count() or 1)))
        return self._known
