"""The daemon's own process: serve the API on the Unix socket until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import uvicorn

from holdfast.clock import monotonic
from holdfast.daemon.api import Api
from holdfast.daemon.client import daemon_socket
from holdfast.daemon.runtime import Runtime

logger: Final = logging.getLogger(__name__)

#: Open streams are cut this long after a stop; their clients come back to the next daemon by cursor, seconds.
_STREAM_GRACE: Final = 1
#: The store answers in another thread, which then waits for a busy loop until that is told to let go; Python's own 5 ms
#: are longer than the answer takes, seconds.
_SWITCH_INTERVAL: Final = 0.0005
#: For a daemon that answers nobody any more to end, seconds; less than whoever starts its successor waits.
PREDECESSOR_PATIENCE: Final = 20.0


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: who runs the loop decides about signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def run_foreground(directory: Path, *, ready_fd: int | None = None, idle_exit: float | None = None) -> None:
    """Be the daemon of *directory* until SIGTERM, SIGINT or ``POST /v1/shutdown``.

    :param ready_fd: a pipe that gets ``READY`` and is closed as soon as the API answers
    :param idle_exit: end after this many seconds without a request and without an unfinished task
    :raises AlreadyRunning: another process works on the directory
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        # As Python itself does it since 3.12, instead of a thread for every subprocess.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())  # pyright: ignore[reportDeprecated]
    # Whoever waits for READY has found that no daemon answers: one that holds the directory all the same is about to
    # end, or has only just begun.
    patience = 0.0 if ready_fd is None else PREDECESSOR_PATIENCE
    asyncio.run(_serve(directory, ready=_announce(ready_fd), idle_exit=idle_exit, in_process=False, patience=patience))


def serve_in_thread(directory: Path) -> Callable[[], None]:
    """Serve *directory* from a thread of this process; returns, once the API answers, what stops it.

    :raises HoldfastError: what kept it from serving
    """
    started = threading.Event()
    failure: list[BaseException] = []
    stop: list[Callable[[], None]] = []

    def run() -> None:
        async def serve() -> None:
            loop = asyncio.get_running_loop()
            stopping = asyncio.Event()

            def end() -> None:
                loop.call_soon_threadsafe(stopping.set)

            stop.append(end)
            await _serve(directory, ready=started.set, idle_exit=None, in_process=True, stopping=stopping)

        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="holdfast runtime", daemon=True)
    thread.start()
    started.wait()
    if failure:
        raise failure[0]

    def end() -> None:
        if thread.is_alive():
            stop[0]()
            thread.join()

    return end


async def _serve(
    directory: Path,
    *,
    ready: Callable[[], None],
    idle_exit: float | None,
    in_process: bool,
    stopping: asyncio.Event | None = None,
    patience: float = 0.0,
) -> None:
    stopping = stopping or asyncio.Event()
    if not in_process:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Runtime(directory, patience=patience) as runtime:
        listener = _listen(daemon_socket(directory))
        try:
            application = Api(runtime, stopping.set, in_process=in_process).application()
            config = uvicorn.Config(
                application,
                loop="none",
                lifespan="off",
                ws="none",
                http="h11",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STREAM_GRACE,
            )
            server = _Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            ending = asyncio.create_task(_until_stopped(stopping, runtime, idle_exit))
            # The socket accepts since listen(); what is asked before uvicorn's first turn waits in its queue.
            ready()
            logger.info("serving %s", directory)
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            ending.cancel()
            await serving
        finally:
            listener.close()
            daemon_socket(directory).unlink(missing_ok=True)
        _, active = await runtime.tasks.counts()
        logger.info("stopped with %d unfinished tasks", active)


async def _until_stopped(stopping: asyncio.Event, runtime: Runtime, idle_exit: float | None) -> None:
    while not stopping.is_set():
        timeout = None if idle_exit is None else max(0.05, runtime.last_asked + idle_exit - monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), timeout)
        if idle_exit is None or stopping.is_set() or monotonic() < runtime.last_asked + idle_exit:
            continue
        _, active = await runtime.tasks.counts()
        if active == 0:
            logger.info("idle for %.0f s", idle_exit)
            return
        runtime.last_asked = monotonic()


def _listen(path: Path) -> socket.socket:
    """Bind the socket 0600; one that is left over is ours to replace, since the directory is locked."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


def _announce(ready_fd: int | None) -> Callable[[], None]:
    def announce() -> None:
        if ready_fd is None:
            return
        # Whoever waited may be gone; others will come.
        with contextlib.suppress(BrokenPipeError):
            os.write(ready_fd, b"READY\n")
        os.close(ready_fd)

    return announce
