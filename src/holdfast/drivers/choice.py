"""Which way of conversing carries out a request."""

from __future__ import annotations

from holdfast.agents.adapter import Agent, Drive, UnsupportedOption


def through(agent: Agent, drive: Drive | None) -> Agent:
    """*agent* as it is reached by *drive*; ``None`` is its best way.

    :raises UnsupportedOption: it cannot be reached that way
    """
    if drive is Drive.APP_SERVER:
        raise UnsupportedOption(f"{agent.title} has no app-server.", hint="Leave --drive out.")
    return agent
