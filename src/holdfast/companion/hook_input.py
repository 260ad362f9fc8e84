"""What Claude Code tells a hook: one JSON object on standard input."""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any, Final, cast

from holdfast.companion.refusal import Refused

#: Seconds of silence after which nobody will say anything any more.
_PATIENCE: Final = 3.0
_MOST_BYTES: Final = 16 << 20


def read() -> dict[str, Any]:
    """The object; empty when nothing was said.

    :raises Refused: it is no object
    """
    if sys.stdin is None or os.isatty(0):
        return {}
    data = b""
    while len(data) < _MOST_BYTES and select.select([0], [], [], _PATIENCE)[0]:
        chunk = os.read(0, 65_536)
        if not chunk:
            break
        data += chunk
    if not data.strip():
        return {}
    try:
        told = json.loads(data)
    except ValueError as error:
        raise Refused(f"The hook's input is not JSON: {error}.") from error
    if not isinstance(told, dict):
        raise Refused("The hook's input is not an object.")
    return cast("dict[str, Any]", told)


def text(told: dict[str, Any], name: str) -> str | None:
    """The member *name*, if it is a text that says something."""
    value = told.get(name)
    return value if isinstance(value, str) and value else None
