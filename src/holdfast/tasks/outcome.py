"""How a task ended: a pure decision from facts.  The first rule that matches wins; silence never counts as success."""

from __future__ import annotations

import signal as signals

import msgspec

from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.result import Status


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a task with its reason."""

    status: Status
    failure: Failure | None = None
    warnings: list[str] = []
    #: The limit that ended it: ``total``, ``idle``, ``start``, ``tool_uses``.
    limit_hit: str | None = None


_TIME_LIMITS = {
    StopCause.TOTAL: (FailureClass.TIMEOUT_TOTAL, "The task reached its time limit of {}", "--timeout"),
    StopCause.IDLE: (
        FailureClass.TIMEOUT_IDLE,
        "The agent showed no sign of progress for {}",
        "--idle-timeout",
    ),
    StopCause.START: (
        FailureClass.TIMEOUT_START,
        "The agent reported nothing within {} of its start",
        "--start-timeout",
    ),
}


def decide(
    facts: AttemptFacts,
    *,
    cancel_requested: bool,
    message_blank: bool,
    plain_text: bool,
    limits: dict[StopCause, float | None],
    lack: Failure | None = None,
    verdict_missing: bool = False,
    unfinished: bool = False,
) -> Outcome:
    """Decide how the attempt described by *facts* ended.

    *message_blank* says whether the answer is empty or white space, *plain_text* whether the agent's only sign of
    success is exit status 0, *limits* names the seconds of each time limit for the sentence about it.  *lack* is why
    the answer is not what was asked for, *verdict_missing* whether that includes a verdict that is required, and
    *unfinished* whether something points to an agent that gave up on the way: its budget was nearly spent, or it
    ended by announcing what it was going to do.
    """
    succeeded = reported_success(facts, plain_text)
    if facts.start_failure is not None:
        return Outcome(status=Status.UNAVAILABLE, failure=facts.start_failure)

    if facts.stop is not None and facts.stop is not StopCause.LINGER and succeeded:
        warnings = [f"ended by {facts.stop} after the agent had finished"]
        return _judge_success(warnings, message_blank, lack, verdict_missing and unfinished)
    if facts.unreachable and not succeeded:
        # Whatever was wanted, nobody can say that it was done.
        return _lost(facts, _wanted(facts, cancel_requested, limits))
    if cancel_requested and (facts.stop is StopCause.CANCEL or not facts.exited):
        failure = Failure(failure_class=FailureClass.CANCELLED, message="The task was cancelled.")
        return Outcome(status=Status.CANCELLED, failure=failure)
    if facts.stop is not None and facts.stop in _TIME_LIMITS:
        return _time_limit(facts.stop, limits.get(facts.stop))
    if facts.stop in (StopCause.TOOL_USES, StopCause.SOFT_TOOL_USES):
        failure = Failure(
            failure_class=FailureClass.BUDGET,
            message=f"The agent was stopped after {facts.tool_total} tool uses.",
            remedy=[Remedy(text="Ask for less at once, or raise --max-tool-uses.")],
        )
        return Outcome(status=Status.PARTIAL, failure=failure, limit_hit="tool_uses")
    if facts.lost and not facts.terminal:
        return _lost(facts)
    if facts.failure is not None:
        return Outcome(status=Status.FAILED, failure=facts.failure, warnings=_contradictions(facts))
    if succeeded:
        warnings = _contradictions(facts)
        if facts.stop is StopCause.LINGER:
            warnings.append("the agent did not exit after it had finished, and was ended")
        if facts.lost:
            warnings.append("the host was lost after the agent had finished")
        if facts.concludes is StopCause.TOOL_USES:
            failure = Failure(
                failure_class=FailureClass.BUDGET,
                message="The agent was stopped at its limit of tool uses; the answer is what it had found by then.",
                remedy=[Remedy(text="Ask for less at once, or raise --max-tool-uses.")],
            )
            return Outcome(status=Status.PARTIAL, failure=failure, warnings=warnings, limit_hit="tool_uses")
        return _judge_success(warnings, message_blank, lack, verdict_missing and unfinished)
    return Outcome(status=Status.FAILED, failure=_unexplained(facts), warnings=_contradictions(facts))


def reported_success(facts: AttemptFacts, plain_text: bool) -> bool:
    """Whether the agent reported success and nothing that we observed speaks against it."""
    if plain_text:
        # A program may answer our SIGTERM with exit status 0: after a stop that says nothing.
        return facts.exited and not facts.lost and facts.exit_code == 0 and facts.stop is None
    if facts.completions == 0 or facts.failures > 0:
        return False
    if facts.stop is not None:
        # What was finished before we ended the process is finished, whatever its exit status.
        return facts.terminal_at is not None and facts.stopped_at is not None and facts.terminal_at <= facts.stopped_at
    # An exit status that we did not cause outweighs the agent's word.
    return facts.lost or facts.exit_code == 0


def _judge_success(warnings: list[str], message_blank: bool, lack: Failure | None, cut_short: bool) -> Outcome:
    if message_blank:
        lack = Failure(
            failure_class=FailureClass.UNKNOWN,
            message="The agent reported success and gave no answer.",
            remedy=[Remedy(text="Ask again, more narrowly; silence is not approval.")],
        )
    if lack is None:
        return Outcome(status=Status.COMPLETED, warnings=warnings)
    return Outcome(status=Status.PARTIAL if cut_short else Status.NO_SIGNAL, failure=lack, warnings=warnings)


def _reached(cause: StopCause, seconds: float | None) -> str:
    return _TIME_LIMITS[cause][1].format(f"{seconds:g} s" if seconds is not None else "its limit")


def _wanted(facts: AttemptFacts, cancel_requested: bool, limits: dict[StopCause, float | None]) -> str | None:
    """Why the process was to be ended, if it was."""
    if facts.stop is not None and facts.stop in _TIME_LIMITS:
        return _reached(facts.stop, limits.get(facts.stop))
    if facts.stop is StopCause.CANCEL or cancel_requested:
        return "The task was to be cancelled"
    return None if facts.stop is None else "The agent was to be ended"


def _time_limit(cause: StopCause, seconds: float | None) -> Outcome:
    failure_class, _, option = _TIME_LIMITS[cause]
    failure = Failure(
        failure_class=failure_class,
        message=f"{_reached(cause, seconds)} and was ended.",
        remedy=[Remedy(text=f"Raise {option}, or go on from where it stopped with --resume.")],
    )
    return Outcome(status=Status.TIMEOUT, failure=failure, limit_hit=cause.value)


def _lost(facts: AttemptFacts, wanted: str | None = None) -> Outcome:
    if facts.exited and not facts.lost:
        failure = Failure(
            failure_class=FailureClass.HOST_LOST,
            message="The agent's server did not confirm that the turn was ended, so it may still be at work there.",
            remedy=[Remedy(text="Look at the files before anything else works on them, then go on with --resume.")],
        )
        return Outcome(status=Status.OUTCOME_UNKNOWN, failure=failure)
    message = "The host of the process went away before the end was seen."
    if wanted is not None:
        message = f"{wanted}, but its host does not answer: whether the process has ended is not known."
    failure = Failure(
        failure_class=FailureClass.HOST_LOST,
        message=message,
        remedy=[Remedy(text="Look at the files and the log, then go on with --resume.")],
    )
    may_run = bool(facts.survivors) or facts.unreachable
    return Outcome(
        status=Status.OUTCOME_UNKNOWN if may_run else Status.ABORTED,
        failure=failure,
        limit_hit=facts.stop if wanted is not None and facts.stop in _TIME_LIMITS else None,
    )


def _unexplained(facts: AttemptFacts) -> Failure:
    if facts.signal is not None:
        how = f"was killed by {signal_name(facts.signal)}"
    else:
        how = f"exited with status {facts.exit_code}"
    if facts.completions and facts.failures == 0:
        what = f"The agent reported success, but {how}."
    elif facts.first_event_at is None:
        what = f"The agent {how} without a word."
    else:
        what = f"The agent {how} before it reported an end."
    return Failure(
        failure_class=FailureClass.BACKEND_CRASH,
        message=what,
        remedy=[Remedy(text="Read the log with 'holdfast logs', then try again or go on with --resume.")],
    )


def _contradictions(facts: AttemptFacts) -> list[str]:
    warnings: list[str] = []
    if facts.completions > 1:
        warnings.append(f"the agent reported success {facts.completions} times")
    if facts.completions and facts.failures:
        warnings.append("the agent reported both success and failure")
    if facts.malformed:
        warnings.append(f"{facts.malformed} lines of the agent's output were unreadable")
    if facts.lost_records:
        warnings.append(f"{facts.lost_records} records of the log are gone")
    return warnings


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; a number that has no name here stays a number."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
