"""A connection that carries whole messages, whatever it is made of.

Reading never waits for writing: :meth:`Connection.send` always takes the message, and the sender looks at
:attr:`Connection.writable` to know when to hold back what can be held back.
"""

from __future__ import annotations

import abc
from typing import Final, Protocol

#: Above this many unsent bytes a connection is not :attr:`Connection.writable`.  What goes above it at one go is
#: written at once, and not at the end of the event loop's round, when it has left the processor's cache ...
HIGH_WATER: Final = 128 * 1024
#: ... until no more than this many are left.
LOW_WATER: Final = 32 * 1024
#: A peer that lets this much pile up (replies to requests that it never reads) is dropped.
BACKLOG_LIMIT: Final = 256 * 1024 * 1024


class MessageHandler(Protocol):
    """What a connection calls, always from the event loop."""

    def message_received(self, message: bytes) -> None:
        """One whole message arrived."""

    def writing_resumed(self) -> None:
        """The connection is writable again."""

    def connection_lost(self) -> None:
        """The connection is gone; called once, and nothing is called afterwards."""


class Connection(abc.ABC):
    """One peer, message by message."""

    #: The other side as it appears in error texts: an address, ``stdio``, ``unix``.
    peer: str = ""
    #: Whether sending more now keeps the buffer within bounds.
    writable: bool = True
    #: How errors about unparsable input name the channel (the reference implementation's words).
    origin: str = ""

    @abc.abstractmethod
    def send(self, message: bytes) -> None:
        """Queue one message; a connection that is gone ignores it."""

    def send_all(self, messages: list[bytes]) -> None:
        """Queue several messages; one write where the transport can."""
        for message in messages:
            self.send(message)

    def send_pieces(self, messages: list[tuple[bytes, ...]]) -> None:
        """Queue several messages, each in pieces: large ones are not copied together where the transport can."""
        for pieces in messages:
            self.send(b"".join(pieces))

    @abc.abstractmethod
    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close after what was sent; *code* and *reason* are those of WebSocket where there is one."""

    @abc.abstractmethod
    def abort(self) -> None:
        """End it at once: what was sent may not arrive, or only a part of it."""
