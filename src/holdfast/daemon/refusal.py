"""The error object of the API (docs/http-api.md), and the error that it stands for."""

from __future__ import annotations

import json
from typing import NamedTuple, cast

from holdfast.daemon.transport import HINT
from holdfast.errors import HoldfastError, InternalError, InvalidRequest, Unavailable


class Refusal(NamedTuple):
    """What the daemon says of an error that it raised."""

    code: str
    message: str
    hint: str | None
    exit_code: int | None


def read(status: int, body: bytes) -> Refusal:
    """The error object in *body*; the body itself where there is none."""
    try:
        error = json.loads(body)["error"]
        code, message, hint, exit_code = error["code"], error["message"], error.get("hint"), error.get("exit_code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refusal(InternalError.code, f"The daemon answered {status}: {body[:200]!r}", HINT, None)
    return Refusal(
        str(code),
        str(message),
        hint if isinstance(hint, str) else None,
        exit_code if isinstance(exit_code, int) else None,
    )


def rebuild(status: int, body: bytes) -> HoldfastError:
    """An error of the daemon's own code, hint and exit status, of the kind that goes with the HTTP *status*."""
    said = read(status, body)
    base = Unavailable if status == 503 else InvalidRequest if 400 <= status < 500 else InternalError
    exit_code = base.exit_code if said.exit_code is None else said.exit_code
    own = {"code": said.code, "exit_code": exit_code, "__doc__": base.__doc__}
    kind = cast("type[HoldfastError]", type(base.__name__, (base,), own))
    return kind(said.message, hint=said.hint)


def rebuild_typed(status: int, body: bytes) -> HoldfastError:
    """The same as the very class that the daemon raised, where it is known."""
    # Imported here: only a mistake needs them, and every command pays for what is imported above.
    from holdfast.agents.adapter import AgentMissing, UnknownAgent, UnsupportedOption
    from holdfast.errors import NotFound
    from holdfast.host.port import HostUnavailable, StartRefused
    from holdfast.tasks.view import NotFinished

    said = read(status, body)
    known = (
        AgentMissing,
        HostUnavailable,
        InternalError,
        InvalidRequest,
        NotFinished,
        NotFound,
        StartRefused,
        Unavailable,
        UnknownAgent,
        UnsupportedOption,
    )
    for kind in known:
        if kind.code == said.code:
            return kind(said.message, hint=said.hint)
    return rebuild(status, body)
