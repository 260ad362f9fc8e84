"""The keeper: the parent of the host's server, which holds what must not die with it.

It holds a copy of every descriptor that the host has of a child's streams, the listening socket and the lock of the
state directory; and as the nearest subreaper it inherits the children of a server that dies.  Then it starts the next
server and hands everything over.  It does so little, on the standard library alone, that it has no reason to die; if it
is killed all the same, the server takes its place (:func:`holdfast.host.keeping.KeeperLink.succeed`).

Server and keeper talk over a ``SOCK_SEQPACKET`` pair, words to a packet (:func:`holdfast.host.packets.pack`) and
descriptors as ``SCM_RIGHTS``.  The keeper reads at leisure: descriptors in an unread packet are held by the kernel just
as well, also after the server's death.

To the keeper:

===========  =============================  ==========================================================================
``own``      words and two descriptors      what the host has for good (:class:`holdfast.host.estate.Estate`); once
``hold``     key/name of each descriptor    hold these; sent before the child is started
``drop``     key, name                      close one of them (stdin)
``let``      keys                           close all of theirs
``adopt``    pids                           report the end of these children of yours; any number of packets
``settled``                                these were all of them: what is not adopted is reaped
``reap``     pid                            its end is recorded: reap it
``ready``                                 the server works: from here on it is worth being restarted
``leave``                                 the server is about to end on purpose
===========  =============================  ==========================================================================

From the keeper: ``hold`` for everything held, ``children`` (pids; any number of packets), then ``handed`` (whether it
``outlived`` a server: then whatever it does not hold was never started), and later ``ended`` (pid, code, signal) for
adopted children, and ``unheld`` (keys) when it has no free descriptors for what it was to hold.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time

from holdfast.host.ending import ENDING
from holdfast.host.estate import Estate
from holdfast.host.packets import LEISURE, NO_ROOM, PACKET, Held, hand_out, pid_packets, receive, send, take_in

# Not from typing: the keeper is as small as it can be.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    #: Runs the server in a forked process: its end of the channel, what the host has if any server got so far, and
    #: whether to tell where it listens.
    Serve = Callable[[int, Estate | None, bool], int]

#: A server that dies this often within so many seconds is given a pause before the next try.
_DEATHS = 5
_WITHIN = 10.0
_PAUSE = 1.0
#: So many servers may die of what they were asked to do: to end everything, and then themselves.
_STOPS = 5
#: Seconds in which what is killed then is expected to be gone.
_KILLING = 5.0

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Inherit the orphans of all descendants."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_of(info: Any) -> tuple[int, int]:
    """Exit code and signal number (or 0) from what ``waitid`` reports."""
    if info.si_code == os.CLD_EXITED:
        return info.si_status, 0
    return info.si_status + 128, info.si_status


def stat_fields(pid: int) -> list[bytes]:
    """What ``/proc`` tells of a process behind its name: state, parent, and so on to the exit status.

    :raises OSError: there is no such process
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


