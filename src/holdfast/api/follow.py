"""Stay with a task until it is finished, whatever happens to the daemon meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Final

from holdfast.api.daemon_access import Daemon
from holdfast.clock import monotonic
from holdfast.daemon.client import WAIT_BOUND, LogEntry
from holdfast.daemon.transport import STREAM_SILENCE, DaemonGone, StreamSilent
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

    def __init__(
        self,
        daemon: Daemon,
        task_id: str,
        *,
        after: str | None = None,
        deadline: float | None = None,
        follow: bool = True,
    ) -> None:
        """*after* is a cursor, *deadline* monotonic seconds; without *follow* it ends with what has happened yet."""
        self._daemon = daemon
        self._task_id = task_id
        self._deadline = deadline
        self._follow = follow
        self._cursor = after
        self._last: Progress | None = None

    def lines(self) -> Iterator[Progress]:
        """Yield what the task does until it is finished.

        :raises StillRunning: the deadline came first
        """
        while self._last is None or self._last.kind != FINISHED:
            client = self._daemon.client
            try:
                for progress in client.progress(
                    self._task_id, after=self._cursor, follow=self._follow, silence=self._patience()
                ):
                    self._cursor = progress.cursor
                    self._last = progress
                    self._daemon.found()
                    yield progress
                    if progress.kind == FINISHED:
                        return
                    self._patience()
                if not self._follow:
                    return
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


def as_finished(
    daemon: Daemon, ids: Sequence[str], *, deadline: float | None = None
) -> Generator[tuple[str, HoldfastError | None]]:
    """Yield each task's id when it is finished, or with the reason why its end was not seen.

    A thread waits for each; closing the generator before its end leaves none behind, and *daemon* unusable.
    """
    seen: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

    def attend(task_id: str) -> None:
        try:
            until_finished(daemon, task_id, deadline=deadline)
        except BaseException as error:
            seen.put((task_id, error))
        else:
            seen.put((task_id, None))

    for task_id in ids:
        threading.Thread(target=attend, args=(task_id,), name=f"wait {task_id}", daemon=True).start()
    left = len(ids)
    try:
        while left:
            task_id, error = seen.get()
            left -= 1
            if error is not None and not isinstance(error, HoldfastError):
                raise error
            yield task_id, error
    finally:
        if left:
            daemon.interrupt()


def log_entries(
    daemon: Daemon, task_id: str, *, attempt: int | None = None, after: int = 0, follow: bool = False
) -> Iterator[LogEntry]:
    """Yield the log of a task's process to its end; one that breaks off is read on behind what was seen of it."""
    seen: dict[int, int] = {}
    while True:
        client = daemon.client
        try:
            for entry in client.log(task_id, attempt=attempt, after=after, follow=follow):
                if entry.seq and entry.seq <= seen.get(entry.attempt, 0):
                    continue
                if entry.gap is not None and entry.gap[1] <= seen.get(entry.attempt, 0):
                    continue
                seen[entry.attempt] = entry.gap[1] if entry.gap is not None else entry.seq
                daemon.found()
                yield entry
            return
        except StreamSilent:
            daemon.call(lambda client: client.status(timeout=10.0))
        except DaemonGone as error:
            daemon.lost(client, error)


def still_running(task_id: str, evidence: str | None) -> StillRunning:
    """The error that says so, with what was last seen of the task."""
    seen = f" ({evidence})" if evidence else ""
    return StillRunning(f"Task {task_id} is still running{seen}.", hint=f"Go on waiting with: holdfast wait {task_id}")
