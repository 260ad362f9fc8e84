"""Pushing records to a client: each client and process has a cursor of its own into the log.

Whoever is slow only falls behind: a cursor stops when the connection's buffer is above its high-water mark (or the
subscription's window is used up) and goes on from the file later.  Nothing is queued for anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from pybase64 import b64encode

from holdfast.host.log_format import CHUNK, STREAM_FILES, UNKNOWN_EXIT, Entry, EntryKind
from holdfast.host.process import HostedProcess
from holdfast.jsonrpc.connection import Connection
from holdfast.jsonrpc.messages import encode_json

_log = logging.getLogger(__name__)

#: Bytes of output sent for one process before the others of the same connection get their turn.
TURN: Final = 1024 * 1024
#: Bytes read, encoded and handed over at one go: who receives them is woken once and finds more when it is done.
_PORTION: Final = 1024 * 1024
#: Seconds until a log that could not be read is looked at again.
_AGAIN: Final = 0.5
#: Records looked up at once.
_BATCH: Final = 64

_STREAM: Final[dict[int, bytes]] = {
    EntryKind.STDOUT: b',"stream":"stdout","chunk":"',
    EntryKind.STDERR: b',"stream":"stderr","chunk":"',
    EntryKind.PTY: b',"stream":"pty","chunk":"',
}
_GAP: Final = b'{"kind":"gap","first":%d,"last":%d}'
_KIND: Final = {
    EntryKind.STDOUT: b'"stdout"',
    EntryKind.STDERR: b'"stderr"',
    EntryKind.PTY: b'"pty"',
    EntryKind.SIGNAL: b'"signal"',
    EntryKind.EXITED: b'"exited"',
    EntryKind.CLOSED: b'"closed"',
}

_T = TypeVar("_T")


class Receiver(Protocol):
    """The client connection that a cursor pushes to."""

    connection: Connection

    def wait_for_room(self, cursor: Cursor) -> None:
        """Pump *cursor* again when the connection is writable."""

    def push_ended(self, cursor: Cursor) -> None:
        """*cursor* sends nothing any more."""


class Cursor:
    """A place in a log, moving towards its end."""

    def __init__(self, receiver: Receiver, process: HostedProcess, after: int) -> None:
        self.receiver = receiver
        self.process = process
        self.position = after
        self._again: asyncio.TimerHandle | None = None
        process.observers.add(self)

    def pump(self) -> None:
        """Send what can be sent now; what cannot be read is sent later."""
        try:
            self._go_on()
        except (OSError, MemoryError) as error:
            # Descriptors or memory will be there again, and nobody else would come back to a process that says no more.
            if self._again is None:
                self._again = asyncio.get_running_loop().call_later(_AGAIN, self._pump_again)
                _log.warning("cannot read the log of %r at the moment: %r", self.process.process_id, error)

    def _pump_again(self) -> None:
        self._again = None
        self.pump()

    def _go_on(self) -> None:
        """Send what can be sent now.

        :raises OSError: it cannot be read; the position says what was sent
        :raises MemoryError: the same
        """
        raise NotImplementedError

    def _send(self, send: Callable[[_T], None], messages: _T) -> None:
        """Call *send*, for what the position is behind already."""
        try:
            send(messages)
        except MemoryError:
            # Some of it may be under way: who goes on must tell where, on another connection.
            self.receiver.connection.abort()

    def stop(self) -> None:
        """Send nothing any more."""
        self.process.observers.discard(self)
        if self._again is not None:
            self._again.cancel()
            self._again = None


class Notifications(Cursor):
    """``process/output``, ``process/exited`` and ``process/closed``, as the protocol has them."""

    def __init__(self, receiver: Receiver, process: HostedProcess, after: int) -> None:
        super().__init__(receiver, process, after)
        self._middle = b'","params":{"processId":' + encode_json(process.process_id) + b',"seq":'

    def _go_on(self) -> None:
        connection = self.receiver.connection
        log = self.process.log
        budget = TURN
        while self.position < log.last_seq:
            if budget <= 0 or not connection.writable:
                self.receiver.wait_for_room(self)
                return
            entries = log.entries(self.position, _BATCH)
            size = 0
            for number, entry in enumerate(entries, 1):
                size += entry.length
                if size >= _PORTION:
                    entries = entries[:number]
                    break
            if size:
                both = zip(entries, log.data_of(entries), strict=True)
                messages = [pieces for entry, chunk in both if (pieces := self._encode(entry, chunk))]
                self.position = entries[-1].seq
                self._send(connection.send_pieces, messages)
            else:
                ends = [message for entry in entries if (message := self._encode_end(entry))]
                self.position = entries[-1].seq
                if ends:
                    self._send(connection.send_all, ends)
            budget -= size
        if self.process.closed:
            self.stop()

    def stop(self) -> None:
        super().stop()
        self.receiver.push_ended(self)

    def _encode(self, entry: Entry, chunk: bytes | memoryview) -> tuple[bytes, ...]:
        stream = _STREAM.get(entry.kind)
        if stream is not None:
            return b'{"method":"process/output%s%d%s' % (self._middle, entry.seq, stream), b64encode(chunk), b'"}}'
        end = self._encode_end(entry)
        return (end,) if end else ()

    def _encode_end(self, entry: Entry) -> bytes:
        if entry.kind == EntryKind.EXITED:
            return b'{"method":"process/exited%s%d,"exitCode":%d,"sandboxDenied":%s}}' % (
                self._middle,
                entry.seq,
                entry.exit_code,
                b"true" if self.process.sandbox_denied else b"false",
            )
        if entry.kind == EntryKind.CLOSED:
            return b'{"method":"process/closed%s%d}}' % (self._middle, entry.seq)
        return b""


class Subscription(Cursor):
    """``process/records``: every kind of record with its time, many to a message, within the client's window."""

    def __init__(
        self, receiver: Receiver, process: HostedProcess, after: int, *, identity: int, window: int, follow: bool
    ) -> None:
        super().__init__(receiver, process, after)
        self._head = b'{"method":"process/records","params":{"subscriptionId":%d,"records":[' % identity
        self._credit = window
        self._until = None if follow else process.log.last_seq
        self.done = False

    def stop(self) -> None:
        super().stop()
        # It may be waiting for room on the connection.
        self.done = True

    def acknowledge(self, size: int) -> None:
        """The client has consumed *size* bytes more."""
        self._credit += size
        self.pump()

    def _go_on(self) -> None:
        connection = self.receiver.connection
        log = self.process.log
        while not self.done:
            end = log.last_seq if self._until is None else self._until
            if self.position >= end:
                if self._until is not None or self.process.closed:
                    self._finish()
                return
            if self._credit <= 0:
                return
            if not connection.writable:
                self.receiver.wait_for_room(self)
                return
            records: list[bytes] = []
            gap: tuple[int, int] | None = None
            size = 0
            position = self.position
            for entry in log.entries(position, min(_BATCH, end - position)):
                if size and size + entry.length > TURN:
                    break
                position = entry.seq
                if entry.kind == EntryKind.GONE:
                    gap = (gap[0] if gap else entry.seq, entry.seq)
                    continue
                if gap is not None:
                    records.append(_GAP % gap)
                    gap = None
                size += entry.length
                records.append(self._encode(entry))
            if gap is not None:
                records.append(_GAP % gap)
            last = position >= end and (self._until is not None or self.process.closed)
            message = self._head + b",".join(records) + (b'],"done":true}}' if last else b"]}}")
            self.position = position
            self._credit -= size
            self._send(connection.send, message)
            if last:
                self.stop()

    def _finish(self) -> None:
        message = self._head + b'],"done":true}}'
        self.stop()
        self._send(self.receiver.connection.send, message)

    def _encode(self, entry: Entry) -> bytes:
        kind = EntryKind(entry.kind)
        head = b'{"seq":%d,"kind":%s,"time":%.6f' % (entry.seq, _KIND[kind], entry.time_ns / 1e9)
        if kind in STREAM_FILES:
            return b'%s,"chunk":"%s"}' % (head, b64encode(self.process.log.data(entry)))
        if kind is EntryKind.EXITED:
            code = b"null" if entry.exit_code == UNKNOWN_EXIT else b"%d" % entry.exit_code
            number = b"%d" % entry.signal if entry.signal else b"null"
            return b'%s,"exitCode":%s,"signal":%s}' % (head, code, number)
        return head + b"}"


assert TURN >= CHUNK
