"""A ``codex exec-server`` as a host: the same port, as far as the protocol goes without Holdfast's extensions.

What is different there, and is not hidden: processes belong to a client session and die some 80 seconds after its
connection; output is kept in memory, up to 1 MiB for each process, and what is dropped before it was read becomes a
:class:`~holdfast.host.port.Gap`; standard input cannot be closed; only the process group is ended.

Notifications only wake the reader.  The records themselves are read by cursor, because notifications can be missed and
may come out of order (about one short process in a hundred, codex 0.169).
"""

from __future__ import annotations

import asyncio
import secrets
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from pybase64 import b64decode, b64encode

from holdfast.clock import monotonic
from holdfast.errors import HoldfastError
from holdfast.host.port import (
    Forgotten,
    Gap,
    Host,
    HostUnavailable,
    Kind,
    ProcessSpec,
    ProcessState,
    ProcessStatus,
    Record,
    StartRefused,
    StdinClosed,
    Termination,
    TreeMember,
    UnknownProcess,
)
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import INVALID_REQUEST, RpcError
from holdfast.jsonrpc.peer import ConnectionClosed, Peer
from holdfast.jsonrpc.websocket import connect_websocket

#: Its client gives a lost session up after this long (codex 0.169), and so do we, seconds.
RECONNECT_FOR: Final = 45.0
_RETRY_PAUSE: Final = 0.1
#: Bytes asked for with one read; it answers requests one after the other, so none should take long.
_READ_BYTES: Final = 1 << 20
_WRITE_CHUNK: Final = 1 << 18
#: The log is looked at all the same after this long without a notification: one may have been missed, seconds.
_LOOK_AGAIN: Final = 5.0

T = TypeVar("T")


class Unsupported(HoldfastError):
    """The protocol has no way to do this without Holdfast's extensions."""

    code = "unsupported_by_host"


class _Initialized(msgspec.Struct, rename="camel"):
    session_id: str


class _Chunk(msgspec.Struct):
    seq: int
    stream: str
    chunk: str


class _Read(msgspec.Struct, rename="camel"):
    chunks: list[_Chunk]
    next_seq: int
    exited: bool
    exit_code: int | None
    closed: bool


class _Event(msgspec.Struct, rename="camel"):
    process_id: str
    seq: int = 0


class _WriteResult(msgspec.Struct):
    status: str


class _Terminated(msgspec.Struct):
    running: bool


