"""What a task used, apart from what its thread had used before."""

from __future__ import annotations

from typing import Final

from holdfast.agents.events import Usage
from holdfast.tasks.acceptance import Acceptance
from holdfast.tasks.facts import AttemptFacts
from holdfast.tasks.result import Status, UsagePart

_NOTHING: Final = Usage(input_tokens=0, cached_input_tokens=0, output_tokens=0, reasoning_output_tokens=0)


def usage_of_task(acceptance: Acceptance, facts: AttemptFacts, status: Status, unknowns: dict[str, str]) -> UsagePart:
    """The tokens and cost of this task alone; what cannot be told is ``None`` and said in *unknowns*."""
    usage = facts.usage
    if usage is None:
        unknowns["usage"] = "the agent did not report it"
        return UsagePart()
    part = UsagePart(complete=status in (Status.COMPLETED, Status.NO_SIGNAL), source=facts.usage_source)
    before: Usage | None = _NOTHING
    if facts.usage_of_thread:
        part.thread_total_tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if acceptance.resume_thread is not None:
            before = acceptance.usage_before
    if before is None:
        unknowns["usage"] = "the agent counts the whole thread, and what it had used before is not known here"
        return part
    part.input_tokens = _less(usage.input_tokens, before.input_tokens)
    part.cached_input_tokens = _less(usage.cached_input_tokens, before.cached_input_tokens)
    part.output_tokens = _less(usage.output_tokens, before.output_tokens)
    part.reasoning_output_tokens = _less(usage.reasoning_output_tokens, before.reasoning_output_tokens)
    part.cost_usd = usage.cost_usd
    return part


def _less(now: int | None, before: int | None) -> int | None:
    return None if now is None else max(0, now - (before or 0))
