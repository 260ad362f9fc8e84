"""Which of the ways to converse with an agent carries out a run."""

from __future__ import annotations

from holdfast.agents.adapter import Agent, Drive, UnsupportedOption
from holdfast.agents.codex import CodexAgent


def through(agent: Agent, drive: Drive | None) -> Agent:
    """*agent*, conversed with in the way *drive*; ``None`` is the best way there is for it.

    :raises UnsupportedOption: there is no such way to converse with it
    """
    if drive is Drive.ONE_SHOT or (drive is None and not isinstance(agent, CodexAgent)):
        return agent
    if isinstance(agent, CodexAgent) and drive in (None, Drive.APP_SERVER):
        from holdfast.drivers.app_server.agent import CodexAppServer

        return CodexAppServer.like(agent)
    raise UnsupportedOption(
        f"{agent.title} cannot be driven as {drive!s}.", hint=f"Use {Drive.ONE_SHOT}, or leave the option out."
    )
