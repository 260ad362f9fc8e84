"""Short questions to a running server that need no turn; blocking, bounded, typed."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast import __version__
from holdfast.drivers.app_server.connection import Dropped, WebSocketConnection
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.history import is_active
from holdfast.drivers.app_server.payload import member, texts
from holdfast.errors import HoldfastError, Unavailable

if TYPE_CHECKING:
    from holdfast.drivers.app_server.conversation import Listener
    from holdfast.drivers.app_server.payload import Json

#: For an answer, seconds.
WITHIN = 10.0


class ServerUnreachable(Unavailable):
    """The Codex server on a socket does not answer."""

    code = "codex_server_unreachable"


class CallRefused(HoldfastError):
    """The Codex server refused a call; the message is its own."""

    code = "codex_refused"


def _unheard(message: Json, raw: bytes) -> None:
    """Nothing that the server says by itself matters to a short question."""


@contextmanager
def conversing(socket: str, within: float = WITHIN, listener: Listener = _unheard) -> Generator[Conversation]:
    """A conversation with the server on *socket* that has to be over in *within* seconds.

    :raises ServerUnreachable: there is nobody, or no answer in time
    :raises CallRefused: the server refused what it was asked
    """
    deadline = time.monotonic() + within
    conversation: Conversation | None = None
    try:
        conversation = Conversation(WebSocketConnection(socket, deadline), listener)
        conversation.hurry = deadline
        conversation.open(__version__)
        yield conversation
    except Dropped as drop:
        raise ServerUnreachable(f"The Codex server does not answer: {drop}.", hint="Run: holdfast doctor") from None
    except RpcError as error:
        raise CallRefused(f"Codex refused {error.method}: {error.message}") from None
    finally:
        if conversation is not None:
            conversation.close()


def probe(socket: str, within: float = WITHIN) -> None:
    """Make sure that the server on *socket* answers, by a round trip through it.

    :raises ServerUnreachable: it does not
    """
    with conversing(socket, within) as conversation:
        conversation.request("thread/loaded/list", {})


def is_busy(socket: str, within: float = WITHIN) -> bool:
    """Whether a turn goes on in any thread of the server on *socket*.

    :raises ServerUnreachable: it does not answer
    """
    with conversing(socket, within) as conversation:
        loaded = texts(conversation.request("thread/loaded/list", {}), "data")
        return any(
            is_active(member(conversation.request("thread/read", {"threadId": thread_id}), "thread"))
            for thread_id in loaded
        )
