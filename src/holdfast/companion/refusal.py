"""What the companion says when it cannot do what was asked; callers know these sentences (docs/companion.md)."""

from __future__ import annotations

from typing import ClassVar

from holdfast.errors import HoldfastError


class Refused(HoldfastError):
    """The companion cannot do it, and changed nothing."""

    code = "refused"


class CodexMissing(Refused):
    """There is no Codex; the hint says where it was looked for."""

    code = "codex_missing"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "Codex CLI is not installed or is missing required runtime support. "
            "Install it with `npm install -g @openai/codex`, then rerun `/codex:setup`.",
            hint=detail,
        )


class UnknownOption(Refused):
    """The command line names an option that the command does not have."""

    code = "unknown_option"
    exit_code: ClassVar[int] = 2


class StillRunning(Refused):
    """The job that a result was asked of has none yet."""

    code = "still_running"
    exit_code: ClassVar[int] = 3


class JobNotFound(Refused):
    """No job fits what the caller named."""

    code = "not_found"
