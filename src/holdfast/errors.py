"""The root of every error that Holdfast raises on purpose.

An error says in one sentence what happened and, in ``hint``, in one sentence what to do next.  Subclasses live on the
floor that raises them and are distinguished by cause; ``code`` is the stable, machine-readable name of that cause.
"""

from __future__ import annotations

from typing import ClassVar


class HoldfastError(Exception):
    """Something failed; the message says what, ``hint`` says what to do next."""

    #: Stable machine-readable name of the cause; appears in ``--json`` output and in API answers.
    code: ClassVar[str] = "internal"
    #: Exit status of a command that ends with this error.
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InvalidRequest(HoldfastError):
    """The caller asked for something that cannot be done; nothing was started or changed."""

    code = "rejected"
    exit_code = 2


class NotFound(InvalidRequest):
    """The thing named by the caller does not exist."""

    code = "not_found"


class Unavailable(HoldfastError):
    """Something that Holdfast needs (an agent, a host, a daemon) is missing or did not start."""

    code = "unavailable"
    exit_code = 127


class InternalError(HoldfastError):
    """Holdfast itself is at fault; the message carries what is known."""

    code = "internal"
