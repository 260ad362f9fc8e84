"""Reading JSON that a foreign program wrote: every accessor accepts any shape and answers ``None`` for a wrong one.

Agents change their dialects between versions.  A field that moved must cost that field, never the whole line.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import msgspec

#: A JSON object whose fields are not trusted to be there or to have the expected type.
Payload = dict[str, Any]

#: How much of a line that could not be read is shown to people, in characters.
EXCERPT_LENGTH = 200


def parse(line: bytes) -> Payload | None:
    """The JSON object on *line*; ``None`` when it is no JSON, no UTF-8, or something else than an object."""
    try:
        value: object = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if is_object(value) else None


def is_object(value: object) -> TypeGuard[Payload]:
    """Whether *value*, which came out of a JSON decoder, is an object."""
    return isinstance(value, dict)


def excerpt(line: bytes) -> str:
    """The beginning of a line as text for people; bytes that are no UTF-8 are shown as U+FFFD."""
    head = line[: EXCERPT_LENGTH * 4].decode("utf-8", errors="replace")
    return head if len(head) <= EXCERPT_LENGTH and len(line) <= EXCERPT_LENGTH * 4 else head[:EXCERPT_LENGTH] + "…"


def text(payload: Payload, key: str) -> str | None:
    """The string under *key*."""
    value = payload.get(key)
    return value if isinstance(value, str) else None


def flag(payload: Payload, key: str) -> bool | None:
    """The boolean under *key*."""
    value = payload.get(key)
    return value if isinstance(value, bool) else None


def whole(payload: Payload, key: str) -> int | None:
    """The integer under *key* (a boolean is none)."""
    value = payload.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(payload: Payload, key: str) -> float | None:
    """The number under *key* (a boolean is none)."""
    value = payload.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def member(payload: Payload, key: str) -> Payload:
    """The object under *key*; an empty one when there is none, so that accessors can be chained."""
    value = payload.get(key)
    return value if is_object(value) else {}


def members(payload: Payload, key: str) -> list[Payload]:
    """The objects in the array under *key*; everything else in it is left out."""
    value = payload.get(key)
    if not isinstance(value, list):
        return []
    return [item for item in cast("list[object]", value) if is_object(item)]


def texts(payload: Payload, key: str) -> list[str]:
    """The strings in the array under *key*; everything else in it is left out."""
    value = payload.get(key)
    if not isinstance(value, list):
        return []
    return [item for item in cast("list[object]", value) if isinstance(item, str)]


def one_line(value: str, limit: int = 200) -> str:
    """*value* as one line of at most *limit* characters, for a title."""
    head = " ".join(value[: limit * 4].split())
    return head if len(head) <= limit and len(value) <= limit * 4 else head[: limit - 1] + "…"
