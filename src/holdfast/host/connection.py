"""The connection of a client to a Holdfast host, established again whenever it is lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from holdfast.clock import monotonic
from holdfast.host.address import SOCKET_NAME, RefusedAddress, tcp_address
from holdfast.host.port import Gap, HostUnavailable, InvalidUrl, Kind, Record
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.lines import connect_unix
from holdfast.jsonrpc.messages import RpcError
from holdfast.jsonrpc.peer import ConnectionClosed, Peer

#: Seconds for which a host that does not answer is tried again before a call gives up.
RECONNECT_FOR: Final = 20.0
#: Seconds between tries: the first, and the most.
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
#: Seconds for a host to say who it is: one that is stopped, or hangs, takes connections all the same.
_ANSWERS_WITHIN: Final = 10.0

T = TypeVar("T")


class _Extension(msgspec.Struct, rename="camel"):
    version: int
    instance_id: str
    state_directory: str


class _Initialized(msgspec.Struct, rename="camel"):
    session_id: str
    holdfast: _Extension | None = None


class WireRecord(msgspec.Struct, rename="camel"):
    """A record, or (``kind`` is ``gap``) a range of them that is gone."""

    kind: str
    seq: int = 0
    time: float = 0.0
    chunk: bytes = b""
    exit_code: int | None = None
    signal: int | None = None
    first: int = 0
    last: int = 0

    def public(self) -> Record | Gap:
        """The same as the port has it."""
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


class Records(msgspec.Struct, rename="camel"):
    """What one ``process/records`` notification carries."""

    subscription_id: int
    records: list[WireRecord]
    done: bool = False


_records_decoder = msgspec.json.Decoder(Records)


class Link:
    """One established connection and the subscriptions on it."""

    def __init__(self) -> None:
        self.peer = Peer(self._notified, self._lost)
        #: Where the records of each subscription go; None says that the connection is gone.
        self.readers: dict[int, asyncio.Queue[Records | None]] = {}

    def _notified(self, method: str, params: msgspec.Raw) -> None:
        if method == "process/records":
            records = _records_decoder.decode(params)
            reader = self.readers.get(records.subscription_id)
            if reader is not None:
                reader.put_nowait(records)

    def _lost(self) -> None:
        for reader in self.readers.values():
            reader.put_nowait(None)


def _is_of_this_machine(url: str) -> bool:
    """Whether a host could be told to listen at *url*, and would be there for this machine alone."""
    try:
        tcp_address(url, authenticated=False)
    except RefusedAddress:
        return False
    return True


class HostConnection:
    """The way to the host at *url*, a ``unix://`` or ``ws://`` URL."""

    def __init__(self, url: str, *, token: str | None, reconnect_for: float) -> None:
        self.url = url
        #: Seconds for which a lost connection is tried to be replaced.
        self.reconnect_for = reconnect_for
        self._token = token
        self._connecting: asyncio.Task[Link] | None = None
        self._closed = False
        #: The connection there is, or the one that was lost last.
        self.current: Link | None = None
        #: How many connections were established so far; each after the first replaced a lost one.
        self.established = 0
        #: Changes when the host was started anew.
        self.instance_id: str = ""
        #: The host's state directory, as it names it.
        self.state_directory: str = ""

    async def link(self, deadline: float) -> Link:
        """The connection there is, or a new one that is tried for until *deadline* (monotonic).

        :raises HostUnavailable: nobody there, or not a Holdfast host, or this connection is closed
        :raises InvalidUrl: there can be none
        """
        pause = 0.0
        while self.current is None or self.current.peer.closed:
            if self._closed:
                raise _closed()
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._try(pause))
                self._connecting.add_done_callback(self._forget_connecting)
            connecting = self._connecting
            # Its cancellation is not that of whoever waits for it, nor the other way round.
            await asyncio.wait({connecting})
            if connecting.cancelled():
                raise _closed()
            try:
                return connecting.result()
            except PermissionError as error:
                # Asking again would not help.
                raise self._not_admitted(error) from error
            except (OSError, ConnectionClosed) as error:
                pause = min(max(_FIRST_PAUSE, pause * 2), _LONGEST_PAUSE)
                if monotonic() + pause > deadline:
                    raise HostUnavailable(
                        f"No host answers at {self.url}: {_reason(error)}.", hint=self._way_to_one(error)
                    ) from error
        return self.current

    def _forget_connecting(self, task: asyncio.Task[Link]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _try(self, pause: float) -> Link:
        """One try after *pause* seconds, for everybody who waits: each of them decides on the next by its deadline."""
        await asyncio.sleep(pause)
        link = await self.open()
        self.current = link
        self.established += 1
        return link

    def _way_to_one(self, error: OSError | ConnectionClosed) -> str:
        if isinstance(error, TimeoutError):
            return "See what holds it up; one that hangs has to be ended before another one can be started there."
        nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError) and error.errno is not None
        if nobody and self.url.startswith("unix://"):
            path = Path(self.url.removeprefix("unix://"))
            place = f"unix:// --state-dir {path.parent}" if path.name == SOCKET_NAME else self.url
            return f"Start one with: holdfast exec-server --listen {place}"
        if nobody and _is_of_this_machine(self.url):
            return f"Start one with: holdfast exec-server --listen {self.url}"
        return "See that one runs there, and give the URL that it printed when it started."

    def _not_admitted(self, error: PermissionError) -> HostUnavailable:
        if error.errno is not None:
            # The operating system said it, and nobody else was asked.
            return HostUnavailable(
                f"You may not connect to {self.url}: {error.strerror}.", hint="Use a host of your own."
            )
        wrong = "asks for a token" if self._token is None else "does not accept this token"
        return HostUnavailable(f"The host at {self.url} {wrong}.", hint="Give its token: --token-file FILE")

    async def open(self) -> Link:
        """Make a connection, and introduce ourselves.

        :raises OSError: nobody answers there
        :raises HostUnavailable: there is no use in trying again
        :raises InvalidUrl: the same
        """
        link = Link()
        try:
            await self._introduce(link)
        except BaseException:
            link.peer.close()
            raise
        return link

    async def _introduce(self, link: Link) -> None:
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                await self._connect(link.peer.accept)
                result = await link.peer.call("initialize", {"clientName": "holdfast"})
        except TimeoutError:
            raise TimeoutError("it takes connections, but does not answer") from None
        except RpcError as error:
            raise HostUnavailable(
                f"The host at {self.url} refused: {error.message}.",
                hint="Give the URL of one, as 'holdfast exec-server' prints it.",
            ) from error
        try:
            told = msgspec.json.decode(result, type=_Initialized).holdfast
        except msgspec.DecodeError:
            # Whoever it is speaks something else.
            told = None
        if told is None:
            raise HostUnavailable(
                f"The exec-server at {self.url} is not a Holdfast host.",
                hint="Give the URL of one, as 'holdfast exec-server' prints it.",
            )
        self.instance_id = told.instance_id
        self.state_directory = told.state_directory
        link.peer.notify("initialized", {})

    async def _connect(self, accept: Callable[[Connection], Peer]) -> None:
        if self.url.startswith("unix://"):
            path = self.url.removeprefix("unix://")
            if not path:
                raise self._no_url()
            await connect_unix(Path(path), accept)
        elif self.url.startswith(("ws://", "wss://")):
            from holdfast.jsonrpc.websocket import connect_websocket

            try:
                await connect_websocket(self.url, accept, token=self._token)
            except ValueError:
                raise self._no_url() from None
        else:
            raise self._no_url()

    def _no_url(self) -> InvalidUrl:
        return InvalidUrl(f"{self.url!r} is not the URL of a host.", hint="Use unix://PATH or ws://HOST:PORT.")

    async def persistently(self, action: Callable[[Link], Awaitable[T]]) -> T:
        """Carry out *action*, again on a new connection if one is lost; it must bear repetition.

        :raises HostUnavailable: no connection could be had in time, or this one is closed
        """
        deadline = monotonic() + self.reconnect_for
        while True:
            link = await self.link(deadline)
            try:
                return await action(link)
            except ConnectionClosed:
                if not self._closed and monotonic() > deadline:
                    raise HostUnavailable(
                        f"The connection to the host at {self.url} was lost.",
                        hint="See that it still runs, then try again.",
                    ) from None

    def close(self) -> None:
        """Let go of the connection, and establish none any more."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self.current is not None:
            self.current.peer.close()
            self.current = None


def _reason(error: OSError | ConnectionClosed) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError) and error.errno is not None:
        # The event loop says it in words of its own, with the number.
        return os.strerror(error.errno)
    return str(error) or "connection closed"


def _closed() -> HostUnavailable:
    return HostUnavailable("This client was closed.", hint="Connect again.")
