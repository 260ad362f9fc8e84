"""When an attempt must be stopped, and why: its time limits, its budget, a cancellation, an end that is none."""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast.agents.adapter import Agent
from holdfast.clock import boot_id
from holdfast.tasks.budget import overspent
from holdfast.tasks.facts import StopCause
from holdfast.tasks.request import Limits
from holdfast.tasks.rows import AttemptRow

#: For output that descendants still write after the agent's exit, before they are ended, seconds.
LATE_OUTPUT: Final = 2.0
#: For an agent that has reported its end to exit by itself, seconds.
LINGER: Final = 10.0
#: For the log to tell whether a task was finished before it was cancelled, seconds.
CANCEL_PATIENCE: Final = 0.5


class Watchdog:
    """Watches over an attempt whose process has been started.  Every time is a reading of the monotonic clock."""

    def __init__(
        self,
        attempt: AttemptRow,
        *,
        limits: Limits,
        agent: Agent,
        cancelled: asyncio.Event,
        first: AttemptRow | None,
        now: float,
    ) -> None:
        """*first* is the attempt from whose start the total time limit runs, if it is not this one."""
        self._attempt = attempt
        self._facts = attempt.facts
        self._limits = limits
        self._agent = agent
        self._cancelled = cancelled
        self._first = first
        # What was known before a restart has waited long enough to be given its time anew.
        self._progress_at = now
        self._exited_at = now if self._facts.exited else None
        self._terminal_at = now if self._facts.terminal else None

    def progressed(self, now: float) -> None:
        """The agent got on: it is not idle."""
        self._progress_at = now

    def facts_changed(self, now: float) -> None:
        """Something was folded into the attempt's facts."""
        if self._facts.terminal and self._terminal_at is None:
            self._terminal_at = now
        if self._facts.exited and self._exited_at is None:
            self._exited_at = now

    def output_is_late(self, now: float) -> bool:
        """Whether what outlived the agent has had its time to finish writing."""
        return self._exited_at is not None and now >= self._exited_at + LATE_OUTPUT

    def stop_cause(self, now: float) -> StopCause | None:
        """Why the attempt must be stopped now, if it must."""
        if self._facts.terminal and self._terminal_at is not None and now >= self._terminal_at + LINGER:
            return StopCause.LINGER
        if self._cancelled.is_set():
            return StopCause.CANCEL
        for cause, bound in self._time_bounds():
            if now >= bound:
                return cause
        return overspent(self._facts, self._limits, self._agent)

    def next_bound(self, now: float) -> float | None:
        """When to look again though nothing has happened."""
        bounds = [at for _, at in self._time_bounds()]
        if self._exited_at is not None:
            bounds.append(self._exited_at + LATE_OUTPUT)
        elif self._terminal_at is not None:
            bounds.append(self._terminal_at + LINGER)
        if self._cancelled.is_set():
            # It came before the watch began, so nothing else wakes us; what is in the log already still comes first.
            bounds.append(now + CANCEL_PATIENCE)
        return min(bounds, default=None)

    def _time_bounds(self) -> list[tuple[StopCause, float]]:
        facts, limits = self._facts, self._limits
        if facts.exited:
            return []
        bounds: list[tuple[StopCause, float]] = []
        started = self._attempt.started_monotonic
        if started is None or self._attempt.boot_id != boot_id():
            started = self._progress_at
        if limits.total_s is not None:
            bounds.append((StopCause.TOTAL, self._clock_started(started) + limits.total_s))
        if limits.start_s is not None and facts.first_event_at is None:
            bounds.append((StopCause.START, started + limits.start_s))
        # A long build is not idleness, nor is a question that a person has not answered: only the total limit counts.
        if limits.idle_s is not None and not facts.open_tools and not facts.open_approvals:
            bounds.append((StopCause.IDLE, self._progress_at + limits.idle_s))
        return bounds

    def _clock_started(self, started: float) -> float:
        first = self._first
        if first is None or first.started_monotonic is None or first.boot_id != boot_id():
            return started
        return first.started_monotonic
