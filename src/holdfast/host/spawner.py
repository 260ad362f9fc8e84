"""A process from its description to its first moment under watch, and nothing left of one that does not get there."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping

from holdfast.host import spawn
from holdfast.host.child import OwnChild
from holdfast.host.description import Description, Started, write_description, write_started
from holdfast.host.descriptor_limit import DescriptorLimit
from holdfast.host.drop import Drops, SignalDrop
from holdfast.host.keeping import KeeperLink
from holdfast.host.log import ProcessLog
from holdfast.host.prepared import PreparedStarts
from holdfast.host.process import HostedProcess
from holdfast.host.start_clock import StartClock
from holdfast.host.whole import close_file
from holdfast.jsonrpc.event_loop import Poller

_log = logging.getLogger(__name__)


class Spawner:
    """Starts the processes of one host."""

    def __init__(
        self,
        prepared: PreparedStarts,
        drops: Drops,
        link: KeeperLink,
        poller: Poller,
        make: Callable[[Description, str, ProcessLog], HostedProcess],
        *,
        child_descriptors: int | None,
    ) -> None:
        """*make* makes the process of a description, with its directory and its log."""
        self._prepared = prepared
        self._drops = drops
        self._link = link
        self._poller = poller
        self._make = make
        self._descriptor_limit = DescriptorLimit(child_descriptors)
        self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._start_clock = StartClock()

    def start(
        self,
        description: Description,
        *,
        program: str,
        env: Mapping[str, str],
        pipe_stdin: bool,
        stdin_file: str | None,
        descriptors: Collection[int],
    ) -> HostedProcess:
        """Start what *description* describes; it inherits *descriptors*, next to its streams.

        :raises RpcError: *stdin_file* cannot be standard input
        :raises OSError: the reason why it did not start; nothing is left, and nothing runs but what has become somebody
            else's
        :raises HoldfastError: there is no place for what the host makes; nothing runs and nothing is left
        :raises ValueError: a NUL byte where there cannot be one
        """
        prepared = self._prepared.take(tty=description.tty, pipe_stdin=pipe_stdin, stdin_file=stdin_file)
        (directory, record, log), preparation, _ = prepared
        drop: SignalDrop | None = None
        pid: int | None = None
        process: HostedProcess | None = None
        try:
            write_description(record, description)
            drop = self._drops.make(description)
            before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            pid = spawn.spawn(
                preparation,
                description.argv,
                program=program,
                cwd=description.cwd,
                env=env,
                home=self._home,
                limit=self._descriptor_limit,
                descriptors=descriptors,
            )
            preparation.release()
            ticks = self._start_clock.ticks(pid, before)
            child = OwnChild(pid, self._poller)
            process = self._make(description, directory, log)
            if drop is not None:
                process.take_events(drop)
            process.started(pid, ticks, preparation.streams, child)
        except BaseException:
            if pid is not None:
                _end_refused(pid, description.process_id)
                # Who is not reaped here is reaped as an orphan.
                if process is not None:
                    process.not_started()
            if drop is not None:
                drop.close()
            prepared.discard(self._link)
            raise
        self._prepared.look_ahead()
        try:
            write_started(record, Started(pid=pid, started=ticks))
        except OSError:
            # A full disk right after the start.  Recovery would find the process by its marker or not at all, which
            # only matters if the host is killed as well; the process runs and is not punished for it.
            pass
        finally:
            close_file(record)
        return process

    def close(self) -> None:
        """Start nothing any more."""
        os.close(self._home)


def _end_refused(pid: int, process_id: str) -> None:
    """No descriptors or watches are left: what cannot be looked after must not run."""
    try:
        os.killpg(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except PermissionError:
        _log.error("pid %d, left over by refused process %r, runs as somebody else", pid, process_id)
