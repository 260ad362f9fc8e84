"""The shared servers: hosted like everything else, watched while somebody needs them, ended when nobody does.

Codex itself refuses a second server on a socket and takes over the socket file of a dead one (measured on 0.169.0), so
whatever two of us do at the same time, one server is there afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, Protocol

from holdfast.agents.adapter import SharedServer
from holdfast.clock import monotonic
from holdfast.directories import private_directory, socket_path, state_directory
from holdfast.drivers.app_server import calls
from holdfast.drivers.one_shot import tail
from holdfast.errors import HoldfastError, Unavailable
from holdfast.host.port import Host, HostUnavailable, Kind, ProcessSpec, ProcessState, StartRefused, UnknownProcess

logger: Final = logging.getLogger(__name__)

#: What the process ids of servers begin with; then come the key and a number.
PREFIX: Final = "codex-server-"
#: From the start to the first answer, seconds: measured 0.1-0.6 on an idle machine, a cold disk takes longer.
READY_WITHIN: Final = 30.0
#: Between two looks whether a server that is used still answers, and for its answer, seconds.
PROBE_EVERY: Final = 15.0
PROBE_WITHIN: Final = 10.0
#: Looks in a row without an answer after which it is started again.
_MOST_SILENT_PROBES: Final = 2
#: How often a server is started within a minute; one that ends more often has to wait.
MOST_STARTS: Final = 10
_GRACE: Final = 2.0


class ServerFailed(Unavailable):
    """A shared server could not be started, or does not answer."""

    code = "codex_server_failed"


class Hosts(Protocol):
    """Where hosts come from."""

    async def host(self) -> Host:
        """A connected host of this machine.

        :raises HostUnavailable: it cannot be started
        """
        ...


class _Server:
    """What is known of one server."""

    def __init__(self, key: str) -> None:
        self.key = key
        #: How to start it; ``None`` for one that was found running, until somebody needs it.
        self.shared: SharedServer | None = None
        self.process_id: str | None = None
        self.holders = 0
        self.changing = asyncio.Lock()
        self.supervisor: asyncio.Task[None] | None = None
        self.clock: asyncio.Task[None] | None = None
        #: Somebody left, or may have (an earlier daemon), who needed it still: a turn may be about to begin in it.
        self.left_in_need = False
        #: It answered, and is watched since.
        self.ready = False
        #: When it was started lately, on the monotonic clock.
        self.starts: deque[float] = deque()

    @property
    def socket(self) -> str:
        """Where it listens."""
        if self.shared is not None:
            return self.shared.socket
        return str(socket_path(state_directory() / "codex", f"{self.key}.sock"))


class SharedServers:
    """All shared servers of this machine's host.

    :param idle: seconds after which a server that nobody holds is ended
    :param probe_every: seconds between two looks whether a server that is held still answers
    :param probe_within: seconds that it has for its answer
    :param most_starts: how often a server is started within a minute
    """

    def __init__(
        self,
        hosts: Hosts,
        *,
        idle: float = 300.0,
        probe_every: float = PROBE_EVERY,
        probe_within: float = PROBE_WITHIN,
        most_starts: int = MOST_STARTS,
    ) -> None:
        self._hosts = hosts
        self._idle = idle
        self._probe_every = probe_every
        self._probe_within = probe_within
        self._most_starts = most_starts
        self._servers: dict[str, _Server] = {}

    @contextlib.asynccontextmanager
    async def hold(self, shared: SharedServer) -> AsyncGenerator[None]:
        """Have the server answer, and start it again whenever it dies or falls silent, as long as this is entered.

        :raises ServerFailed: it cannot be started
        :raises HostUnavailable: there is no host to start it on
        """
        server = self._servers.setdefault(shared.key, _Server(shared.key))
        server.shared = shared
        server.holders += 1
        if server.holders == 1:
            # What ended while nobody needed it was no failure.
            server.starts.clear()
        _cancel(server.clock)
        server.clock = None
        try:
            if not server.ready:
                await self._make_ready(server)
            if server.supervisor is None or server.supervisor.done():
                server.supervisor = asyncio.create_task(self._supervise(server), name=f"{PREFIX}{server.key}")
            try:
                yield
            except asyncio.CancelledError:
                server.left_in_need = True
                raise
            if server.holders == 1:
                server.left_in_need = False
        finally:
            server.holders -= 1
            if server.holders == 0:
                _cancel(server.supervisor)
                server.supervisor = None
                server.ready = False
                self._start_clock(server)

    async def adopt(self) -> int:
        """Find the servers that an earlier daemon left running, and end them in time if nobody needs them; how many.

        :raises HostUnavailable: the host cannot be asked
        """
        found = await self._running()
        for key, process_id in found.items():
            if key not in self._servers:
                self._servers[key] = _Server(key)
                self._servers[key].left_in_need = True
            server = self._servers[key]
            server.process_id = process_id
            if server.holders == 0 and server.clock is None:
                self._start_clock(server)
        return len(found)

    async def end_idle(self, *, spare: bool = False) -> int:
        """End every server that nobody holds and in which no turn goes on; how many were ended.

        :param spare: leave those be that somebody still needed when he left, although they seem idle
        :raises HostUnavailable: the host cannot be asked
        """
        await self.adopt()
        idle = [server for server in self._servers.values() if server.holders == 0 and server.process_id is not None]
        leaving = [server for server in idle if not (spare and server.left_in_need)]
        for server in leaving:
            _cancel(server.clock)
            server.clock = None
        return sum(await asyncio.gather(*(self._end(server) for server in leaving)))

    async def aclose(self) -> None:
        """Stop watching; the servers go on."""
        tasks = [task for server in self._servers.values() for task in (server.supervisor, server.clock) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- starting

    async def _make_ready(self, server: _Server) -> None:
        async with server.changing:
            if server.ready:
                return
            host = await self._hosts.host()
            running = (await self._running()).get(server.key)
            if running is not None:
                server.process_id = running
                try:
                    await asyncio.to_thread(calls.probe, server.socket, self._probe_within)
                    server.ready = True
                    return
                except HoldfastError as silence:
                    status = await host.status(running)
                    if status is not None and status.state is ProcessState.RUNNING:
                        logger.warning("%s does not answer and is ended: %s", running, silence)
                        await host.terminate(running, grace=_GRACE)
            await self._start(server, host)
            server.ready = True

    async def _start(self, server: _Server, host: Host) -> None:
        assert server.shared is not None
        now = monotonic()
        while server.starts and now - server.starts[0] > 60.0:
            server.starts.popleft()
        if len(server.starts) >= self._most_starts:
            words = await self._last_words(server, host)
            raise ServerFailed(
                f"The Codex server ended {len(server.starts)} times within a minute: {words}",
                hint="Run 'codex app-server' by hand to see what is wrong, or use --drive one-shot.",
            )
        server.starts.append(now)
        directory = await asyncio.to_thread(private_directory, Path(server.socket).parent)
        taken = [_number(status.process_id) for status in await host.list() if _key(status.process_id) == server.key]
        server.process_id = f"{PREFIX}{server.key}-{max(taken, default=0) + 1}"
        logger.info("starting %s", server.process_id)
        try:
            await host.start(
                ProcessSpec(process_id=server.process_id, argv=server.shared.argv, cwd=directory, env=server.shared.env)
            )
        except StartRefused as refusal:
            raise ServerFailed(f"The Codex server could not be started: {refusal.message}", hint=refusal.hint) from None
        await self._wait_ready(server, host)

    async def _wait_ready(self, server: _Server, host: Host) -> None:
        """Until it answers a request; what it wrote to standard error goes into the error."""
        assert server.process_id is not None
        deadline = monotonic() + READY_WITHIN
        pause = 0.01
        while True:
            try:
                await asyncio.to_thread(calls.probe, server.socket, max(0.1, deadline - monotonic()))
                return
            except HoldfastError as silence:
                reason = silence.message
            status = await host.status(server.process_id)
            if status is None or status.state is not ProcessState.RUNNING:
                words = await self._last_words(server, host)
                raise ServerFailed(f"The Codex server ended at once: {words}", hint="Check 'codex app-server' by hand.")
            if monotonic() > deadline:
                await host.terminate(server.process_id, grace=_GRACE)
                raise ServerFailed(
                    f"The Codex server did not answer within {READY_WITHIN:g} seconds: {reason}",
                    hint="Run: holdfast doctor",
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.2)

    async def _last_words(self, server: _Server, host: Host) -> str:
        if server.process_id is None:
            return "it left no word."
        try:
            said = await tail(host, server.process_id, Kind.STDERR, 2000)
        except UnknownProcess:
            said = b""
        return said.decode("utf-8", "replace").strip() or "it left no word."

    # --- watching

    async def _supervise(self, server: _Server) -> None:
        """Start the server again when it ends or falls silent; not more often than it may."""
        while True:
            try:
                await self._watch(server)
                server.ready = False
                logger.warning("%s ended while it was needed", server.process_id)
                # At once the first few times; then ever more slowly, because it seems to be no accident.
                await asyncio.sleep(min(0.02 * 2 ** max(0, len(server.starts) - 3), 2.0))
                await self._make_ready(server)
            except HostUnavailable as error:
                server.ready = False
                logger.warning("the host of %s is away: %s", server.process_id, error)
                await asyncio.sleep(1.0)
            except ServerFailed as failure:
                server.ready = False
                logger.error("%s", failure)
                await asyncio.sleep(5.0)

    async def _watch(self, server: _Server) -> None:
        """Until the server has ended, of itself or because it did not answer any more."""
        if server.process_id is None or not server.ready:
            return
        host = await self._hosts.host()
        exit = asyncio.ensure_future(_exit(host, server.process_id))
        silent = 0
        try:
            while silent < _MOST_SILENT_PROBES:
                await asyncio.wait({exit}, timeout=self._probe_every)
                if exit.done():
                    exit.result()
                    return
                try:
                    await asyncio.to_thread(calls.probe, server.socket, self._probe_within)
                    silent = 0
                except HoldfastError as error:
                    silent += 1
                    logger.warning("%s: %s", server.process_id, error)
            await host.terminate(server.process_id, grace=_GRACE)
        except UnknownProcess:
            return
        finally:
            exit.cancel()
            await asyncio.wait({exit})
            if not exit.cancelled():
                exit.exception()

    # --- ending

    def _start_clock(self, server: _Server) -> None:
        if server.process_id is not None:
            server.clock = asyncio.create_task(self._end_in_time(server), name=f"idle {PREFIX}{server.key}")

    async def _end_in_time(self, server: _Server) -> None:
        while True:
            await asyncio.sleep(self._idle)
            try:
                if await self._end(server):
                    return
            except HoldfastError as error:
                logger.warning("%s could not be ended: %s", server.process_id, error)

    async def _end(self, server: _Server) -> bool:
        """End a server that nobody holds, unless a turn goes on in it."""
        async with server.changing:
            if server.holders or server.process_id is None:
                return False
            try:
                if await asyncio.to_thread(calls.is_busy, server.socket):
                    return False
            except HoldfastError as silence:
                logger.info("%s: %s", server.process_id, silence)
            if server.holders:
                return False
            logger.info("ending %s: nobody needs it", server.process_id)
            await (await self._hosts.host()).terminate(server.process_id, grace=_GRACE)
            server.process_id = None
            return True

    async def _running(self) -> dict[str, str]:
        """The process ids of the living servers, by key."""
        host = await self._hosts.host()
        return {
            key: status.process_id
            for status in await host.list()
            if status.state is ProcessState.RUNNING and (key := _key(status.process_id))
        }


async def _exit(host: Host, process_id: str) -> None:
    async for record in host.records(process_id):
        if getattr(record, "kind", None) is Kind.EXITED:
            return


def _key(process_id: str) -> str | None:
    if not process_id.startswith(PREFIX):
        return None
    return process_id.removeprefix(PREFIX).rpartition("-")[0] or None


def _number(process_id: str) -> int:
    number = process_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
