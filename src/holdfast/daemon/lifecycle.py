"""Finding the daemon, or starting it: a caller gets a client that has had an answer, or the reason why not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

from holdfast.clock import monotonic
from holdfast.daemon.client import DaemonClient, daemon_socket
from holdfast.daemon.transport import ANSWER_TIMEOUT, DaemonGone
from holdfast.directories import open_private, private_directory
from holdfast.errors import HoldfastError, Unavailable

#: For a daemon to come up on a loaded machine, seconds.
START_PATIENCE: Final = 30.0
#: A daemon that the first command started ends by itself after this long without work, seconds.
IDLE_EXIT: Final = 1800.0
_LOG_TAIL_BYTES: Final = 4096


class DaemonStartFailed(Unavailable):
    """A daemon was started and did not come up."""

    code = "daemon_start_failed"


class DaemonVanished(DaemonStartFailed):
    """It said READY and was gone before it could be asked anything."""


class DaemonHangs(Unavailable):
    """A daemon is there, takes connections, and does not answer."""

    code = "daemon_hangs"


def connect_existing(directory: Path) -> DaemonClient | None:
    """The client of the daemon that serves *directory*, or ``None`` if there is none.

    :raises DaemonHangs: there is one that does not answer
    """
    client = DaemonClient(daemon_socket(directory))
    try:
        client.status(timeout=ANSWER_TIMEOUT)
    except DaemonGone as error:
        client.close()
        if isinstance(error.__cause__, TimeoutError):
            raise DaemonHangs(
                f"The daemon takes connections, but does not answer within {ANSWER_TIMEOUT:g} s.",
                hint=f"Look at its process, whose number is in {directory / 'daemon.lock'}; "
                "if it is killed, tasks go on and the next command starts another.",
            ) from error
        return None
    return client


def connect(directory: Path) -> DaemonClient:
    """The client of the daemon of *directory*; one is started where none answers.

    Where none can be started the runtime runs inside this process, and ``client.notice`` says so.

    :raises InsecureDirectory: the directory is not private
    :raises DaemonHangs: there is one that does not answer
    :raises DaemonStartFailed: not even that was possible
    """
    client = connect_existing(directory)
    if client is not None:
        return client
    try:
        try:
            return start_detached(directory, idle_exit=IDLE_EXIT)
        except DaemonVanished:
            # It can be started, so it was ended from outside: one more try.
            return start_detached(directory, idle_exit=IDLE_EXIT)
    except DaemonStartFailed as error:
        return _connect_in_process(directory, error)


def start_detached(directory: Path, *, idle_exit: float | None = None) -> DaemonClient:
    """Start a daemon in a session of its own and return once it has said READY and answered.

    If one answers already, or another caller is starting one, that one is used.

    :raises DaemonStartFailed: it died, or did not come up in time; with the end of its log
    """
    private_directory(directory)
    with _one_starter(directory):
        client = connect_existing(directory)
        if client is not None:
            return client
        try:
            _spawn(directory, idle_exit)
        except DaemonStartFailed:
            # Somebody who does not ask here first ("up --foreground") may have been quicker.
            client = connect_existing(directory)
            if client is None:
                raise
            return client
    client = connect_existing(directory)
    if client is None:
        raise DaemonVanished("The daemon came up and went away at once.", hint=_log_hint(directory))
    return client


def _spawn(directory: Path, idle_exit: float | None) -> None:
    import subprocess

    log = directory / "daemon.log"
    try:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DaemonStartFailed(f"The daemon's log cannot be written: {error}.", hint=f"Look at {log}.") from error
    ready_reader, ready_writer = os.pipe()
    command = [sys.executable, "-P", "-m", "holdfast", "up", "--foreground", "--ready-fd", str(ready_writer)]
    if idle_exit is not None:
        command += ["--idle-exit", str(idle_exit)]
    log_start = os.fstat(log_fd).st_size
    try:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=[ready_writer],
            start_new_session=True,
            cwd="/",
            env={**os.environ, "HOLDFAST_STATE_DIR": str(directory)},
        )
    except OSError as error:
        os.close(ready_reader)
        raise DaemonStartFailed(f"The daemon could not be started: {error}.", hint="Run: holdfast doctor") from error
    finally:
        os.close(log_fd)
        os.close(ready_writer)
    with os.fdopen(ready_reader, "rb", buffering=0) as ready:
        deadline = monotonic() + START_PATIENCE
        readable, _, _ = select.select([ready], [], [], max(0.0, deadline - monotonic()))
        if readable and ready.read(6) == b"READY\n":
            # It is no child of ours to wait for: it belongs to whoever adopts it when we end.
            daemon.returncode = 0
            return
    if not readable:
        daemon.kill()
    code = daemon.wait()
    reason = f"ended with status {code}" if readable else f"did not come up within {START_PATIENCE:g} s"
    tail = _log_tail(log, log_start)
    raise DaemonStartFailed(f"The daemon {reason}.{tail}", hint=_log_hint(directory))


@contextlib.contextmanager
def _one_starter(directory: Path) -> Generator[None]:
    """Let one caller at a time start a daemon; the others wait until it is up, and use it."""
    descriptor = open_private(directory / "start.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _connect_in_process(directory: Path, reason: DaemonStartFailed) -> DaemonClient:
    from holdfast.daemon.main import serve_in_thread

    try:
        stop = serve_in_thread(directory)
    except HoldfastError as error:
        raise DaemonStartFailed(
            f"{reason.message} Nor can this process do the work itself: {error.message}",
            hint=error.hint or reason.hint,
        ) from reason
    return DaemonClient(
        daemon_socket(directory),
        in_process=True,
        notice=f"No daemon could be started, so this command does the work itself. {reason.message}",
        on_close=stop,
    )


def _log_tail(log: Path, start: int) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace").strip()
        if text:
            return f" It said:\n{text}"
    return ""


def _log_hint(directory: Path) -> str:
    return f"Read {directory / 'daemon.log'}, or run: holdfast doctor"
