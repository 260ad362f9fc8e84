"""Success is decided from facts, and never from the absence of something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.agents.events import (
    Event,
    Malformed,
    Message,
    Notice,
    ThreadStarted,
    ToolEnded,
    ToolStarted,
    ToolType,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unrecognized,
)
from holdfast.agents.failure import Failure, FailureClass
from holdfast.tasks.facts import AttemptFacts, StopCause, fold
from holdfast.tasks.outcome import Outcome, decide
from holdfast.tasks.result import EXIT_CODES, Status

LIMITS: dict[StopCause, float | None] = {StopCause.TOTAL: 60.0, StopCause.IDLE: 10.0, StopCause.START: 5.0}
FAILURE = Failure(failure_class=FailureClass.RATE_LIMIT, message="429 Too Many Requests", http_status=429)


def facts_of(*events: Event, exit_code: int | None = 0, signal: int | None = None) -> AttemptFacts:
    facts = AttemptFacts()
    for number, event in enumerate(events):
        fold(facts, event, 1000.0 + number)
    facts.exited = exit_code is not None or signal is not None
    facts.exit_code, facts.signal = exit_code, signal
    facts.closed = facts.exited
    return facts


def outcome(facts: AttemptFacts, *, cancelled: bool = False, blank: bool = False, plain_text: bool = False) -> Outcome:
    return decide(facts, cancel_requested=cancelled, message_blank=blank, plain_text=plain_text, limits=LIMITS)


def test_a_reported_success_with_an_answer_and_exit_0_is_completed() -> None:
    result = outcome(facts_of(ThreadStarted(thread_id="t"), Message(text="done"), TurnCompleted()))
    assert result == Outcome(status=Status.COMPLETED)


def test_silence_is_not_success() -> None:
    assert outcome(facts_of(TurnCompleted()), blank=True).status is Status.NO_SIGNAL
    assert outcome(facts_of(Message(text="done"))).status is Status.FAILED
    assert outcome(facts_of()).status is Status.FAILED


def test_an_exit_status_outweighs_the_agents_word() -> None:
    result = outcome(facts_of(Message(text="done"), TurnCompleted(), exit_code=3))
    assert result.status is Status.FAILED
    assert result.failure is not None
    assert result.failure.failure_class is FailureClass.BACKEND_CRASH
    assert "status 3" in result.failure.message


def test_a_failure_stays_a_failure_whatever_is_reported_beside_it() -> None:
    for events in ((TurnFailed(failure=FAILURE), TurnCompleted()), (TurnCompleted(), TurnFailed(failure=FAILURE))):
        result = outcome(facts_of(Message(text="half"), *events))
        assert (result.status, result.failure) == (Status.FAILED, FAILURE)
        assert result.warnings == ["the agent reported both success and failure"]


def test_two_successes_are_one_success_with_a_warning() -> None:
    result = outcome(facts_of(Message(text="done"), TurnCompleted(), TurnCompleted()))
    assert result.status is Status.COMPLETED
    assert result.warnings == ["the agent reported success 2 times"]


def test_a_death_by_signal_names_the_signal() -> None:
    result = outcome(facts_of(ThreadStarted(thread_id="t"), exit_code=137, signal=9))
    assert result.status is Status.FAILED
    assert result.failure is not None
    assert "SIGKILL" in result.failure.message


@pytest.mark.parametrize(
    ("cause", "failure_class"),
    [
        (StopCause.TOTAL, FailureClass.TIMEOUT_TOTAL),
        (StopCause.IDLE, FailureClass.TIMEOUT_IDLE),
        (StopCause.START, FailureClass.TIMEOUT_START),
    ],
)
def test_a_time_limit_is_a_timeout_and_names_the_limit(cause: StopCause, failure_class: FailureClass) -> None:
    facts = facts_of(Message(text="half"), exit_code=143, signal=15)
    facts.stop, facts.stopped_at = cause, 2000.0
    result = outcome(facts)
    assert (result.status, result.limit_hit) == (Status.TIMEOUT, cause.value)
    assert result.failure is not None
    assert result.failure.failure_class is failure_class
    assert f"{LIMITS[cause]:g} s" in result.failure.message


def test_what_was_finished_before_the_limit_is_finished() -> None:
    facts = facts_of(Message(text="done"), TurnCompleted(), exit_code=143, signal=15)
    facts.stop, facts.stopped_at = StopCause.TOTAL, 2000.0
    result = outcome(facts)
    assert result.status is Status.COMPLETED
    assert result.warnings == ["ended by total after the agent had finished"]


def test_what_an_agent_says_while_it_is_being_ended_is_not_success() -> None:
    facts = facts_of(Message(text="ok, stopping"), TurnCompleted(), exit_code=0)
    facts.stop, facts.stopped_at = StopCause.TOTAL, 900.0
    assert outcome(facts).status is Status.TIMEOUT
    plain = facts_of(exit_code=0)
    plain.stop, plain.stopped_at = StopCause.IDLE, 900.0
    assert outcome(plain, plain_text=True).status is Status.TIMEOUT


def test_cancelled_before_anything_started_is_cancelled() -> None:
    assert outcome(AttemptFacts(), cancelled=True).status is Status.CANCELLED


def test_a_cancel_that_came_too_late_changes_nothing() -> None:
    result = outcome(facts_of(Message(text="done"), TurnCompleted()), cancelled=True)
    assert result.status is Status.COMPLETED


def test_a_lost_host_is_never_success_and_never_running() -> None:
    facts = facts_of(Message(text="half"), exit_code=None)
    facts.lost = True
    assert outcome(facts).status is Status.ABORTED
    facts.survivors = [4711]
    assert outcome(facts).status is Status.OUTCOME_UNKNOWN


def test_a_turn_that_may_go_on_in_its_server_is_told_of_as_that() -> None:
    facts = facts_of(TurnStarted(turn_id="t"), exit_code=75)
    facts.stop, facts.unreachable = StopCause.CANCEL, True
    result = outcome(facts, cancelled=True)
    assert result.status is Status.OUTCOME_UNKNOWN
    assert result.failure is not None
    assert "may still be at work" in result.failure.message


def test_a_plain_text_agent_succeeds_by_exit_status_alone() -> None:
    assert outcome(facts_of(exit_code=0), plain_text=True).status is Status.COMPLETED
    assert outcome(facts_of(exit_code=0), plain_text=True, blank=True).status is Status.NO_SIGNAL
    assert outcome(facts_of(exit_code=1), plain_text=True).status is Status.FAILED


def test_every_status_has_an_exit_code_and_only_completed_has_0() -> None:
    assert set(EXIT_CODES) == set(Status)
    assert [status for status, code in EXIT_CODES.items() if code == 0] == [Status.COMPLETED]


LACK = Failure(failure_class=FailureClass.NO_VERDICT, message="The agent gave no verdict.")


@pytest.mark.parametrize(
    ("verdict_missing", "unfinished", "status"),
    [
        (True, True, Status.PARTIAL),
        (True, False, Status.NO_SIGNAL),
        (False, True, Status.NO_SIGNAL),
        (False, False, Status.NO_SIGNAL),
    ],
)
@pytest.mark.parametrize("blank", [False, True])
def test_r35_r36_success_without_what_was_asked_for_is_none(
    verdict_missing: bool, unfinished: bool, status: Status, blank: bool
) -> None:
    result = decide(
        facts_of(Message(text="words"), TurnCompleted()),
        cancel_requested=False,
        message_blank=blank,
        plain_text=False,
        limits=LIMITS,
        lack=LACK,
        verdict_missing=verdict_missing,
        unfinished=unfinished,
    )
    assert result.status is status
    assert result.failure is not None and (result.failure is LACK) is not blank


def test_r35_a_budget_that_is_nearly_spent_alone_changes_nothing() -> None:
    facts = facts_of(Message(text="words"), TurnCompleted())
    result = decide(
        facts, cancel_requested=False, message_blank=False, plain_text=False, limits=LIMITS, unfinished=True
    )
    assert result == Outcome(status=Status.COMPLETED)


EVENTS = st.sampled_from(
    [
        ThreadStarted(thread_id="t"),
        TurnStarted(),
        Message(text="words"),
        ToolStarted(item_id="1", tool=ToolType.COMMAND, title="ls"),
        ToolEnded(item_id="1", failed=False),
        ToolEnded(item_id="2", failed=True, tool=ToolType.MCP, title="query"),
        Notice(text="retrying"),
        TurnCompleted(),
        TurnFailed(failure=FAILURE),
        Unrecognized(name="new.kind"),
        Malformed(excerpt="{"),
    ]
)


@given(
    events=st.lists(EVENTS, max_size=12),
    exit_code=st.sampled_from([None, 0, 1, 143]),
    stop=st.sampled_from([None, *StopCause]),
    stopped_at=st.sampled_from([900.0, 2000.0]),
    cancelled=st.booleans(),
    blank=st.booleans(),
    lost=st.booleans(),
    plain_text=st.booleans(),
)
def test_completed_always_has_every_reason_to_be(
    events: list[Event],
    exit_code: int | None,
    stop: StopCause | None,
    stopped_at: float,
    cancelled: bool,
    blank: bool,
    lost: bool,
    plain_text: bool,
) -> None:
    facts = facts_of(*events, exit_code=exit_code)
    facts.stop, facts.stopped_at = stop, stopped_at if stop else None
    facts.lost = lost
    result = outcome(facts, cancelled=cancelled, blank=blank, plain_text=plain_text)
    if result.status is not Status.COMPLETED:
        assert result.failure is not None, "whatever is not completed says why"
        return
    assert not blank
    if plain_text:
        assert exit_code == 0 and stop is None and not lost
    else:
        assert any(isinstance(event, TurnCompleted) for event in events)
        assert not any(isinstance(event, TurnFailed) for event in events)
        assert exit_code == 0 or lost or (stop is not None and stopped_at == 2000.0)


@given(st.lists(EVENTS, max_size=30))
def test_tool_uses_are_counted_once_each(events: list[Event]) -> None:
    facts = facts_of(*events)
    seen = {event.item_id for event in events if isinstance(event, ToolStarted | ToolEnded)}
    assert facts.tool_total == len(seen) == sum(facts.tools_by_type.values())
    assert facts.tool_failed <= facts.tool_total
