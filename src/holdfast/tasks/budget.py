"""The budget of tool uses: when an agent is told to finish, when it is ended, and what a conclusion may still cost."""

from __future__ import annotations

from typing import Final

from holdfast.agents.adapter import Agent
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.request import Limits

#: The reason of the attempt that asks for a conclusion of what an earlier one did.
FINALISE: Final = "finalise"
#: What an agent is told when it has used up its tools.
FINISH_NOW: Final = (
    "Your budget of tool uses is nearly spent. Use no further tools. Finish now: give your final answer or verdict on "
    "the basis of what you have found so far, and say plainly what remains undone."
)
#: What an agent that shall only conclude may still use, in tool uses.
CLOSING_TOOL_USES: Final = 3


def nearly_spent(facts: AttemptFacts, limits: Limits, agent: Agent) -> bool:
    """Whether the agent is to be told now that its tool uses are nearly spent: once, and only if it listens."""
    soft = limits.soft_tool_uses
    if soft is None or facts.tool_total < soft or facts.told_to_finish or facts.terminal or facts.exited:
        return False
    return agent.can_steer and facts.concludes is None


def overspent(facts: AttemptFacts, limits: Limits, agent: Agent) -> StopCause | None:
    """Which limit of tool uses the agent must be ended for, if any."""
    if facts.terminal:
        return None
    hard = CLOSING_TOOL_USES if facts.concludes is not None else limits.max_tool_uses
    if hard is not None and facts.tool_total > hard:
        return StopCause.TOOL_USES
    soft = limits.soft_tool_uses
    if soft is not None and facts.tool_total >= soft and _may_conclude(facts, agent):
        return StopCause.SOFT_TOOL_USES
    return None


def _may_conclude(facts: AttemptFacts, agent: Agent) -> bool:
    """Whether an agent that cannot be told anything is ended at the soft limit, to be asked for a conclusion."""
    idle = not facts.open_tools
    return not agent.can_steer and agent.can_resume and facts.concludes is None and idle
