"""A host reached over the exec-server protocol, with Holdfast's extensions.

A lost connection is re-established in the background and everything goes on: logs at their cursors, starts and writes
by the ids that make a repetition harmless.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import select
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from pybase64 import b64encode

from holdfast.clock import monotonic
from holdfast.host.connection import RECONNECT_FOR, HostConnection, Records
from holdfast.host.drop import drop_path
from holdfast.host.overview import Overview, Stopping
from holdfast.host.port import (
    Forgotten,
    Gap,
    Host,
    HostUnavailable,
    NotClosed,
    NoTerminal,
    ProcessSpec,
    ProcessState,
    ProcessStatus,
    Record,
    SignalUncertain,
    StartRefused,
    StdinClosed,
    Termination,
    TreeMember,
    UnknownProcess,
    WriteUncertain,
)
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, STOPPING, RpcError
from holdfast.jsonrpc.peer import ConnectionClosed

#: Seconds that a host which said that it ends is waited for.
STOP_WITHIN: Final = 5.0
#: Bytes of records that may be under way to one reader.
WINDOW: Final = 1024 * 1024
#: Bytes written with one request.
_WRITE_CHUNK: Final = 1024 * 1024
#: What to do about a host of another version: a stop ends what it runs.
_ANOTHER_VERSION: Final = "Stop it when nothing runs there that you need; a new one starts by itself."

T = TypeVar("T")


class _Status(msgspec.Struct, rename="camel"):
    process_id: str
    state: ProcessState
    pid: int | None
    last_seq: int
    exit_code: int | None
    signal: int | None
    stalled: str | None = None
    command: str = ""
    age: float | None = None

    def public(self) -> ProcessStatus:
        return ProcessStatus(
            process_id=self.process_id,
            state=self.state,
            pid=self.pid,
            last_seq=self.last_seq,
            exit_code=self.exit_code,
            signal=self.signal,
            stalled=self.stalled,
            command=self.command,
            age=self.age,
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


class HostClient(Host):
    """A :class:`~holdfast.host.port.Host` behind a ``unix://`` or ``ws://`` URL."""

    def __init__(self, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR) -> None:
        self._connection = HostConnection(url, token=token, reconnect_for=reconnect_for)
        self._next_subscription = 0
        self._write_locks: dict[str, asyncio.Lock] = {}

    @property
    def url(self) -> str:
        """Where the host is."""
        return self._connection.url

    @property
    def established(self) -> int:
        """How many connections were established so far; each after the first replaced a lost one."""
        return self._connection.established

    @property
    def instance_id(self) -> str:
        """Changes when the host was started anew."""
        return self._connection.instance_id

    @property
    def state_directory(self) -> str:
        """The host's state directory, as it names it."""
        return self._connection.state_directory

    @classmethod
    async def connect(
        cls, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR, wait: float = 0.0
    ) -> HostClient:
        """Connect to the host at *url*, trying for *wait* seconds.

        :raises HostUnavailable: nobody there, or not a Holdfast host
        :raises InvalidUrl: *url* is none of a host
        """
        client = cls(url, token=token, reconnect_for=reconnect_for)
        await client._connection.link(monotonic() + wait)
        return client

    async def _call(self, method: str, params: dict[str, Any] | None, result: type[T]) -> T:
        try:
            raw = await self._connection.persistently(lambda link: link.peer.call(method, params))
        except RpcError as error:
            raise _typed(error, params) from None
        try:
            return msgspec.json.decode(raw, type=result)
        except msgspec.DecodeError as error:
            raise HostUnavailable(
                f"The host is of another version than this client; its answer to {method} is not understood: {error}.",
                hint=_ANOTHER_VERSION,
            ) from error

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
            raw = await self._connection.persistently(lambda link: link.peer.call("process/start", params))
        except RpcError as error:
            if error.rpc_code == STOPPING:
                raise HostUnavailable(
                    f"The host was told to end and did not start {spec.process_id!r}.", hint="Try again."
                ) from None
            given = "the program and the directory"
            if spec.stdin_file is not None:
                given = "the program, the directory and the file for standard input"
            raise StartRefused(
                f"The host did not start {spec.argv[0] if spec.argv else 'an empty command'!r} in {spec.cwd}: "
                f"{error.message}.",
                hint=f"Check that {given} exist on the host.",
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
        deadline = monotonic() + self._connection.reconnect_for
        while True:
            link = await self._connection.link(deadline)
            self._next_subscription += 1
            identity = self._next_subscription
            queue: asyncio.Queue[Records | None] = asyncio.Queue()
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
                    deadline = monotonic() + self._connection.reconnect_for
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
            deadline = monotonic() + self._connection.reconnect_for

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
                    raise _uncertain(process_id, error) from None
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
        params = {"processId": process_id, "writeId": secrets.token_hex(16)}
        try:
            await self._call("process/closeStdin", params, dict)
        except RpcError as error:
            raise _uncertain(process_id, error) from None

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
        self._connection.close()


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


def _uncertain(process_id: str, error: RpcError) -> WriteUncertain:
    return WriteUncertain(
        f"Writing to process {process_id!r} failed: {error.message}.",
        hint="Ask the process what it got before you repeat it.",
    )


def _typed(error: RpcError, params: dict[str, Any] | None) -> Exception:
    if error.rpc_code == INVALID_REQUEST and error.message.startswith("unknown process id"):
        return UnknownProcess(f"The host has no process {(params or {}).get('processId')!r}.")
    if error.rpc_code == INVALID_REQUEST and error.message.endswith("has no terminal"):
        return NoTerminal(f"{error.message.capitalize()}.", hint="Start it with tty=True.")
    if error.rpc_code == INVALID_REQUEST and error.message.endswith("is not closed"):
        process_id = (params or {}).get("processId")
        return NotClosed(f"Process {process_id!r} is not closed.", hint="End it with terminate().")
    if error.rpc_code == INTERNAL_ERROR and error.message.endswith("whether it arrived is not known"):
        process_id = (params or {}).get("processId")
        hint = "Look at what the process does before you repeat it."
        return SignalUncertain(f"Signalling process {process_id!r} failed: {error.message}.", hint=hint)
    if error.rpc_code == METHOD_NOT_FOUND:
        return HostUnavailable(f"The host is too old for this client: {error.message}.", hint=_ANOTHER_VERSION)
    return error
