"""A host reached over the exec-server protocol, with Holdfast's extensions.

A lost connection is re-established in the background and everything goes on: logs at their cursors, starts and writes
by the ids that make a repetition harmless.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from pybase64 import b64encode

from holdfast.clock import monotonic
from holdfast.host.drop import drop_path
from holdfast.host.overview import Overview, Stopping
from holdfast.host.port import (
    Forgotten,
    Gap,
    Host,
    HostUnavailable,
    Kind,
    NotClosed,
    NoTerminal,
    ProcessSpec,
    ProcessState,
    ProcessStatus,
    Record,
    StartRefused,
    StdinClosed,
    Termination,
    TreeMember,
    UnknownProcess,
    WriteUncertain,
)
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.lines import connect_unix
from holdfast.jsonrpc.messages import INVALID_REQUEST, METHOD_NOT_FOUND, RpcError
from holdfast.jsonrpc.peer import ConnectionClosed, Peer

#: Seconds for which a host that does not answer is tried again before a call gives up.
RECONNECT_FOR: Final = 20.0
#: Seconds between tries: the first, and the most.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
#: Seconds that a host which said that it ends is waited for.
STOP_WITHIN: Final = 5.0
#: Bytes of records that may be under way to one reader.
WINDOW: Final = 1024 * 1024
#: Bytes written with one request.
_WRITE_CHUNK: Final = 1024 * 1024

T = TypeVar("T")


class _Status(msgspec.Struct, rename="camel"):
    process_id: str
    state: ProcessState
    pid: int | None
    last_seq: int
    exit_code: int | None
    signal: int | None
    stalled: str | None = None

    def public(self) -> ProcessStatus:
        return ProcessStatus(
            process_id=self.process_id,
            state=self.state,
            pid=self.pid,
            last_seq=self.last_seq,
            exit_code=self.exit_code,
            signal=self.signal,
            stalled=self.stalled,
        )


class _WithStatus(msgspec.Struct):
    status: _Status | None


class _ProcessList(msgspec.Struct):
    processes: list[_Status]


class _WriteResult(msgspec.Struct):
    status: str


class _Termination(msgspec.Struct):
    running: bool
    ended: list[TreeMember] = []
    survivors: list[TreeMember] = []


class _Members(msgspec.Struct):
    members: list[TreeMember]


class _Extension(msgspec.Struct, rename="camel"):
    version: int
    instance_id: str
    state_directory: str


class _Initialized(msgspec.Struct, rename="camel"):
    session_id: str
    holdfast: _Extension | None = None


class _WireRecord(msgspec.Struct, rename="camel"):
    kind: str
    seq: int = 0
    time: float = 0.0
    chunk: bytes = b""
    exit_code: int | None = None
    signal: int | None = None
    first: int = 0
    last: int = 0

    def public(self) -> Record | Gap:
        if self.kind == "gap":
            return Gap(first=self.first, last=self.last)
        return Record(
            seq=self.seq,
            kind=Kind(self.kind),
            time=self.time,
            data=self.chunk,
            exit_code=self.exit_code,
            signal=self.signal,
        )


class _Records(msgspec.Struct, rename="camel"):
    subscription_id: int
    records: list[_WireRecord]
    done: bool = False


_records_decoder = msgspec.json.Decoder(_Records)


class _Link:
    """One established connection and the subscriptions on it."""

    def __init__(self) -> None:
        self.peer = Peer(self._notified, self._lost)
        #: Where the records of each subscription go; None says that the connection is gone.
        self.readers: dict[int, asyncio.Queue[_Records | None]] = {}

    def _notified(self, method: str, params: msgspec.Raw) -> None:
        if method == "process/records":
            records = _records_decoder.decode(params)
            reader = self.readers.get(records.subscription_id)
            if reader is not None:
                reader.put_nowait(records)

    def _lost(self) -> None:
        for reader in self.readers.values():
            reader.put_nowait(None)


class HostClient(Host):
    """A :class:`~holdfast.host.port.Host` behind a ``unix://`` or ``ws://`` URL."""

    def __init__(self, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR) -> None:
        self.url = url
        self._token = token
        self._reconnect_for = reconnect_for
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._closed = False
        self._next_subscription = 0
        self._write_locks: dict[str, asyncio.Lock] = {}
        #: How many connections were established so far; each after the first replaced a lost one.
        self.established = 0
        #: Changes when the host was started anew.
        self.instance_id: str = ""
        #: The host's state directory, as it names it.
        self.state_directory: str = ""

    @classmethod
    async def connect(
        cls, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR, wait: float = 0.0
    ) -> HostClient:
        """Connect to the host at *url*, trying for *wait* seconds.

        :raises HostUnavailable: nobody there, or not a Holdfast host
        """
        client = cls(url, token=token, reconnect_for=reconnect_for)
        await client._connected(monotonic() + wait)
        return client

    # Connection

    async def _connected(self, deadline: float) -> _Link:
        link = self._link
        if link is not None and not link.peer.closed:
            return link
        if self._closed:
            raise HostUnavailable("This client was closed.", hint="Connect again.")
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._establish(deadline))
            self._connecting.add_done_callback(self._forget_connecting)
        return await asyncio.shield(self._connecting)

    def _forget_connecting(self, task: asyncio.Task[_Link]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _establish(self, deadline: float) -> _Link:
        pause = _FIRST_PAUSE
        while True:
            try:
                link = await self._open()
            except (OSError, ConnectionClosed) as error:
                if monotonic() + pause > deadline:
                    raise HostUnavailable(
                        f"No host answers at {self.url}: {error or 'connection closed'}.",
                        hint="Start one with: holdfast exec-server",
                    ) from error
            else:
                self._link = link
                self.established += 1
                return link
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _open(self) -> _Link:
        link = _Link()
        accept: Callable[[Connection], Peer] = link.peer.accept
        if self.url.startswith("unix://"):
            await connect_unix(Path(self.url.removeprefix("unix://")), accept)
        elif self.url.startswith(("ws://", "wss://")):
            from holdfast.jsonrpc.websocket import connect_websocket

            await connect_websocket(self.url, accept, token=self._token)
        else:
            raise HostUnavailable(f"{self.url} is not the URL of a host.", hint="Use unix://PATH or ws://HOST:PORT.")
        try:
            result = await link.peer.call("initialize", {"clientName": "holdfast"})
        except RpcError as error:
            link.peer.close()
            raise HostUnavailable(f"The host at {self.url} refused: {error.message}") from error
        told = msgspec.json.decode(result, type=_Initialized).holdfast
        if told is None:
            link.peer.close()
            raise HostUnavailable(
                f"The exec-server at {self.url} is not a Holdfast host.", hint="Start one with: holdfast exec-server"
            )
        self.instance_id = told.instance_id
        self.state_directory = told.state_directory
        link.peer.notify("initialized", {})
        return link

    async def _persistently(self, action: Callable[[_Link], Awaitable[T]]) -> T:
        """Carry out *action*, again on a new connection if one is lost; it must bear repetition."""
        deadline = monotonic() + self._reconnect_for
        while True:
            link = await self._connected(deadline)
            try:
                return await action(link)
            except ConnectionClosed:
                if self._closed or monotonic() > deadline:
                    raise HostUnavailable(f"The connection to the host at {self.url} was lost.") from None

    async def _call(self, method: str, params: dict[str, Any] | None, result: type[T]) -> T:
        try:
            raw = await self._persistently(lambda link: link.peer.call(method, params))
        except RpcError as error:
            raise _typed(error, params) from None
        return msgspec.json.decode(raw, type=result)

    # The port

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        extension: dict[str, Any] = {"persistent": True}
        if spec.stdin_file is not None:
            extension["stdinFile"] = str(spec.stdin_file)
        if spec.signal_drop:
            extension["signalDrop"] = True
        params: dict[str, Any] = {
            "processId": spec.process_id,
            "argv": spec.argv,
            "cwd": path_to_uri(str(spec.cwd)),
            "env": spec.env,
            "tty": spec.tty,
            "pipeStdin": spec.pipe_stdin,
            "holdfast": extension,
        }
        try:
            raw = await self._persistently(lambda link: link.peer.call("process/start", params))
        except RpcError as error:
            raise StartRefused(
                f"The host did not start {spec.argv[0] if spec.argv else 'an empty command'!r} in {spec.cwd}: "
                f"{error.message}.",
                hint="Check that the program and the directory exist on the host.",
            ) from None
        status = msgspec.json.decode(raw, type=_WithStatus).status
        assert status is not None
        return status.public()

    def signal_drop(self, process_id: str) -> Path:
        return drop_path(Path(self.state_directory), process_id)

    async def status(self, process_id: str) -> ProcessStatus | None:
        found = await self._call("process/status", {"processId": process_id}, _WithStatus)
        return None if found.status is None else found.status.public()

    async def list(self) -> list[ProcessStatus]:
        found = await self._call("process/list", None, _ProcessList)
        return [status.public() for status in found.processes]

    async def records(self, process_id: str, *, after_seq: int = 0, follow: bool = True) -> AsyncIterator[Record | Gap]:
        position = after_seq
        deadline = monotonic() + self._reconnect_for
        while True:
            link = await self._connected(deadline)
            self._next_subscription += 1
            identity = self._next_subscription
            queue: asyncio.Queue[_Records | None] = asyncio.Queue()
            link.readers[identity] = queue
            params = {
                "processId": process_id,
                "subscriptionId": identity,
                "afterSeq": position,
                "follow": follow,
                "window": WINDOW,
            }
            try:
                try:
                    await link.peer.call("process/subscribe", params)
                except RpcError as error:
                    raise _typed(error, params) from None
                while (batch := await queue.get()) is not None:
                    deadline = monotonic() + self._reconnect_for
                    size = 0
                    for wire in batch.records:
                        record = wire.public()
                        position = record.last if isinstance(record, Gap) else record.seq
                        size += len(wire.chunk)
                        yield record
                    if batch.done:
                        return
                    link.peer.notify("process/acknowledge", {"subscriptionId": identity, "bytes": size})
            except ConnectionClosed:
                pass
            finally:
                del link.readers[identity]
                if not link.peer.closed:
                    link.peer.discard("process/unsubscribe", {"subscriptionId": identity})
            deadline = monotonic() + self._reconnect_for

    async def write(self, process_id: str, data: bytes) -> None:
        async with self._write_lock(process_id):
            for start in range(0, len(data), _WRITE_CHUNK):
                params = {
                    "processId": process_id,
                    "chunk": b64encode(data[start : start + _WRITE_CHUNK]).decode(),
                    "writeId": secrets.token_hex(16),
                    "untilWritten": True,
                }
                try:
                    outcome = (await self._call("process/write", params, _WriteResult)).status
                except RpcError as error:
                    raise WriteUncertain(
                        f"Writing to process {process_id!r} failed: {error.message}.",
                        hint="Ask the process what it got before you repeat it.",
                    ) from None
                if outcome == "unknownProcess":
                    raise UnknownProcess(f"The host has no process {process_id!r}.")
                if outcome != "accepted":
                    raise StdinClosed(f"Process {process_id!r} takes no input (any more).")

    def _write_lock(self, process_id: str) -> asyncio.Lock:
        # Writes of several tasks must not be interleaved chunk by chunk.
        lock = self._write_locks.get(process_id)
        if lock is None:
            lock = self._write_locks[process_id] = asyncio.Lock()
        return lock

    async def close_stdin(self, process_id: str) -> None:
        await self._call("process/closeStdin", {"processId": process_id}, dict)

    async def resize(self, process_id: str, *, columns: int, rows: int) -> None:
        await self._call("process/resize", {"processId": process_id, "columns": columns, "rows": rows}, dict)

    async def signal(self, process_id: str, signal_number: int) -> None:
        params = {"processId": process_id, "signal": signal_number, "signalId": secrets.token_hex(16)}
        await self._call("process/signal", params, dict)

    async def terminate(self, process_id: str, *, grace: float = 0.0) -> Termination:
        params = {"processId": process_id, "tree": True, "graceMs": max(0, round(grace * 1000))}
        outcome = await self._call("process/terminate", params, _Termination)
        return Termination(was_running=outcome.running, ended=outcome.ended, survivors=outcome.survivors)

    async def members(self, process_id: str) -> list[TreeMember]:
        return (await self._call("process/members", {"processId": process_id}, _Members)).members

    async def forget(self, process_id: str, *, dry_run: bool = False) -> Forgotten:
        outcome = await self._call("process/forget", {"processId": process_id, "dryRun": dry_run}, Forgotten)
        if not dry_run:
            self._write_locks.pop(process_id, None)
        return outcome

    async def overview(self) -> Overview:
        """How the host itself is.

        :raises HostUnavailable: no answer
        """
        return await self._call("host/status", None, Overview)

    async def stop_if_idle(self, *, wait: float = STOP_WITHIN) -> bool:
        """End the host if nothing lives in it and nobody else is connected; whether it does.

        Returns when a host of this machine has ended, *wait* seconds later at most.  This client is of no use then.

        :raises HostUnavailable: no answer
        """
        answer = await self._call("host/stop", {"ifIdle": True}, Stopping)
        if answer.stopping and self.url.startswith("unix://"):
            await asyncio.to_thread(_wait_for_end, answer.pid, wait)
        return answer.stopping

    async def aclose(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.peer.close()
            self._link = None


def _wait_for_end(pid: int, timeout: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # It has ended already, or this system cannot tell.
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(timeout * 1000)
    finally:
        os.close(handle)


def _typed(error: RpcError, params: dict[str, Any] | None) -> Exception:
    if error.rpc_code == INVALID_REQUEST and error.message.startswith("unknown process id"):
        return UnknownProcess(f"The host has no process {(params or {}).get('processId')!r}.")
    if error.rpc_code == INVALID_REQUEST and error.message.endswith("has no terminal"):
        return NoTerminal(f"{error.message.capitalize()}.", hint="Start it with tty=True.")
    if error.rpc_code == INVALID_REQUEST and error.message.endswith("is not closed"):
        return NotClosed(f"Process {(params or {}).get('processId')!r} is not closed.", hint="End it with terminate().")
    if error.rpc_code == METHOD_NOT_FOUND:
        return HostUnavailable(
            f"The host is too old for this client: {error.message}.", hint="Stop it; a new one starts by itself."
        )
    return error
