"""Deleting finished tasks that nobody needs any more, with everything that was kept for them.

A task goes in this order: its processes are forgotten on the host, then its rows are deleted in one transaction that
checks once more that it is finished, then its directory.  Whatever the age, what belongs to no task goes too, and the
logs of agents' shared servers that have ended.  A death in between leaves a finished task whose log is gone,
or a directory that belongs to no task; the next collection completes either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.clock import wall
from holdfast.directories import stored_bytes
from holdfast.drivers.app_server.servers import PREFIX as SERVER_PREFIX
from holdfast.errors import InvalidRequest
from holdfast.host.port import Host, NotClosed, ProcessState
from holdfast.tasks.collected import Collected, CollectionRequest
from holdfast.tasks.worktree import discard

if TYPE_CHECKING:
    from holdfast.tasks.ledger import Ledger
    from holdfast.tasks.ports import Hosts

logger: Final = logging.getLogger(__name__)

#: A directory without a task may be of one that is being accepted; after this long it is not, seconds.
_ABANDONED_AFTER: Final = 3600.0
#: What processes of tasks are called (:meth:`holdfast.tasks.ledger.Ledger.begin_attempt`).
_PROCESS_ID: Final = re.compile(r"task-.+-\d+")
_ENDED: Final = frozenset({ProcessState.CLOSED, ProcessState.LOST})


class Deleting(InvalidRequest):
    """The id belongs to a task that is being deleted at this moment."""

    code = "conflict"


class Collector:
    """Collects the finished tasks of one service."""

    def __init__(self, ledger: Ledger, hosts: Hosts, directory: Path) -> None:
        self._ledger = ledger
        self._hosts = hosts
        self._directory = directory
        self._one_at_a_time = asyncio.Lock()
        #: The task that is being deleted: its id cannot be given to a new one.
        self.deleting: str | None = None

    async def collect(self, request: CollectionRequest, busy: Callable[[], Collection[str]]) -> Collected:
        """Delete what *request* allows; *busy* names tasks that are still being worked on, finished or not.

        :raises InvalidRequest: an age or a number below zero
        :raises HostUnavailable: there is no host; nothing (more) was deleted
        """
        if request.keep < 0 or (request.older_than_s is not None and not request.older_than_s >= 0):
            raise InvalidRequest("An age and a number to keep cannot be negative.", hint="See 'holdfast gc --help'.")
        async with self._one_at_a_time:
            return await self._collect(request, busy)

    async def _collect(self, request: CollectionRequest, busy: Callable[[], Collection[str]]) -> Collected:
        host = await self._hosts.host()
        states = {status.process_id: status.state for status in await host.list()}
        gone: list[str] = []
        still_open: list[str] = []
        worktrees_kept: list[str] = []
        processes = log_bytes = file_bytes = 0
        doomed: list[str] = []
        if request.older_than_s is not None:
            doomed = await self._ledger.finished_before(wall() - request.older_than_s, keep=request.keep)
        for task_id in doomed:
            if task_id in busy():
                continue
            process_ids = [attempt.process_id for attempt in await self._ledger.attempts(task_id)]
            if any(states.get(process_id, ProcessState.CLOSED) not in _ENDED for process_id in process_ids):
                still_open.append(task_id)
                continue
            self.deleting = task_id
            try:
                for process_id in process_ids:
                    forgotten = await host.forget(process_id, dry_run=request.dry_run)
                    processes += forgotten.existed
                    log_bytes += forgotten.bytes
                    states.pop(process_id, None)
                # Before its row, which alone knows of it.
                worktree = (await self._ledger.task(task_id)).acceptance.worktree
                if worktree is not None and not await asyncio.to_thread(discard, worktree, dry_run=request.dry_run):
                    worktrees_kept.append(worktree.path)
                file_bytes += await self._delete(task_id, dry_run=request.dry_run)
            finally:
                self.deleting = None
            gone.append(task_id)
        orphans = await self._forget_orphans(host, states, dry_run=request.dry_run)
        servers = await self._forget_servers(host, states, dry_run=request.dry_run)
        directories, orphaned_bytes = await self._delete_abandoned(dry_run=request.dry_run)
        return Collected(
            dry_run=request.dry_run,
            tasks=gone,
            processes=processes + orphans.forgotten + servers.forgotten,
            orphaned_processes=orphans.forgotten,
            orphaned_directories=directories,
            ended_servers=servers.forgotten,
            log_bytes=log_bytes + orphans.bytes + servers.bytes,
            file_bytes=file_bytes + orphaned_bytes,
            still_open=still_open,
            still_running=orphans.running,
            worktrees_kept=worktrees_kept,
        )

    async def _delete(self, task_id: str, *, dry_run: bool) -> int:
        if not dry_run and not await self._ledger.delete(task_id):
            return 0
        return await asyncio.to_thread(_remove, self._directory / task_id, dry_run=dry_run)

    async def _forget_orphans(self, host: Host, states: dict[str, ProcessState], *, dry_run: bool) -> _Forgotten:
        """Forget processes that have the name of a task's, and no task; one that is running is nobody's to end."""
        # Asked after the host was: a process that is in its list has had its row for longer.
        known = await self._ledger.process_ids()
        return await _forget(host, filter(_PROCESS_ID.fullmatch, states.keys() - known), dry_run=dry_run)

    async def _forget_servers(self, host: Host, states: dict[str, ProcessState], *, dry_run: bool) -> _Forgotten:
        """Forget the shared servers of agents that have ended; what tasks did in them is in the logs of the tasks."""
        ended = (each for each, state in states.items() if each.startswith(SERVER_PREFIX) and state in _ENDED)
        return await _forget(host, ended, dry_run=dry_run)

    async def _delete_abandoned(self, *, dry_run: bool) -> tuple[int, int]:
        known = await self._ledger.task_ids()
        return await asyncio.to_thread(_remove_abandoned, self._directory, known, dry_run=dry_run)


class _Forgotten:
    def __init__(self) -> None:
        self.forgotten = 0
        self.bytes = 0
        self.running: list[str] = []


async def _forget(host: Host, process_ids: Iterable[str], *, dry_run: bool) -> _Forgotten:
    """Forget those of the processes that are closed."""
    found = _Forgotten()
    for process_id in sorted(process_ids):
        try:
            forgotten = await host.forget(process_id, dry_run=dry_run)
        except NotClosed:
            found.running.append(process_id)
            continue
        found.forgotten += forgotten.existed
        found.bytes += forgotten.bytes
    return found


def _remove_abandoned(directory: Path, known: Collection[str], *, dry_run: bool) -> tuple[int, int]:
    count = size = 0
    for entry in os.scandir(directory):
        if entry.name in known or not entry.is_dir(follow_symlinks=False):
            continue
        if wall() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER:
            count += 1
            size += _remove(Path(entry.path), dry_run=dry_run)
    return count, size


def _remove(directory: Path, *, dry_run: bool) -> int:
    """Delete a directory, or only measure it; returns the bytes of disk that it takes."""
    size = stored_bytes(directory)
    if not dry_run and directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError as error:
            # It belongs to no task any more, and the next collection tries again.
            logger.warning("%s could not be deleted: %s", directory, error)
    return size
