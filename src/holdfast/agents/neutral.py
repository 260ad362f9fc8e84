"""The neutral dialect: one event of :mod:`holdfast.agents.events` per line, as a JSON object tagged by ``event``.

It is what the rehearsal agent speaks, and what a wrapper around any other program can speak (see docs/agents.md).
"""

from __future__ import annotations

import msgspec

from holdfast.agents import foreign
from holdfast.agents.events import Event, Malformed, TurnFailed, Unrecognized
from holdfast.agents.failure import Failure, FailureClass

_decoder = msgspec.json.Decoder(Event)
NAMES = frozenset(
    {
        "thread_started",
        "turn_started",
        "message",
        "tool_started",
        "tool_ended",
        "files_claimed",
        "usage_reported",
        "notice",
        "turn_completed",
        "turn_failed",
        "unrecognized",
        "malformed",
    }
)


def interpret(line: bytes) -> list[Event]:
    """The event on *line*.

    A line that is no such event is :class:`Malformed`, an event of another name :class:`Unrecognized`, and a failure
    that is not described as it should be still a failure.
    """
    if not line.strip():
        return []
    try:
        return [_decoder.decode(line)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    payload = foreign.parse(line)
    name = foreign.text(payload, "event") if payload is not None else None
    if payload is None or name is None:
        return [Malformed(excerpt=foreign.excerpt(line))]
    if name == "turn_failed":
        return [TurnFailed(failure=_failure(payload, line), message=foreign.text(payload, "message"))]
    if name in NAMES:
        return [Malformed(excerpt=foreign.excerpt(line))]
    return [Unrecognized(name=name)]


def _failure(payload: foreign.Payload, line: bytes) -> Failure:
    described = foreign.member(payload, "failure")
    message = foreign.text(described, "message") or foreign.excerpt(line)
    known = foreign.text(described, "class")
    return Failure(
        failure_class=FailureClass(known) if known in set(FailureClass) else FailureClass.UNKNOWN,
        message=message,
        upstream_code=known if known not in set(FailureClass) else foreign.text(described, "upstream_code"),
        http_status=foreign.whole(described, "http_status"),
    )
