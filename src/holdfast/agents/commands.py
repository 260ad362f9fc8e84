"""What can be said to a run while it works: one JSON object per line on its standard input.

Every command has an id, and the run answers it with one :class:`~holdfast.agents.events.CommandAnswered` in its output,
so that whether it arrived is a fact in the log.  A command of an id that was seen before is answered again, not done
again.
"""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """Base of all commands."""

    id: str


class Steer(Command, frozen=True, kw_only=True, tag="steer"):
    """Add *text* to the turn that is going on; refused when none is."""

    text: str


class Interrupt(Command, frozen=True, kw_only=True, tag="interrupt"):
    """End the turn; what was said so far is kept.  Answered when the agent has confirmed the end."""


class Decide(Command, frozen=True, kw_only=True, tag="decide"):
    """Answer the agent's question *request_id*: ``accept``, ``accept_for_session``, ``decline`` or ``cancel``."""

    request_id: str
    decision: str


AnyCommand = Steer | Interrupt | Decide

#: What a question can be answered with.
DECISIONS = ("accept", "accept_for_session", "decline", "cancel")


def encode(command: AnyCommand) -> bytes:
    """*command* as one line."""
    return msgspec.json.encode(command) + b"\n"


def decode(line: bytes) -> AnyCommand:
    """The command in *line*.

    :raises msgspec.DecodeError: (or its subclass ``ValidationError``) it is none
    """
    return msgspec.json.decode(line, type=AnyCommand)
