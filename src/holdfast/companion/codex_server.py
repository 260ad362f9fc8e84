"""Questions to Codex that belong to no job: a Codex server of our own, on its pipes, for as long as the question takes.

A server that other programs have registered, or that died, can mislead nobody this way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import holdfast
from holdfast.agents import foreign
from holdfast.clock import monotonic
from holdfast.companion.refusal import Refused
from holdfast.drivers.app_server.connection import Dropped, StdioConnection
from holdfast.drivers.app_server.conversation import Conversation, RpcError

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


def import_session(command: list[str], environment: dict[str, str], source: str, cwd: str) -> str | None:
    """Have Codex make a thread of the Claude transcript *source*; the thread's id, if Codex tells one.

    :raises Refused: this Codex cannot, or did not finish
    """
    completed: list[Json] = []

    def heard(message: Json) -> None:
        if message.get("method") == "externalAgentConfig/import/completed":
            completed.append(foreign.member(message, "params"))

    details = {
        "plugins": [],
        "sessions": [{"path": source, "cwd": cwd, "title": None}],
        "mcpServers": [],
        "hooks": [],
        "subagents": [],
        "commands": [],
    }
    item = {"itemType": "SESSIONS", "description": "A Claude session", "cwd": None, "details": details}
    with serving(command, environment, heard) as conversation:
        deadline = monotonic() + _IMPORT_WITHIN
        try:
            conversation.request("externalAgentConfig/import", {"migrationItems": [item]}, within=_IMPORT_WITHIN)
        except RpcError as error:
            if error.code in _UNKNOWN_METHOD and "externalAgentConfig" in error.message:
                raise Refused(
                    "This Codex version does not support Claude session transfer. "
                    "Update Codex with `npm install -g @openai/codex@latest`, then retry.",
                    hint=error.message,
                ) from error
            raise
        while not completed:
            if monotonic() >= deadline:
                raise Refused("Timed out waiting for Codex to finish importing the Claude session.")
            conversation.wait(deadline - monotonic())
    return _imported(completed[0])


def _imported(told: Json) -> str | None:
    """The thread in ``itemTypeResults[].successes[].target``; older versions tell none."""
    for result in foreign.members(told, "itemTypeResults"):
        for success in foreign.members(result, "successes"):
            target = foreign.text(success, "target")
            if target:
                return target
    return None
