"""Stay with a task until it is finished, whatever happens to the daemon meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from holdfast.cli import duration
from holdfast.cli.daemon_access import Daemon
from holdfast.clock import monotonic
from holdfast.daemon.client import STREAM_SILENCE, WAIT_BOUND, DaemonGone, StreamSilent
from holdfast.errors import HoldfastError
from holdfast.tasks.state import State
from holdfast.tasks.view import Progress, TaskView

FINISHED: Final = "finished"


class StillRunning(HoldfastError):
    """The time to wait is over and the task is not: it goes on."""

    code = "still_running"
    exit_code = 75


class Follower:
    """Reads the progress of one task; an interrupted reading goes on behind the last line that was seen."""

    def __init__(self, daemon: Daemon, task_id: str, *, deadline: float | None = None) -> None:
        self._daemon = daemon
        self._task_id = task_id
        #: Monotonic seconds.
        self._deadline = deadline
        self._cursor: str | None = None
        self._last: Progress | None = None

    def lines(self) -> Iterator[Progress]:
        """Yield what the task does until it is finished.

        :raises StillRunning: the deadline came first
        """
        while self._last is None or self._last.kind != FINISHED:
            client = self._daemon.client
            try:
                for progress in client.progress(self._task_id, after=self._cursor, silence=self._patience()):
                    self._cursor = progress.cursor
                    self._last = progress
                    self._daemon.found()
                    yield progress
                    if progress.kind == FINISHED:
                        return
                    self._patience()
                self._daemon.lost(client, DaemonGone("The daemon ended the stream before the task was finished."))
            except StreamSilent:
                # Nothing to report for a long time is normal; a daemon that no longer answers is not.
                self._patience()
                self._daemon.call(lambda client: client.status(timeout=10.0))
            except DaemonGone as error:
                self._daemon.lost(client, error)

    def _patience(self) -> float:
        """Seconds of silence to bear."""
        if self._deadline is None:
            return STREAM_SILENCE
        remaining = self._deadline - monotonic()
        if remaining <= 0:
            raise still_running(self._task_id, self._last.text if self._last else None)
        return min(STREAM_SILENCE, remaining)


def until_finished(daemon: Daemon, task_id: str, *, deadline: float | None = None) -> TaskView:
    """Wait for the end of a task without looking at what it does.

    :raises StillRunning: the deadline (monotonic seconds) came first
    """
    while True:
        patience = WAIT_BOUND if deadline is None else min(WAIT_BOUND, max(0.0, deadline - monotonic()))
        view = daemon.call(lambda client, patience=patience: client.wait(task_id, patience))
        if view.state is State.FINISHED:
            return view
        if deadline is not None and monotonic() >= deadline:
            raise still_running(task_id, view.evidence)


def still_running(task_id: str, evidence: str | None) -> StillRunning:
    """The error that says so, with what was last seen of the task."""
    seen = f" ({evidence})" if evidence else ""
    return StillRunning(f"Task {task_id} is still running{seen}.", hint=f"Go on waiting with: holdfast wait {task_id}")


def deadline_after(seconds: float | None) -> float | None:
    """The monotonic instant *seconds* from now; none for no limit."""
    limit = None if seconds is None else duration.limit(seconds)
    return None if limit is None else monotonic() + limit
