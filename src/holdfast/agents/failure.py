"""Why an agent's work did not succeed, in one vocabulary for all agents."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FailureClass(StrEnum):
    """The cause of a failure; what can be done about it follows from the class."""

    BACKEND_MISSING = "backend_missing"
    BACKEND_INCOMPATIBLE = "backend_incompatible"
    AUTH = "auth"
    USAGE_LIMIT = "usage_limit"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    NETWORK = "network"
    THREAD_BUSY = "thread_busy"
    THREAD_UNKNOWN = "thread_unknown"
    CONTEXT_EXCEEDED = "context_exceeded"
    BUDGET = "budget"
    MODEL = "model"
    POLICY = "policy"
    DENIED = "denied"
    SANDBOX = "sandbox"
    BAD_REQUEST = "bad_request"
    SCHEMA_UNMET = "schema_unmet"
    #: The judgement that was asked for is missing.
    NO_VERDICT = "no_verdict"
    TIMEOUT_TOTAL = "timeout_total"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_START = "timeout_start"
    CANCELLED = "cancelled"
    BACKEND_CRASH = "backend_crash"
    HOST_LOST = "host_lost"
    OUTPUT_PATH = "output_path"
    OUTPUT_LIMIT = "output_limit"
    INTERNAL = "internal"
    UNKNOWN = "unknown"


#: Classes for which the same request may succeed later without being changed.
RETRYABLE: frozenset[FailureClass] = frozenset(
    {
        FailureClass.USAGE_LIMIT,
        FailureClass.RATE_LIMIT,
        FailureClass.OVERLOADED,
        FailureClass.NETWORK,
        FailureClass.THREAD_BUSY,
        FailureClass.TIMEOUT_TOTAL,
        FailureClass.TIMEOUT_IDLE,
        FailureClass.TIMEOUT_START,
        FailureClass.BACKEND_CRASH,
        FailureClass.HOST_LOST,
    }
)


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do about a failure: a sentence, and where one exists the command that does it."""

    text: str
    argv: list[str] | None = None


def usual_remedies(failure_class: FailureClass) -> list[Remedy]:
    """What can be done about a failure of this class whichever agent it is."""
    match failure_class:
        case FailureClass.USAGE_LIMIT:
            return [Remedy(text="Wait until the limit is reset, or use another account or agent.")]
        case FailureClass.RATE_LIMIT:
            return [Remedy(text="Try again later, or run fewer tasks at the same time.")]
        case FailureClass.OVERLOADED | FailureClass.NETWORK:
            return [Remedy(text="Try again later.")]
        case FailureClass.CONTEXT_EXCEEDED:
            return [Remedy(text="Start a fresh thread, or ask for less at once.")]
        case FailureClass.MODEL:
            return [Remedy(text="Choose a model that this account can use.")]
        case _:
            return []


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failure as reported by an agent or observed from outside."""

    failure_class: FailureClass = msgspec.field(name="class")
    message: str
    #: The agent's own code for it, verbatim, if it has one.
    upstream_code: str | None = None
    http_status: int | None = None
    #: Seconds after which the upstream asks to be tried again.
    retry_after_s: float | None = None
    remedy: list[Remedy] = []

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later unchanged."""
        return self.failure_class in RETRYABLE
