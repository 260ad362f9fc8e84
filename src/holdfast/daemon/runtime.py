"""Everything that lives as long as a daemon: the store, the host, the tasks.

The same runtime serves in a daemon of its own and, where none can be started, inside the command line's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from holdfast.clock import monotonic, wall
from holdfast.daemon.client import daemon_socket
from holdfast.directories import InsecureDirectory, UnusableDirectory, open_private, private_directory
from holdfast.drivers.app_server.servers import SharedServers
from holdfast.errors import InvalidRequest
from holdfast.host.client import HostClient
from holdfast.host.launch import ensure_host
from holdfast.host.port import Host, HostUnavailable
from holdfast.jsonrpc.messages import RpcError
from holdfast.store.store import Store
from holdfast.tasks.service import TaskService

logger: Final = logging.getLogger(__name__)


#: For a host of this machine to answer again before it is started anew, seconds.
HOST_RECONNECT: Final = 2.0
#: For a host to answer a question that takes no time; one that is stopped, or hangs, takes connections all the same.
HOST_ANSWERS_WITHIN: Final = 10.0
#: A host without a daemon and without a live process ends by itself after this long, seconds.
HOST_IDLE_EXIT: Final = 1.0
#: Between two tries to get the state directory, seconds.
_LOOK_AGAIN: Final = 0.02


class AlreadyRunning(InvalidRequest):
    """Another process works on this state directory."""

    code = "already_running"


class LocalHost:
    """The host of this state directory: connected when first needed, started again when it died."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client: HostClient | None = None
        self._finding: asyncio.Task[HostClient] | None = None
        #: The question that shows whether the host answers, until it is answered, and when it was asked.
        self._question: asyncio.Task[object] | None = None
        self._asked_at = 0.0

    async def host(self) -> Host:
        """A host that answers.

        :raises HostUnavailable: it does not answer, or cannot be started
        """
        if self._finding is None:
            self._finding = asyncio.create_task(self._find(), name="find host")
            self._finding.add_done_callback(self._found)
        finding = self._finding
        # Whoever leaves does so alone, and who needs a host at the same time waits for the same one.
        await asyncio.wait({finding})
        if finding.cancelled():
            raise HostUnavailable("The daemon has left its host.", hint="Try again.")
        return finding.result()

    async def _find(self) -> HostClient:
        client = self._client
        if client is not None:
            try:
                await self._ask(client)
                return client
            except HostUnavailable as error:
                if self._question is not None:
                    # It has its directory, so no other one can be started, and it may go on at any moment.
                    raise
                logger.warning("the host does not answer: %s", error)
                await client.aclose()
                self._client = None
        try:
            self._client = await ensure_host(self._directory, idle_exit=HOST_IDLE_EXIT, reconnect_for=HOST_RECONNECT)
        except (InsecureDirectory, UnusableDirectory) as error:
            raise HostUnavailable(error.message, hint=error.hint) from error
        return self._client

    async def _ask(self, client: HostClient) -> None:
        if self._question is None:
            # Any question will do: what counts is that it is answered.
            self._question = asyncio.create_task(client.status(""), name="ask host")
            self._question.add_done_callback(self._answered)
            self._asked_at = monotonic()
        question = self._question
        await asyncio.wait({question}, timeout=max(0.0, self._asked_at + HOST_ANSWERS_WITHIN - monotonic()))
        if not question.done():
            raise HostUnavailable(
                f"The host does not answer within {HOST_ANSWERS_WITHIN:g} s.",
                hint=f"Look at its process, whose number is in {self._directory / 'lock'}.",
            )
        question.result()

    def _found(self, finding: asyncio.Task[HostClient]) -> None:
        self._finding = None
        _look_at(finding)

    def _answered(self, question: asyncio.Task[object]) -> None:
        self._question = None
        _look_at(question)

    @property
    def url(self) -> str | None:
        """Where the host is reached, once it is connected."""
        return None if self._client is None else self._client.url

    async def aclose(self) -> None:
        """Leave the host; its processes go on.  A host that nobody needs any more ends at once."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait({self._finding})
        if self._client is None:
            return
        if self._question is None:
            try:
                async with asyncio.timeout(HOST_ANSWERS_WITHIN):
                    await self._client.stop_if_idle()
            except (TimeoutError, HostUnavailable, RpcError) as error:
                # It ends by itself when it has been idle for a while.
                logger.warning("the host could not be asked to end: %r", error)
        else:
            logger.warning("the host does not answer, and is left as it is")
            self._question.cancel()
        await self._client.aclose()
        self._client = None


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take note of how *task* failed, for when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


class Runtime:
    """One state directory at work.  Use as an asynchronous context manager."""

    def __init__(self, directory: Path, *, patience: float = 0.0) -> None:
        """*directory* is the state directory; nothing is touched before the context is entered.

        :param patience: seconds that another process has to let go of the directory
        """
        self.directory = directory
        self._patience = patience
        self.started_at = wall()
        #: When a client last asked for something; what an idle daemon ends by.
        self.last_asked = monotonic()
        self._lock: int | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Runtime:
        private_directory(self.directory)
        self._lock = await _lock_directory(self.directory, self._patience)
        try:
            self.store = await self._stack.enter_async_context(await Store.open(self.directory / "holdfast.db"))
            self.local_host = LocalHost(self.directory / "host")
            self._stack.push_async_callback(self.local_host.aclose)
            self.servers = SharedServers(self.local_host)
            self._stack.push_async_callback(self._leave_servers)
            self.tasks = TaskService(
                self.store, self.local_host, self.servers, private_directory(self.directory / "tasks")
            )
            self._stack.push_async_callback(self.tasks.aclose)
            recovered = await self.tasks.recover()
            if recovered:
                logger.info("took up %d unfinished tasks", recovered)
            self._warm_up = asyncio.create_task(self._connect_host(), name="connect host")
            self._stack.push_async_callback(self._end_warm_up)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _connect_host(self) -> None:
        # Before the first task needs it, so that it need not wait.  A failure is told to whoever needs it then.
        try:
            await self.local_host.host()
            await self.servers.adopt()
        except HostUnavailable as error:
            logger.error("no host: %s", error)

    async def _leave_servers(self) -> None:
        # Those of tasks that go on are left alone, to be taken up by the next daemon: even one that seems idle, because
        # a turn may be about to begin in it.
        _, active = await self.tasks.counts()
        try:
            await self.servers.end_idle(spare=active > 0)
        except HostUnavailable as error:
            logger.warning("the agents' servers could not be ended: %s", error)
        await self.servers.aclose()

    async def _end_warm_up(self) -> None:
        self._warm_up.cancel()
        await asyncio.wait({self._warm_up})


async def _lock_directory(directory: Path, patience: float) -> int:
    """Take the state directory for this process; the kernel gives it back when the process dies, however it dies.

    :raises AlreadyRunning: another daemon has it
    :raises UnusableDirectory: nothing can be written there
    """
    deadline = monotonic() + patience
    descriptor = open_private(directory / "daemon.lock", os.O_RDWR)
    try:
        while not _lock(descriptor):
            if monotonic() >= deadline or _accepts(daemon_socket(directory)):
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                raise AlreadyRunning(
                    f"A Holdfast daemon (process {holder or 'unknown'}) works on {directory} already.",
                    hint="Use it as it is, or end it with 'holdfast down'.",
                )
            await asyncio.sleep(_LOOK_AGAIN)
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise UnusableDirectory(
                f"Nothing can be written in {directory}: {error.strerror}.",
                hint="Make room there, or set HOLDFAST_STATE_DIR to a directory on another disk.",
            ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _accepts(path: Path) -> bool:
    """Whether somebody listens there, and so is about to end no more than we are."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        return connection.connect_ex(str(path)) == 0


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
