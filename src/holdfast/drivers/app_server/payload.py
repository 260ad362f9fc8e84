"""Reading JSON of which no field is trusted; as :mod:`holdfast.agents.foreign`, for programs that must start fast."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    Json = dict[str, Any]


def is_object(value: object) -> TypeGuard[Json]:
    """Whether *value* is a JSON object."""
    return isinstance(value, dict)


def text(payload: Json, key: str) -> str | None:
    """The string under *key*."""
    value = payload.get(key)
    return value if isinstance(value, str) else None


def whole(payload: Json, key: str) -> int:
    """The integer under *key*, or 0."""
    value = payload.get(key)
    return value if isinstance(value, int) else 0


def member(payload: Json, key: str) -> Json:
    """The object under *key*, or an empty one."""
    value = payload.get(key)
    return value if is_object(value) else {}


def members(payload: Json, key: str) -> list[Json]:
    """The objects in the array under *key*."""
    value = payload.get(key)
    return [item for item in value if is_object(item)] if _is_array(value) else []


def texts(payload: Json, key: str) -> list[str]:
    """The strings in the array under *key*."""
    value = payload.get(key)
    return [item for item in value if isinstance(item, str)] if _is_array(value) else []


def _is_array(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
