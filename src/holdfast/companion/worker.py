"""Keeping the view of a background job up to date while nobody waits for it.

A job needs no worker: it is a task, and goes on in Holdfast whatever happens here.  But other programs read the view,
so a process that was forked off the command that began the job writes down what the job does, and ends with it.
Killing it costs nothing: the next command brings the view up to date.  A caller that ends it politely (SIGTERM, as the
original's ``cancel`` and ``SessionEnd`` do with the pid of a job) means the job, and gets what it means.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Final

from holdfast.companion import output
from holdfast.companion.arguments import Syntax
from holdfast.companion.daemon import Daemon
from holdfast.companion.jobs import Jobs
from holdfast.companion.refusal import Refused
from holdfast.companion.view import Record, is_active
from holdfast.companion.workspace import Workspace
from holdfast.errors import HoldfastError

SYNTAX: Final = Syntax(switches=("json",), values=("job-id",))
_MOST_DESCRIPTORS: Final = 1024


def run(arguments: Sequence[str]) -> int:
    """``task-worker --cwd D --job-id ID``: bring the view of one job up to date, and stay with it to its end."""
    given = SYNTAX.read(arguments)
    job_id = given.value("job-id")
    if job_id is None:
        raise Refused("Missing required --job-id for task-worker.")
    jobs = Jobs(Workspace(given.value("cwd")))
    record = jobs.named(job_id)
    output.note(
        f"{record['id']} needs no worker: Holdfast carries it out.  This only keeps {jobs.view.directory} current."
    )
    if is_active(record):
        jobs.follow(record)
    return 0


def detach(jobs: Jobs, record: Record) -> None:
    """Fork a process that follows the job; its id is the ``pid`` of the record."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as pipe:
            record["pid"] = int(pipe.read() or b"0") or None
        return
    # A second fork, so that whoever adopts orphans also buries it.
    try:
        os.setsid()
        worker = os.fork()
        if worker == 0:
            os.close(reader)
            os.close(writer)
            _silence()
            record["pid"] = os.getpid()
            _follow(jobs, record)
        else:
            os.write(writer, str(worker).encode())
    finally:
        os._exit(0)


def _follow(jobs: Jobs, record: Record) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        Daemon().post(f"/v1/tasks/{record['id']}/cancel", {})

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Whoever stopped the daemon wants it stopped; the next command brings the view up to date.
    jobs.daemon.may_start = False
    try:
        jobs.show(record)
        jobs.follow(record)
    except HoldfastError as error:
        jobs.view.log(jobs.view.log_path(record["id"]), f"This log ends here: {error.message}")


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    # A pipe of the caller that stayed open here would never tell it that the command has ended.
    os.closerange(3, _MOST_DESCRIPTORS)
    os.chdir("/")
