"""The host itself: its state directory, its sessions, and every process it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from holdfast.clock import boot_id, monotonic
from holdfast.directories import private_directory
from holdfast.errors import InvalidRequest
from holdfast.host.cgroup import contain, find_delegation
from holdfast.host.child import Child, KeptChildren, StrangersChild
from holdfast.host.custody import Custody
from holdfast.host.description import Description
from holdfast.host.drop import Drops
from holdfast.host.hanging import HangingMounts
from holdfast.host.keeper import become_subreaper
from holdfast.host.keeping import KeeperLink
from holdfast.host.left_over import LeftOver
from holdfast.host.log import ProcessLog
from holdfast.host.orphans import reap_orphans
from holdfast.host.os_process import first_started
from holdfast.host.packets import Held
from holdfast.host.passed_over import PassedOver
from holdfast.host.pending import PendingStarts
from holdfast.host.places import Places
from holdfast.host.prepared import PreparedStarts
from holdfast.host.process import HostedProcess, NotPermitted
from holdfast.host.recovery import Running, recover
from holdfast.host.retention import Retention
from holdfast.host.session import Session, Sessions
from holdfast.host.spawner import Spawner
from holdfast.host.staging import Staging
from holdfast.host.tree import MARKER, end_tree
from holdfast.jsonrpc.event_loop import running_poller
from holdfast.jsonrpc.messages import STOPPING, RpcError

#: Bytes of output of closed processes in the host's namespace; beyond it the oldest goes, and readers are told.
RETAIN_BYTES: Final = 20 * 1024**3
#: Seconds between looks at what is to be cleaned up, and how many processes are forgotten at each.
_SWEEP: Final = 2.0
_SWEPT: Final = 1000
#: Seconds that persistent processes get to end by themselves when the host is told to stop.
STOP_GRACE: Final = 2.0
#: Under which name the keeper holds the staging memory; no directory of a process is called so.
_STAGING: Final = "staging"
#: Seconds that a host which is told to stop waits for the last streams to close.
_LAST_CLOSE: Final = 1.0

_log = logging.getLogger(__name__)


class DuplicateProcess(InvalidRequest):
    """A process of that id exists already."""

    code = "duplicate_process"


class ProcessHost:
    """Owns processes.  Everything happens on the event loop's thread, one thing at a time."""

    def __init__(
        self,
        directory: Path,
        link: KeeperLink,
        *,
        retain_bytes: int = RETAIN_BYTES,
        child_descriptors: int | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._passed_over = PassedOver()
        self._staging = Staging(self._hold_staging)
        self.retention = Retention(retain_bytes)
        self.directory = directory
        self._processes_directory = os.fspath(private_directory(directory / "processes"))
        #: The cgroup in which each persistent process gets one of its own, or why there is none.
        self.delegation = find_delegation()
        #: Where a start must not go unprepared.
        self.hanging = HangingMounts()
        self._poller = running_poller()
        #: Random for each run of the host; part of the names of the directories that it makes.
        self.instance_id = os.urandom(8).hex()
        self._places = Places(directory, self._processes_directory, self.instance_id)
        self._prepared = PreparedStarts(self._places, link)
        self._custody = Custody(link, self.holdings, self._prepared.let_go)
        self.kept_children = KeptChildren(link, self._poller)
        self.sessions = Sessions(link)
        #: Processes that live in the namespace of the host, by id.
        self.persistent: dict[str, HostedProcess] = {}
        #: Every process that is not closed.
        self.live: set[HostedProcess] = set()
        self.pending_starts = PendingStarts()
        self._starts_sandbox = False
        self.connections = 0
        self._idle_since = monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.left_over = LeftOver(STOP_GRACE)
        self._drops = Drops(directory, self._poller)
        self._spawner = Spawner(
            self._prepared,
            self._drops,
            link,
            self._poller,
            self._new_process,
            child_descriptors=child_descriptors,
        )
        self._stopping = False
        self._all_closed = asyncio.Event()
        become_subreaper()
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    # Life of the host

    def recover(self) -> None:
        """Bring back what earlier servers left: what runs goes on, what they lost is declared lost and ended."""
        held, children = self._link.take_over()
        if (staged := held.pop(_STAGING, None)) is not None:
            self._staging = Staging.recover(self._hold_staging, staged)
        self.sessions.recover(held)
        lost = 0
        for found in recover(
            self._processes_directory,
            held,
            children,
            self._new_process,
            staging=self._staging,
            outlived=self._link.outlived,
            passed_over=self._passed_over,
        ):
            process = found.process
            session_id = process.description.session_id
            if session_id is None:
                self.persistent[process.process_id] = process
                if process.closed:
                    self.retention.count(process)
            else:
                self.sessions.open(session_id).processes[process.process_id] = process
                if process.closed:
                    self.sessions.count(process)
            if found.running is not None:
                self._resume(process, found.running, children)
            if found.left:
                lost += 1
                self.left_over.end(process)
        for key, descriptors in held.items():
            # Nobody's any more: what recovery used, it took out.
            for descriptor in descriptors.values():
                os.close(descriptor)
            self._link.let(key)
        self._staging.reserve(self._passed_over.streams)
        kept = self.kept_children.pids()
        self._link.adopt([*kept, *self._passed_over.claim(pid for pid in children if pid not in kept)])
        if self._link.outlived or lost:
            _log.warning("took over from a server that died: %d processes go on, %d were lost", len(self.live), lost)

    def _resume(self, process: HostedProcess, running: Running, children: list[int]) -> None:
        self.live.add(process)
        child: Child | None = None
        if running.exit_recorded:
            if running.pid in children and not running.stranger:
                self._link.reap(running.pid)
            if running.handle >= 0:
                os.close(running.handle)
        elif running.stranger:
            child = StrangersChild(running.pid, running.started, self._poller, running.handle)
        else:
            child = self.kept_children.add(running.pid, running.started, running.handle)
        if (drop := self._drops.recall(process.description)) is not None:
            process.take_events(drop)
        process.restored(running.pid, running.started, running.streams, child)

    def _new_process(self, description: Description, directory: str, log: ProcessLog) -> HostedProcess:
        return HostedProcess(
            description,
            directory,
            log,
            poller=self._poller,
            staging=self._staging,
            on_closed=self._process_closed,
            on_stdin_closed=self._stdin_closed,
        )

    def _stdin_closed(self, process: HostedProcess) -> None:
        self._link.drop(process.key, "stdin")

    def _hold_staging(self, descriptors: dict[str, int]) -> None:
        self._link.hold({_STAGING: descriptors})

    def holdings(self) -> Held:
        """Everything that a keeper has to hold, by process directory (or what else it belongs to) and name."""
        held = {process.key: process.holdings() for process in self.live}
        held |= self._passed_over.streams | self.sessions.holdings()
        if staging := self._staging.holdings():
            held[_STAGING] = staging
        return held

    async def stop(self) -> None:
        """End every process and release the directory."""
        self._stopping = True
        self._all_closed.clear()
        self._sweeper.cancel()
        endings = [self._end(process) for process in tuple(self.live)]
        endings += [*self._passed_over.endings(STOP_GRACE), self.left_over.wait()]
        for failure in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(failure, OSError):
                # Who else there is gets ended all the same.
                _log.error("what is alive of a process cannot be told: %s", failure.strerror)
            elif isinstance(failure, BaseException):
                raise failure
        while self.live:
            try:
                await asyncio.wait_for(self._all_closed.wait(), _LAST_CLOSE)
            except TimeoutError:
                if not any(
                    process.events and process.events.awaited and process.stalled is None for process in self.live
                ):
                    # A stranger holds a stream open, or the disk is full: recovery will say so.
                    break
        self._prepared.close()
        await self._places.close()
        for task in tuple(self._tasks):
            task.cancel()
        self._drops.close()
        self.hanging.close()
        self._spawner.close()

    async def _end(self, process: HostedProcess) -> None:
        if process.tree is None:
            return
        if process.description.session_id is not None:
            # Who may not be signalled is a survivor of what follows.
            with contextlib.suppress(NotPermitted):
                process.kill_group()
            await end_tree(process.tree, grace=0.0)
        else:
            await end_tree(process.tree, grace=STOP_GRACE)

    @property
    def idle_for(self) -> float:
        """Seconds since the last moment with a connection or a live process; 0 while there is one."""
        if self.connections or self.live or self._passed_over.streams or not self.left_over.ended:
            return 0.0
        return monotonic() - self._idle_since

    @property
    def keeper_pid(self) -> int | None:
        """The process that holds what must not die with this one; None if there is none."""
        return os.getppid() if self._link.kept else None

    def processes(self) -> Iterator[HostedProcess]:
        """Every process that can be asked about, in whatever namespace."""
        yield from self.persistent.values()
        for session in self.sessions:
            yield from session.processes.values()

    def runs_sandboxes(self) -> bool:
        """Whether a sandboxed process may be alive; any thread may ask."""
        # A copy made in one step: the loop goes on changing the set.
        return self._starts_sandbox or any(process.description.sandboxed for process in tuple(self.live))

    def connection_opened(self) -> None:
        """Count a connection."""
        self.connections += 1

    def connection_closed(self) -> None:
        """Count it off."""
        self.connections -= 1
        self._idle_since = monotonic()

    def _spawn_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Processes

    def start(
        self,
        session: Session | None,
        process_id: str,
        *,
        argv: list[str],
        program: str,
        cwd: str,
        env: Mapping[str, str],
        tty: bool,
        pipe_stdin: bool,
        stdin_file: str | None = None,
        signal_drop: bool = False,
        sandboxed: bool = False,
        descriptors: Collection[int] = (),
    ) -> HostedProcess:
        """Start a process in *session*, or in the namespace of the host if that is None.

        It inherits *descriptors*, next to its streams.

        :raises DuplicateProcess: the id is taken
        :raises RpcError: the host is stopping, or *stdin_file* cannot be standard input
        :raises OSError: the reason why it did not start; see :meth:`holdfast.host.spawner.Spawner.start`
        :raises HoldfastError: there is no place for what the host makes; nothing runs and nothing is left
        :raises ValueError: a NUL byte where there cannot be one
        """
        if self._stopping:
            raise RpcError(STOPPING, "the exec-server is stopping")
        namespace = self.persistent if session is None else session.processes
        if process_id in namespace:
            raise DuplicateProcess(f"process {process_id} already exists")
        session_id = None if session is None else session.session_id
        if (reason := self._passed_over.reasons.get((session_id, process_id))) is not None:
            # It may run.
            raise DuplicateProcess(f"process {process_id} already exists, and cannot be read: {reason}")
        marker: str | None = None
        if session is None:
            marker = os.urandom(16).hex()
            env = {**env, MARKER: marker}
        description = Description(
            process_id=process_id,
            session_id=session_id,
            argv=argv,
            cwd=cwd,
            tty=tty,
            marker=marker,
            signal_drop=signal_drop,
            sandboxed=sandboxed,
            created_ns=time.time_ns(),
            created_boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            boot_id=boot_id(),
            first_started=first_started(),
        )
        # It may mount what protects it before it is known to live.
        self._starts_sandbox = sandboxed
        try:
            process = self._spawner.start(
                description,
                program=program,
                env=env,
                pipe_stdin=pipe_stdin,
                stdin_file=stdin_file,
                descriptors=descriptors,
            )
            self.live.add(process)
        finally:
            self._starts_sandbox = False
        self._places.replenish()
        _log.info("started process %r: pid %d", process_id, process.pid)
        namespace[process_id] = process
        if session is None and self.delegation.directory is not None:
            self._spawn_task(self._contain(process, self.delegation.directory))
        return process

    async def _contain(self, process: HostedProcess, delegation: Path) -> None:
        assert process.tree is not None
        try:
            await asyncio.to_thread(contain, delegation, process.directory, process.tree)
        except OSError as error:
            if not process.closed:
                _log.warning("process %r has no cgroup of its own: %s", process.process_id, error)
        if process.closed:
            process.tree.release_cgroup()

    def _process_closed(self, process: HostedProcess) -> None:
        self.live.discard(process)
        self._link.let(process.key)
        _log.info("process %r is closed, exit %s", process.process_id, process.exit and process.exit[0])
        self._idle_since = monotonic()
        if not self.live:
            self._all_closed.set()
        if process.description.session_id is not None:
            self.sessions.count(process)
            return
        if process.tree is not None:
            process.tree.release_cgroup()
        self.retention.count(process)

    def forget(self, process: HostedProcess) -> None:
        """Let go of a closed process of the host's namespace, whose files were moved away."""
        del self.persistent[process.process_id]
        self.retention.forget(process)

    # Cleaning up

    def _sweep(self) -> None:
        if not self._stopping:
            # First of all: whatever fails below is tried again.
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        for process in tuple(self.live):
            if process.events is not None:
                process.events.look()
        for process in self.sessions.end_the_forsaken():
            self._spawn_task(self._end(process))
        expired = self.sessions.expire(_SWEPT)
        if expired:
            self._spawn_task(self._places.give_back([process.directory for process in expired]))
        reap_orphans({process.pid for process in self.live})
