"""Short questions to a running server that need no turn; blocking, bounded, typed."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from holdfast import __version__
from holdfast.drivers.app_server.connection import Dropped, WebSocketConnection
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.history import is_active, loaded, thread
from holdfast.drivers.app_server.payload import member, text, whole
from holdfast.drivers.app_server.transcripts import Import, NotImported
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
        return any(is_active(thread(conversation, thread_id) or {}) for thread_id in loaded(conversation))


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays, as far as Codex knows without asking anybody."""

    #: ``apiKey``, ``chatgpt``, ``amazonBedrock``, ...; ``None`` when nobody is logged in.
    kind: str | None
    email: str | None = None
    plan: str | None = None
    #: The configured model provider wants a login with OpenAI.
    requires_openai_auth: bool


class LimitWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One of the windows in which use is limited."""

    used_percent: int
    minutes: int | None = None
    #: UTC seconds since the epoch.
    resets_at: int | None = None


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the account's allowance is used."""

    primary: LimitWindow | None = None
    secondary: LimitWindow | None = None
    plan: str | None = None


def read_account(socket: str, within: float = WITHIN) -> Account:
    """Who is logged in.

    :raises ServerUnreachable, CallRefused:
    """
    answer = call(socket, "account/read", {"refreshToken": False}, within)
    account = member(answer, "account")
    return Account(
        kind=text(account, "type"),
        email=text(account, "email"),
        plan=text(account, "planType"),
        requires_openai_auth=answer.get("requiresOpenaiAuth") is True,
    )


def read_rate_limits(socket: str, within: float = 30.0) -> RateLimits:
    """How much is used; asks OpenAI.

    :raises ServerUnreachable, CallRefused: refused when nobody is logged in with OpenAI
    """
    limits = member(call(socket, "account/rateLimits/read", {}, within), "rateLimits")
    return RateLimits(
        primary=_window(member(limits, "primary")),
        secondary=_window(member(limits, "secondary")),
        plan=text(limits, "planType"),
    )


def import_transcript(
    socket: str, transcript: Path, *, cwd: str, title: str | None = None, within: float = 120.0
) -> str:
    """Make a Codex thread of a Claude Code transcript; the thread's id.

    :raises ServerUnreachable, CallRefused:
    :raises OSError: the transcript cannot be read
    """
    wanted = Import(transcript, cwd=cwd, title=title)
    try:
        with conversing(socket, within, wanted.hear) as conversation:
            return wanted.run(conversation, within=within)
    except NotImported as reason:
        raise CallRefused(
            f"Codex did not record an imported thread: {str(reason) or 'it gave no reason'}",
            hint="Check that the file is a transcript of Claude Code with at least one message.",
        ) from None


def call(socket: str, method: str, params: Json, within: float = WITHIN) -> Json:
    """Ask one question.

    :raises ServerUnreachable, CallRefused:
    """
    with conversing(socket, within) as conversation:
        return conversation.request(method, params, within=within)


def _window(window: Json) -> LimitWindow | None:
    if not window:
        return None
    return LimitWindow(
        used_percent=whole(window, "usedPercent"),
        minutes=whole(window, "windowDurationMins") or None,
        resets_at=whole(window, "resetsAt") or None,
    )
