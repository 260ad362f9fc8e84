"""The host's server: one event loop from the first connection to the orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from holdfast.errors import HoldfastError
from holdfast.host.dispatch import ClientConnection
from holdfast.host.ending import ENDING
from holdfast.host.keeping import KeeperLink
from holdfast.host.server import ProcessHost
from holdfast.host.threads import Threads
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.event_loop import EventLoop
from holdfast.jsonrpc.streams import Serving

if TYPE_CHECKING:
    from holdfast.host.authentication import Authorize

_log = logging.getLogger(__name__)


class StandardStreamFailed(HoldfastError):
    """Standard input or output cannot be used."""

    code = "standard_stream_failed"
    #: ``EX_IOERR`` of sysexits.h, as with every command that cannot write its output.
    exit_code = os.EX_IOERR

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"Standard input or output failed: {error.strerror}.",
            hint="Give the host a pipe, a socket, a terminal, or a file that can be read or written.",
        )


class Service(NamedTuple):
    """What to serve, and how."""

    directory: Path
    #: The listening socket, or None for standard input and output.
    listener: socket.socket | None
    url: str
    idle_exit: float | None
    #: Bytes of output of closed processes that are retained.
    retain_bytes: int
    #: How many descriptors a child may have.
    child_descriptors: int
    #: Decides on the headers of a WebSocket upgrade; see :mod:`holdfast.host.authentication`.
    authorize: Authorize | None
    #: The directory outside of which ``fs/*`` touches nothing; None for no limit.
    root: str | None


#: Rounds of the loop after which it has acted on every signal that was delivered before: it looks, and then calls.
_ROUNDS: Final = 4
#: Seconds until a server that could not become the keeper tries again.
_SUCCESSION: Final = 5.0
#: ``malloc.h``: above which size, in bytes, a block is mapped by itself, and how much free memory is kept at the end.
_M_MMAP_THRESHOLD: Final = -3
_M_TRIM_THRESHOLD: Final = -1
_LARGE_BLOCK: Final = 1024 * 1024
_KEPT_FREE: Final = 4 * 1024 * 1024


def serve(
    service: Service, link: KeeperLink, succeed: Callable[[ProcessHost], NoReturn] | None, *, announce: bool
) -> int:
    """Serve until told to stop; returns the exit status.

    *succeed* is called when the keeper has died: it makes this process the next keeper.

    :raises StandardStreamFailed: the one client cannot be heard or told anything, or nobody can be told the URL
    """
    _keep_free_memory()
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(_serve(service, link, succeed, announce))


async def _serve(
    service: Service, link: KeeperLink, succeed: Callable[[ProcessHost], NoReturn] | None, announce: bool
) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads())
    stop = asyncio.Event()
    for number in ENDING:
        loop.add_signal_handler(number, stop.set)
    # The keeper had blocked them until now; no thread and no child was made before.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    host = ProcessHost(
        service.directory, link, retain_bytes=service.retain_bytes, child_descriptors=service.child_descriptors
    )
    host.recover()
    link.listen(loop)

    def keeper_died() -> None:
        # From here on they wait across the exec until the keeper can hear them; one that came before is heard first.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        take_its_place(_ROUNDS)

    def take_its_place(rounds: int) -> None:
        if rounds:
            loop.call_soon(take_its_place, rounds - 1)
        elif succeed is None or stop.is_set():
            # Who stops needs no keeper any more.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        else:
            _log.warning("the keeper of this server died; it becomes the keeper, and another one the server")
            try:
                succeed(host)
            except OSError as error:
                _log.error("this server cannot become the keeper (%s): it goes on without one, and tries again", error)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
                loop.call_later(_SUCCESSION, keeper_died)
                host.kept_children.forsaken()

    link.on_death = keeper_died

    def accept(connection: Connection) -> ClientConnection:
        return ClientConnection(host, connection, root=service.root)

    server: Serving | None = None
    failure: Exception | None = None
    if service.listener is None:
        from holdfast.jsonrpc.lines import LineConnection
        from holdfast.jsonrpc.stdio import serve_stdio

        class OnlyClient(ClientConnection):
            def connection_lost(self) -> None:
                nonlocal failure
                super().connection_lost()
                assert isinstance(self.connection, LineConnection)
                failure = self.connection.failure
                stop.set()

        await serve_stdio(lambda connection: OnlyClient(host, connection, root=service.root))
    elif service.listener.family == socket.AF_UNIX:
        from holdfast.jsonrpc.lines import serve_unix

        server = await serve_unix(service.listener, accept)
    else:
        from holdfast.jsonrpc.websocket import serve_websocket

        server = await serve_websocket(service.listener, accept, service.authorize and _told(service.authorize))
    link.ready()
    _log.info("serves %s, with its state in %s", service.url or "standard input and output", service.directory)
    if announce and service.url and sys.stdout is not None:
        # The one line on standard output: the host is ready, and this is where; a path that is no text as it is.
        try:
            sys.stdout.buffer.write(os.fsencode(service.url) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Who started the host is gone; the host stays, as it does when that happens a moment later.
            pass
        except OSError as error:
            failure = error
            stop.set()
    # What exists now lives as long as the host: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    if service.idle_exit is None:
        await stop.wait()
    else:
        await _stopped_or_idle(stop, host, service.idle_exit)
        stop.set()
    _log.info("ends, with everything that runs in it")
    if server is not None:
        server.close()
    await host.stop()
    link.leave()
    # That the client went away is no failure.
    if isinstance(failure, OSError) and not isinstance(failure, ConnectionError):
        raise StandardStreamFailed(failure)
    return 0


async def _stopped_or_idle(stop: asyncio.Event, host: ProcessHost, limit: float) -> None:
    """Return when told to stop, or when nobody was connected and nothing lived for *limit* seconds."""
    while host.idle_for < limit:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.02, limit - host.idle_for))
            return


def _told(authorize: Authorize) -> Authorize:
    """The same decision, and the operator is told of who is not admitted."""

    def decide(headers: Mapping[str, str]) -> str | None:
        refusal = authorize(headers)
        if refusal is not None:
            _log.warning("did not admit a client: %s", refusal)
        return refusal

    return decide


def _keep_free_memory() -> None:
    """Let the allocator use the memory of large buffers again, instead of giving it back and asking for it each time.

    By default glibc gives back what output was in as soon as it is sent; that the kernel clears the same pages for the
    next portion then costs as much as encoding it.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries have none, and other habits.
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE)