class Keeper:
    """Holds, reaps, and restarts."""

    def __init__(self, serve: Serve, estate: Estate | None = None, held: Held | None = None) -> None:
        self._serve = serve
        #: None until a server has made it.
        self.estate = estate
        self._held: Held = held or {}
        self._first = held is None
        self._adopted: set[int] = set()
        self._reported: set[int] = set()
        #: Whether the present server has told which children it adopts.
        self._settled = False
        #: Whether any server ever got to work.
        self._worked = held is not None
        self._leaving = False
        self._asked_to_stop = False
        self._failed_stops = 0
        self._server = 0
        self._channel: socket.socket | None = None
        #: Where the kernel lists the children; kept open, for there may be no descriptor left when it is needed.
        self._listing = -1

    def run(self) -> int:
        """Keep until the server ends on purpose; returns the exit status."""
        become_subreaper()
        try:
            self._listing = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # A kernel without that file.
            pass
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        for number in ENDING:
            signal.signal(number, self._stop_asked)
        # A server that became the keeper had blocked them, to lose none on the way.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        deaths: list[float] = []
        while True:
            status = self._keep_one_server(wake_read)
            if status is not None:
                return status
            now = time.monotonic()
            deaths = [*(moment for moment in deaths if now - moment < _WITHIN), now]
            if len(deaths) >= _DEATHS:
                time.sleep(_PAUSE)

    def _stop_asked(self, number: int, frame: object) -> None:
        self._asked_to_stop = True
        if self._server:
            try:
                os.kill(self._server, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _keep_one_server(self, wake: int) -> int | None:
        """Run one server; returns the exit status if it ended on purpose, None if it is to be replaced."""
        # What exists is never garbage: the server's collector, which writes to whatever it looks at, leaves the pages
        # alone that the two have in common.
        gc.freeze()
        try:
            pid, ours = self._fork(wake)
        except OSError:
            if not self._worked:
                raise
            # No process, memory or descriptor is to be had: what is held here waits until one is.  For who asks the
            # host to stop that is a server that was killed.
            time.sleep(_PAUSE)
            return self._judge(1, signal.SIGKILL)
        first, self._first = self._first, False
        self._server = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        self._channel = ours
        self._settled = self._leaving = False
        self._adopted.clear()
        self._reported.clear()
        if self._asked_to_stop:
            os.kill(pid, signal.SIGTERM)
        try:
            self._hand_over(outlived=not first)
            return self._watch(wake)
        finally:
            self._server = 0
            self._channel = None
            ours.close()

    def _fork(self, wake: int) -> tuple[int, socket.socket]:
        """Start a server; returns its pid and the channel to it, with the signals of :data:`ENDING` blocked.

        :raises OSError: there is no room for it, and nothing was changed
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 4 * 1024 * 1024)
        ours.setblocking(False)
        # Until the server can hear it, nobody's request to stop is lost or ends it at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            self._be_server(ours, theirs, wake)
        theirs.close()
        return pid, ours

    def _be_server(self, ours: socket.socket, theirs: socket.socket, wake: int) -> None:
        status = 1
        try:
            ours.close()
            signal.set_wakeup_fd(-1)
            os.close(wake)
            if self._listing >= 0:
                os.close(self._listing)
            for number in (*ENDING, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if not self._worked:
                # There is nothing yet that would have to be ended in order.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            # The copies of the fork are not needed: what is held comes over the channel.
            for descriptors in self._held.values():
                for descriptor in descriptors.values():
                    os.close(descriptor)
            status = self._serve(theirs.detach(), self.estate, not self._worked)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def _hand_over(self, *, outlived: bool) -> None:
        for key, held in tuple(self._held.items()):
            words, descriptors = hand_out({key: held})
            self._send(["hold", *words], descriptors)
        for words in pid_packets("children", (pid for pid in self._children() if pid != self._server)):
            self._send(words)
        self._send(["handed", "outlived" if outlived else ""])

    def _children(self) -> list[int]:
        if self._listing >= 0:
            os.lseek(self._listing, 0, os.SEEK_SET)
            parts: list[bytes] = []
            while part := os.read(self._listing, PACKET):
                parts.append(part)
            return [int(child) for child in b"".join(parts).split()]
        # Look at everybody's parent.
        pid = os.getpid()
        found: list[int] = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    if int(stat_fields(int(name))[1]) == pid:
                        found.append(int(name))
                except OSError:
                    continue
        return found

    def _send(self, words: list[str], descriptors: Iterable[int] = ()) -> None:
        assert self._channel is not None
        while True:
            try:
                send(self._channel, words, descriptors)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._channel, select.POLLOUT | select.POLLIN)
                if any(events & select.POLLIN for _, events in poll.poll()):
                    # It may be waiting for room as well.
                    self._read_packets()
                continue
            except ConnectionError:
                # The server is gone; its end is seen by waitid.
                pass
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                time.sleep(LEISURE)
                # Descriptors find no room either if nobody is there to read them.
                if self._read_packets():
                    continue
            return

    # While a server runs

    def _watch(self, wake: int) -> int | None:
        assert self._channel is not None
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(wake, select.POLLIN)
        listening = True
        while True:
            for descriptor, events in poll.poll():
                if descriptor == wake:
                    _drain(wake)
                elif listening:
                    if not events & select.POLLHUP:
                        time.sleep(LEISURE)
                    listening = self._read_packets()
                    if not listening:
                        poll.unregister(self._channel)
            info = os.waitid(os.P_PID, self._server, os.WEXITED | os.WNOHANG)
            if info is not None:
                self._read_packets()
                return self._judge(*end_of(info))
            self._look_after_children()

    def _judge(self, code: int, number: int) -> int | None:
        if self._leaving and not number:
            return code
        if not self._worked:
            # The next one would not work either, unless this one was killed for no reason of ours.
            return code if self._asked_to_stop or not number else None
        if self._asked_to_stop:
            # What it ran may run yet: the next one ends that.
            self._failed_stops += 1
            if self._failed_stops >= _STOPS:
                self._kill_children()
                return code
        return None

    def _kill_children(self) -> None:
        """End, without any order, what no server could end; the children of who dies become ours."""
        deadline = time.monotonic() + _KILLING
        while time.monotonic() < deadline:
            killed = False
            for pid in self._children():
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed = True
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
                except PermissionError:
                    # It has become somebody else's.
                    continue
            if not killed:
                return
            time.sleep(LEISURE)

    def _look_after_children(self) -> None:
        if not self._settled:
            return
        for pid in self._children():
            if pid == self._server or pid in self._reported:
                continue
            try:
                if pid not in self._adopted:
                    if not self._server_lives():
                        return
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
                    continue
                info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                continue
            if info is not None:
                code, number = end_of(info)
                self._reported.add(pid)
                self._send(["ended", str(pid), str(code), str(number)])

    def _server_lives(self) -> bool:
        """False when the server is dead or dying, as far as can be seen: a child that nobody adopted may be its own.

        A process with threads is waited for only when the last of them is gone, but its children are ours before that.
        Its first thread is dead at that moment, and that is what is told of its state.
        """
        try:
            return stat_fields(self._server)[0] not in (b"Z", b"X")
        except OSError:
            # It is gone; or there is no descriptor to look with, and the child is left for the next look.
            return False

    def _read_packets(self) -> bool:
        """Read what is there; False when the server's end is closed."""
        assert self._channel is not None
        while True:
            try:
                words, descriptors = receive(self._channel)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                # The server was killed before it read what came from here.  This is told once, and ahead of what it
                # had sent before.
                continue
            except OSError:
                return False
            if not words:
                return False
            self._obey(words, descriptors)

    def _obey(self, words: list[str], descriptors: list[int]) -> None:
        operation, *rest = words
        if operation == "hold":
            if not take_in(self._held, rest, descriptors):
                self._send(["unheld", *{word.partition("/")[0] for word in rest}])
        elif operation == "drop":
            descriptor = self._held.get(rest[0], {}).pop(rest[1], None)
            if descriptor is not None:
                os.close(descriptor)
        elif operation == "let":
            for key in rest:
                for descriptor in self._held.pop(key, {}).values():
                    os.close(descriptor)
        elif operation == "adopt":
            self._adopted.update(map(int, rest))
        elif operation == "settled":
            self._settled = True
        elif operation == "reap":
            pid = int(rest[0])
            self._adopted.discard(pid)
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass
        elif operation == "own":
            listener, lock = descriptors
            self.estate = Estate.from_words(listener, lock, rest)
        elif operation == "ready":
            self._worked = True
        elif operation == "leave":
            self._leaving = True


def _noted(number: int, frame: object) -> None:
    """The wake-up descriptor has told the loop already."""


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass
