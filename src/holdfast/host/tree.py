"""Everything that a hosted process left running: found, and ended without ever hitting a stranger.

A process belongs to the tree of a hosted one if it descends from it, if it is in its session or process group, if it
descends from something seen earlier to belong, if it carries the environment marker that the host gave, or if it is in
the cgroup that was made for it (:mod:`holdfast.host.cgroup`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from io import FileIO
from typing import Final

from holdfast.clock import monotonic
from holdfast.host.os_process import OsProcess, all_processes, carries, open_handle, read_process
from holdfast.jsonrpc.streams import EXHAUSTED

#: The variable that marks the children of a hosted process; see :class:`Tree`.
MARKER: Final = "HOLDFAST_PROCESS"
#: Seconds to wait after SIGKILL before a process counts as unkillable (stuck in the kernel).
_KILL_PATIENCE: Final = 5.0
#: Glances at who is new, at the most, to catch who is never in a list; and without anybody new, one after the other.
_GLANCES: Final = 1000
_QUIET: Final = 20
#: Seconds between looks for new members while an ending goes on: at first and when it comes to killing, and the most.
_RESCAN: Final = 0.1
_LONGEST_RESCAN: Final = 1.0


def _add_unlisted(processes: dict[int, OsProcess], pid: int) -> bool:
    """Add to *processes* one that came after they were listed, or that ``/proc`` hides; False if there is none."""
    process = read_process(pid)
    if process is None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # It is there all the same.
            pass
        process = OsProcess(pid, 0, 0, 0, 0, "?", alive=True, executed=True)
    processes[pid] = process
    return True


def _pids(file: FileIO) -> Iterator[int]:
    file.seek(0)
    return map(int, file.read().split())


@dataclass
class Tree:
    """The tree of one hosted process."""

    #: The hosted process itself; 0 if it is not known and only the marker can find something.
    pid: int
    started: int
    #: Value of :data:`MARKER` in the environment of the hosted process, if it was given one.
    marker: str | None = None
    #: Processes that were seen to belong, with their start times: orphans are recognised by it.
    seen: dict[int, int] = field(default_factory=dict[int, int])
    #: The cgroup of the hosted process, if it has one of its own.
    cgroup: str | None = None
    #: What ends it at the moment; see :func:`end_tree`.
    ending: _EndingUnderWay | None = field(default=None, init=False, repr=False, compare=False)

    def members(self) -> list[OsProcess]:
        """What is alive of the tree now, the hosted process first.  Reads all of ``/proc``: not for a hot path.

        :raises OSError: there are no descriptors to look with
        """
        processes = all_processes()
        roots = {self.pid: self.started, **self.seen}
        belongs = {pid for pid, started in roots.items() if (own := processes.get(pid)) and own.started == started}
        # A session number that now is somebody else's pid was used again: it proves nothing any more.
        leader = processes.get(self.pid)
        # Session and group 0 are the kernel's own.
        session_is_ours = self.pid > 1 and (leader is None or leader.started == self.started)
        strangers: list[OsProcess] = []
        for process in processes.values():
            if process.pid in belongs or process.started < self.started:
                continue
            if session_is_ours and self.pid in (process.session, process.group):
                belongs.add(process.pid)
            else:
                strangers.append(process)
        if self.marker is not None:
            wanted = f"{MARKER}={self.marker}".encode()
            belongs.update(process.pid for process in strangers if carries(process.pid, wanted))
        for pid in self.cgroup_pids():
            if pid in processes or _add_unlisted(processes, pid):
                belongs.add(pid)
        children: dict[int, list[int]] = {}
        for process in strangers:
            children.setdefault(process.parent, []).append(process.pid)
        pending = list(belongs)
        while pending:
            for child in children.get(pending.pop(), ()):
                if child not in belongs:
                    belongs.add(child)
                    pending.append(child)
        belongs -= {0, 1, os.getpid()}
        for pid in belongs:
            self.seen[pid] = processes[pid].started
        alive = [processes[pid] for pid in belongs if processes[pid].alive] or self._fleeting(processes)
        return sorted(alive, key=lambda process: (process.pid != self.pid, process.pid))

    def _fleeting(self, listed: Container[int]) -> list[OsProcess]:
        """Who forks and ends again and again, faster than all processes are *listed*, and so is in no list.

        Its parent has always just ended, so it is a child of this process, or of the keeper, that was not there before.
        """
        if self.marker is None:
            return []
        wanted = f"{MARKER}={self.marker}".encode()
        with contextlib.ExitStack() as stack:
            lists: list[FileIO] = []
            for parent in (os.getpid(), os.getppid()):
                # Not every kernel has it, and that of others may not be seen.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    lists.append(stack.enter_context(open(f"/proc/{parent}/task/{parent}/children", "rb", 0)))
            quiet = 0
            for _ in range(_GLANCES):
                newcomers = [pid for file in lists for pid in _pids(file) if pid not in listed]
                quiet = 0 if newcomers else quiet + 1
                if quiet == _QUIET:
                    break
                # The newest are last; most of the others have ended.
                for pid in newcomers[:-9:-1]:
                    if carries(pid, wanted) and (process := read_process(pid)) is not None:
                        self.seen[pid] = process.started
                        return [process]
        return []

    def cgroup_pids(self) -> set[int]:
        """Who is in the cgroup of the hosted process, and in cgroups that were made below it."""
        found: set[int] = set()
        if self.cgroup is not None:
            for place, _, _ in os.walk(self.cgroup):
                try:
                    with open(f"{place}/cgroup.procs") as file:
                        # What is in another pid namespace than ours would be 0.
                        found.update(int(pid) for pid in file.read().split() if pid != "0")
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        raise
                    # Removed meanwhile.
                    continue
        return found

    def kill_cgroup(self) -> None:
        """SIGKILL to all of the cgroup at one stroke, so that nobody is forked in between."""
        if self.cgroup is None or os.getpid() in self.cgroup_pids():
            return
        try:
            with open(f"{self.cgroup}/cgroup.kill", "w") as file:
                file.write("1")
        except OSError:
            # It is gone, and with it everybody; else they are killed one by one.
            pass

    def release_cgroup(self) -> None:
        """Remove the cgroup if nobody is in it any more."""
        if self.cgroup is None:
            return
        try:
            for place, _, _ in os.walk(self.cgroup, topdown=False):
                os.rmdir(place)
        except FileNotFoundError:
            pass
        except OSError:
            # Somebody lives there; whoever ends the tree tries again.
            return
        self.cgroup = None


@dataclass
class Ending:
    """What an ending found and what it could not end."""

    ended: list[OsProcess]
    survivors: list[OsProcess]


async def end_tree(tree: Tree, *, grace: float) -> Ending:
    """SIGTERM to the whole tree, then after *grace* seconds SIGKILL, until nothing of it is alive.

    New members are looked for all the while.  What ignores SIGKILL for five seconds, or may not be sent any signal, is
    reported as a survivor.  A tree is ended once at a time: who asks meanwhile can only hasten it, and gets the same
    answer.  It is ended also if nobody waits for that any more.

    :raises OSError: all that time there were no descriptors to look with, and what is alive is not known
    """
    if tree.ending is None:
        tree.ending = _EndingUnderWay(tree, grace)
    else:
        tree.ending.hasten(grace)
    return await asyncio.shield(tree.ending.task)


class _EndingUnderWay:
    """The ending of one tree: a look takes a thread for a moment, the time in between takes none."""

    def __init__(self, tree: Tree, grace: float) -> None:
        self._tree = tree
        self._kill_at = monotonic() + grace
        self._found: dict[tuple[int, int], OsProcess] = {}
        self._asked: set[tuple[int, int]] = set()
        self._look_again = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def hasten(self, grace: float) -> None:
        """Kill after *grace* seconds, if that is earlier."""
        self._kill_at = min(self._kill_at, monotonic() + grace)
        self._look_again.set()

    async def _run(self) -> Ending:
        pause = _RESCAN
        try:
            while True:
                self._look_again.clear()
                looked = await self._try_to_look()
                if isinstance(looked, Ending):
                    return looked
                left = self._kill_at - monotonic()
                try:
                    await self._wait(looked, min(pause, left) if left > 0 else _RESCAN)
                finally:
                    for handle in looked:
                        os.close(handle)
                pause = min(2 * pause, _LONGEST_RESCAN)
        finally:
            self._tree.ending = None

    async def _try_to_look(self) -> Ending | list[int]:
        try:
            return await asyncio.to_thread(self._look)
        except OSError as error:
            if error.errno not in EXHAUSTED or monotonic() >= self._kill_at + _KILL_PATIENCE:
                raise
            # Without a descriptor to look with nothing is proven: the next look may have one.
            return []

    def _look(self) -> Ending | list[int]:
        """Send what has to be sent now; returns pidfds of who has to end, or that it is over."""
        members = self._tree.members()
        now = monotonic()
        if not members or now >= self._kill_at + _KILL_PATIENCE:
            survivors = {(process.pid, process.started) for process in members}
            ended = [process for identity, process in self._found.items() if identity not in survivors]
            self._tree.release_cgroup()
            return Ending(ended, members)
        killing = now >= self._kill_at
        if killing:
            self._tree.kill_cgroup()
        handles: list[int] = []
        try:
            for process in members:
                identity = (process.pid, process.started)
                self._found.setdefault(identity, process)
                handle = open_handle(process.pid, process.started)
                if handle < 0:
                    continue
                handles.append(handle)
                if killing or identity not in self._asked:
                    self._asked.add(identity)
                    _ask_to_end(handle, killing=killing)
        except BaseException:
            for handle in handles:
                os.close(handle)
            raise
        return handles

    async def _wait(self, handles: list[int], timeout: float) -> None:
        """Wait until all behind *handles* have ended, somebody is in a hurry, or *timeout* seconds are over."""
        loop = asyncio.get_running_loop()
        waiting = set(handles)

        def ended(handle: int) -> None:
            loop.remove_reader(handle)
            waiting.discard(handle)
            if not waiting:
                self._look_again.set()

        for handle in handles:
            loop.add_reader(handle, ended, handle)
        try:
            async with asyncio.timeout(timeout):
                await self._look_again.wait()
        except TimeoutError:
            # Time to look for new members, or to kill.
            pass
        finally:
            for handle in waiting:
                loop.remove_reader(handle)


def _ask_to_end(handle: int, *, killing: bool) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL if killing else signal.SIGTERM)
        if not killing:
            # A stopped process would not see the request.
            signal.pidfd_send_signal(handle, signal.SIGCONT)
    except ProcessLookupError:
        pass
    except PermissionError:
        # It has become somebody else's (a setuid program).  Either it ends by itself, or it is a survivor.
        pass
