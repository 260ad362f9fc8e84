"""The server reaps orphans and nobody else: not a hosted process before its time, not a program that a thread runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from holdfast.clock import boot_id
from holdfast.host.description import Description
from holdfast.host.keeper import Keeper, stat_fields
from holdfast.host.os_process import first_started, start_time
from holdfast.host.recovery import _find  # pyright: ignore[reportPrivateUsage]
from holdfast.host.spawn import Streams

from .harness import BOUND

#: Has a hosted child, a child of a thread and an orphan, all of them ended and none of them reaped, and says who is
#: reaped.  A process of its own, because it must be a subreaper.
SCRIPT = """
import os, subprocess, sys, threading
from holdfast.host.keeper import become_subreaper
from holdfast.host.orphans import reap_orphans
become_subreaper()

def ended(pid):
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

hosted = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {}, setsid=True)
ended(hosted)
run = []
thread = threading.Thread(target=lambda: run.append(subprocess.Popen(["sh", "-c", "exit 3"])))
thread.start()
thread.join()
ended(run[0].pid)
read_end, write_end = os.pipe()
os.set_inheritable(write_end, True)
# It outlives its parent for certain: else that one might reap it.
script = "(while kill -0 $$ 2>/dev/null; do /bin/sleep 0.02; done; exit 7) & echo $! >&%d; exit 0" % write_end
leader = os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, setsid=True)
orphan = int(os.read(read_end, 100))
assert os.waitpid(leader, 0) == (leader, 0)
# Now it is ours, whoever started it.
ended(orphan)
assert reap_orphans({hosted}) == 1
assert reap_orphans({hosted}) == 0
assert os.waitid(os.P_PID, hosted, os.WEXITED | os.WNOHANG).si_status == 5
assert run[0].wait() == 3
assert reap_orphans(set()) == 0
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
except ChildProcessError:
    print("nobody is left")
"""


#: The same where /proc hides who has become somebody else's (hidepid), as all of them have.
HIDDEN = """
import builtins, errno, os
genuine = open

def hide(name, *arguments, **more):
    if str(name).endswith("/stat"):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
    return genuine(name, *arguments, **more)

builtins.open = hide
"""


@pytest.mark.parametrize("script", [SCRIPT, HIDDEN + SCRIPT], ids=["seen", "hidden"])
def test_orphans_are_reaped_and_what_others_wait_for_is_not(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=BOUND, check=False)
    assert (done.stdout, done.stderr) == ("nobody is left\n", "")


def describe(**changes: object) -> Description:
    told = {"process_id": "p", "session_id": None, "argv": [], "cwd": "/", "tty": False, "marker": None}
    # The wall clock says what it likes.
    usual = {"created_ns": 1 << 62, "created_boottime_ns": 0, "boot_id": boot_id()}
    return Description(**{**told, **usual, **changes})  # type: ignore[arg-type]


def test_a_child_that_ended_before_it_was_noted_is_found_by_the_clock_of_the_boot() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}, setsid=True)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        streams = Streams(-1, {}, False)
        second = os.sysconf("SC_CLK_TCK")
        later = (start_time(pid) + second) * 1_000_000_000 // second
        assert _find(describe(created_boottime_ns=later), streams, {pid}) is None
        assert _find(describe(created_boottime_ns=before, boot_id="another"), streams, {pid}) is None
        assert _find(describe(created_boottime_ns=before, first_started=1 << 40), streams, {pid}) is None
        found = _find(describe(created_boottime_ns=before, first_started=first_started()), streams, {pid})
        assert found is not None
        assert (found.pid, found.started) == (pid, start_time(pid))
    finally:
        os.waitpid(pid, 0)


def test_a_fork_that_became_no_program_before_it_ended_is_no_start() -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert _find(describe(), Streams(-1, {}, False), {pid}) is None
    finally:
        os.waitpid(pid, 0)


#: Its first thread is dead and another one lives: so is a server with threads for a moment when it is killed.
HALF_DEAD = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


def _keeps_what_a_dying_server_left() -> bool:
    keeper = Keeper(lambda channel, estate, announce: 0)
    dying = subprocess.Popen([sys.executable, "-c", HALF_DEAD])
    living = subprocess.Popen(["sleep", "1000"])
    try:
        while stat_fields(dying.pid)[0] != b"Z":
            time.sleep(0.01)
        orphan = os.posix_spawn("/bin/true", ["true"], {})
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        keeper._settled = True  # pyright: ignore[reportPrivateUsage]
        keeper._server = dying.pid  # pyright: ignore[reportPrivateUsage]
        keeper._look_after_children()  # pyright: ignore[reportPrivateUsage]
        kept = os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        keeper._server = living.pid  # pyright: ignore[reportPrivateUsage]
        keeper._look_after_children()  # pyright: ignore[reportPrivateUsage]
        try:
            os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return kept
        return False
    finally:
        for process in (dying, living):
            process.kill()
            process.wait()


def test_what_a_dying_server_leaves_is_not_reaped_unseen() -> None:
    # In a process of its own: a keeper reaps whatever it finds.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if _keeps_what_a_dying_server_left() else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