class ReferenceHost(Host):
    """A client of one ``codex exec-server``."""

    def __init__(self, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR) -> None:
        self.url = url
        self._token = token
        self._reconnect_for = reconnect_for
        self._session: str | None = None
        self._peer: Peer | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._started: set[str] = set()
        #: Sequence numbers of ``exited``, which reading does not tell.
        self._exit_seqs: dict[str, int] = {}
        self._news: dict[str, asyncio.Event] = {}

    @classmethod
    async def connect(
        cls, url: str, *, token: str | None = None, reconnect_for: float = RECONNECT_FOR
    ) -> ReferenceHost:
        """Connect to the exec-server at *url* (``ws://``) and open a session.

        :raises HostUnavailable: nobody there, or it refused
        """
        host = cls(url, token=token, reconnect_for=reconnect_for)
        await host._connected(monotonic())
        return host

    # Connection

    async def _connected(self, deadline: float) -> Peer:
        async with self._connecting:
            while self._peer is None or self._peer.closed:
                if self._closed:
                    raise HostUnavailable("This client was closed.", hint="Connect again.")
                try:
                    self._peer = await self._open()
                except (OSError, ConnectionClosed, RpcError) as error:
                    lost = isinstance(error, RpcError) and "unknown session" in error.message
                    if lost or monotonic() + _RETRY_PAUSE > deadline:
                        what = (
                            "has given up our session, and ended its processes" if lost else f"does not answer: {error}"
                        )
                        raise HostUnavailable(
                            f"The exec-server at {self.url} {what}.", hint="Start what is needed again."
                        ) from error
                    await asyncio.sleep(_RETRY_PAUSE)
            return self._peer

    async def _open(self) -> Peer:
        peer = Peer(self._notified, self._wake_all)
        await connect_websocket(self.url, peer.accept, token=self._token)
        params: dict[str, Any] = {"clientName": "holdfast"}
        if self._session is not None:
            params["resumeSessionId"] = self._session
        try:
            result = await peer.call("initialize", params)
        except BaseException:
            peer.close()
            raise
        self._session = msgspec.json.decode(result, type=_Initialized).session_id
        peer.notify("initialized", {})
        return peer

    def _notified(self, method: str, params: msgspec.Raw) -> None:
        if method in ("process/output", "process/exited", "process/closed"):
            event = msgspec.json.decode(params, type=_Event)
            if method == "process/exited":
                self._exit_seqs[event.process_id] = event.seq
            self._news_of(event.process_id).set()

    def _wake_all(self) -> None:
        for news in self._news.values():
            news.set()

    def _news_of(self, process_id: str) -> asyncio.Event:
        return self._news.setdefault(process_id, asyncio.Event())

    async def _persistently(self, action: Callable[[Peer], Awaitable[T]]) -> T:
        deadline = monotonic() + self._reconnect_for
        while True:
            peer = await self._connected(deadline)
            try:
                return await action(peer)
            except ConnectionClosed:
                if self._closed:
                    raise HostUnavailable("This client was closed.") from None

    async def _call(self, method: str, params: dict[str, Any], result: type[T]) -> T:
        try:
            raw = await self._persistently(lambda peer: peer.call(method, params))
        except RpcError as error:
            if error.rpc_code == INVALID_REQUEST and error.message.startswith("unknown process id"):
                raise UnknownProcess(f"The host has no process {params['processId']!r}.") from None
            raise
        return msgspec.json.decode(raw, type=result)

    # The port

    async def start(self, spec: ProcessSpec) -> ProcessStatus:
        if spec.stdin_file is not None:
            raise StartRefused(
                "A codex exec-server cannot give a process a file as its standard input.",
                hint="Use a Holdfast host (holdfast exec-server), or write the input with write().",
            )
        if spec.process_id not in self._started:
            params: dict[str, Any] = {
                "processId": spec.process_id,
                "argv": spec.argv,
                "cwd": path_to_uri(str(spec.cwd)),
                "env": spec.env,
                "tty": spec.tty,
                "pipeStdin": spec.pipe_stdin,
            }
            await self._start(spec, params)
        status = await self.status(spec.process_id)
        return status or ProcessStatus(process_id=spec.process_id, state=ProcessState.RUNNING)

    async def _start(self, spec: ProcessSpec, params: dict[str, Any]) -> None:
        asked = False

        async def ask(peer: Peer) -> None:
            nonlocal asked
            again, asked = asked, True
            try:
                await peer.call("process/start", params)
            except RpcError as error:
                # Asked again after a lost connection: then it is ours that is there already.
                if not (again and error.message.endswith("already exists")):
                    raise

        try:
            await self._persistently(ask)
        except RpcError as error:
            raise StartRefused(
                f"The host did not start {spec.argv[:1]} in {spec.cwd}: {error.message}.",
                hint="Check that the program and the directory exist on the host.",
            ) from None
        self._started.add(spec.process_id)

    async def _read(self, process_id: str, after: int) -> _Read:
        params = {"processId": process_id, "afterSeq": after, "maxBytes": _READ_BYTES, "waitMs": 0}
        return await self._call("process/read", params, _Read)

    async def status(self, process_id: str) -> ProcessStatus | None:
        try:
            # Beyond every end: the reply has no chunks.
            seen = await self._read(process_id, 1 << 62)
        except UnknownProcess:
            return None
        state = ProcessState.CLOSED if seen.closed else ProcessState.EXITED if seen.exited else ProcessState.RUNNING
        return ProcessStatus(
            process_id=process_id,
            state=state,
            last_seq=seen.next_seq - 1,
            exit_code=seen.exit_code,
            signal=_signal(seen.exit_code),
        )

    async def list(self) -> list[ProcessStatus]:
        """The processes that this client started and the host still keeps (it lists none by itself)."""
        found = [await self.status(process_id) for process_id in sorted(self._started)]
        return [status for status in found if status is not None]

    async def records(self, process_id: str, *, after_seq: int = 0, follow: bool = True) -> AsyncIterator[Record | Gap]:
        position = after_seq
        # Without the notification (it came before us) only an end that is still ahead can be told.
        exit_told = self._exit_seqs.get(process_id, 1 << 62) <= after_seq
        while True:
            news = self._news_of(process_id)
            news.clear()
            seen = await self._read(process_id, position)
            for item in self._sequence(process_id, seen, position, exit_told):
                position = item.last if isinstance(item, Gap) else item.seq
                exit_told = exit_told or (isinstance(item, Record) and item.kind is Kind.EXITED)
                yield item
            if seen.chunks:
                # There may be more: the reply may have been cut, and does not tell.
                continue
            if seen.closed or not follow:
                return
            try:
                await asyncio.wait_for(news.wait(), _LOOK_AGAIN)
            except TimeoutError:
                pass

    def _sequence(self, process_id: str, seen: _Read, position: int, exit_told: bool) -> list[Record | Gap]:
        """The records that *seen* stands for: chunks as read, ``exited`` and ``closed`` where numbers are missing."""
        items: list[Record | Gap] = []
        known_exit = self._exit_seqs.get(process_id)

        def account(begin: int, end: int) -> None:
            """Say what the numbers from *begin* to *end*, which no chunk has, stand for: the exit, or what is gone."""
            nonlocal exit_told
            if begin > end:
                return
            exit_seq = end if known_exit is None else known_exit
            if not seen.exited or exit_told or not begin <= exit_seq <= end:
                items.append(Gap(first=begin, last=end))
                return
            exit_told = True
            account(begin, exit_seq - 1)
            items.append(
                Record(seq=exit_seq, kind=Kind.EXITED, exit_code=seen.exit_code, signal=_signal(seen.exit_code))
            )
            account(exit_seq + 1, end)

        for chunk in seen.chunks:
            account(position + 1, chunk.seq - 1)
            items.append(Record(seq=chunk.seq, kind=Kind(chunk.stream), data=b64decode(chunk.chunk)))
            position = chunk.seq
        if not seen.chunks:
            last = seen.next_seq - 1
            account(position + 1, last - 1 if seen.closed else last)
            if seen.closed and last > position:
                items.append(Record(seq=last, kind=Kind.CLOSED))
        return items

    async def write(self, process_id: str, data: bytes) -> None:
        for begin in range(0, len(data), _WRITE_CHUNK):
            chunk = b64encode(data[begin : begin + _WRITE_CHUNK]).decode()
            # The id makes a repetition after a lost connection harmless: it remembers the last 4096 of them.
            params = {"processId": process_id, "chunk": chunk, "writeId": secrets.token_hex(16)}
            status = (await self._call("process/write", params, _WriteResult)).status
            if status == "unknownProcess":
                raise UnknownProcess(f"The host has no process {process_id!r}.")
            if status != "accepted":
                raise StdinClosed(f"Process {process_id!r} takes no input (any more).")

    async def close_stdin(self, process_id: str) -> None:
        raise Unsupported(
            "A codex exec-server cannot close the standard input of a process.",
            hint="End it with terminate(), or use a Holdfast host.",
        )

    async def resize(self, process_id: str, *, columns: int, rows: int) -> None:
        raise Unsupported(
            "A codex exec-server cannot change the size of a terminal; it is 24 rows of 80.",
            hint="Use a Holdfast host.",
        )

    async def signal(self, process_id: str, signal_number: int) -> None:
        if signal_number != signals.SIGINT:
            raise Unsupported(
                f"A codex exec-server can send SIGINT only, not signal {signal_number}.",
                hint="End the process with terminate(), or use a Holdfast host.",
            )
        await self._call("process/signal", {"processId": process_id, "signal": "interrupt"}, dict[str, Any])

    def signal_drop(self, process_id: str) -> Path:
        raise Unsupported("A codex exec-server has no signal drop.", hint="Use a Holdfast host.")

    async def terminate(self, process_id: str, *, grace: float = 0.0) -> Termination:
        """End the process group at once; there is no grace, and descendants that left the group are not seen."""
        return Termination(
            was_running=(await self._call("process/terminate", {"processId": process_id}, _Terminated)).running
        )

    async def members(self, process_id: str) -> list[TreeMember]:
        raise Unsupported("A codex exec-server does not tell what belongs to a process.", hint="Use a Holdfast host.")

    async def forget(self, process_id: str, *, dry_run: bool = False) -> Forgotten:
        raise Unsupported(
            "A codex exec-server cannot be told to forget a process; it does so by itself after 80 seconds.",
            hint="Use a Holdfast host.",
        )

    async def aclose(self) -> None:
        self._closed = True
        if self._peer is not None:
            self._peer.close()


def _signal(exit_code: int | None) -> int | None:
    return exit_code - 128 if exit_code is not None and exit_code > 128 else None
