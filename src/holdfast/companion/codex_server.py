"""Questions to Codex that belong to no job: a Codex server of our own, on its pipes, for as long as the question takes.

A server that other programs have registered, or that died, can mislead nobody this way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import holdfast
from holdfast.companion.refusal import Refused
from holdfast.drivers.app_server.connection import Dropped, StdioConnection
from holdfast.drivers.app_server.conversation import Conversation, RpcError, Unanswered
from holdfast.drivers.app_server.transcripts import Import, NotImported

#: Seconds for an answer; a cold disk and a busy machine are no reason to call a login broken.
ANSWER_WITHIN: Final = 30.0
#: Seconds for Codex to read a whole transcript.
_IMPORT_WITHIN: Final = 300.0
_UNKNOWN_METHOD: Final = (-32601, -32600)

Json = dict[str, Any]


class CodexRefused(Refused):
    """Codex does not answer, or does not do what it was asked; the message is its own."""

    code = "codex_refused"


@contextmanager
def serving(command: list[str], environment: dict[str, str], heard: Callable[[Json], None]) -> Generator[Conversation]:
    """A conversation with a fresh ``codex app-server``; *heard* gets what it says of its own accord.

    :raises CodexRefused: it does not start, refuses, or goes away
    """

    def listen(message: Json, raw: bytes) -> None:
        heard(message)

    conversation: Conversation | None = None
    try:
        conversation = Conversation(StdioConnection([*command, "app-server"], environment), listen)
        conversation.open(holdfast.__version__)
        yield conversation
    except RpcError as error:
        raise CodexRefused(error.message) from error
    except Dropped as error:
        raise CodexRefused(f"codex app-server: {error}") from error
    finally:
        if conversation is not None:
            conversation.close()


def account(command: list[str], environment: dict[str, str], cwd: str) -> tuple[Json, Json]:
    """Who is logged in (``account/read``), and the configuration that holds in *cwd* (``config/read``).

    :raises CodexRefused: Codex does not say
    """
    with serving(command, environment, lambda message: None) as conversation:
        read = conversation.request("account/read", {"refreshToken": False}, within=ANSWER_WITHIN)
        wanted = {"includeLayers": False, "cwd": cwd}
        return read, conversation.request("config/read", wanted, within=ANSWER_WITHIN)


def import_session(command: list[str], environment: dict[str, str], source: str, cwd: str) -> str:
    """Have Codex make a thread of the Claude transcript *source*; the thread's id.

    :raises Refused: this Codex cannot, did not finish, or has no thread of it
    """
    try:
        wanted = Import(Path(source), cwd=cwd)
    except OSError as error:
        raise Refused(f"Claude session file cannot be read: {error}") from error
    home = environment.get("CODEX_HOME") or str(Path.home() / ".codex")
    with serving(command, environment, wanted.hear) as conversation:
        try:
            return wanted.run(conversation, within=_IMPORT_WITHIN, home=home)
        except RpcError as error:
            if error.code in _UNKNOWN_METHOD and "externalAgentConfig" in error.message:
                raise Refused(
                    "This Codex version does not support Claude session transfer. "
                    "Update Codex with `npm install -g @openai/codex@latest`, then retry.",
                    hint=error.message,
                ) from error
            raise
        except Unanswered:
            raise Refused("Timed out waiting for Codex to finish importing the Claude session.") from None
        except NotImported as reason:
            raise Refused(
                "Codex reported that the Claude import completed, but did not record an imported thread.",
                hint=str(reason)
                or "See what `codex app-server` says about it, or update Codex with "
                "`npm install -g @openai/codex@latest`, and retry.",
            ) from None
