"""What the shell can complete behind a command: agents, and ids of tasks and processes if somebody answers.

Nothing is started for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: A person waits for the completion.
_PATIENCE: Final = 1.0


def agents(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of agents."""
    from click.shell_completion import CompletionItem

    from holdfast.agents.catalogue import known_agents

    return [
        CompletionItem(agent.name, help=agent.title) for agent in known_agents() if agent.name.startswith(incomplete)
    ]


def tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of recent tasks, newest first."""
    return _tasks(incomplete, active=False)


def active_tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of tasks that are not finished."""
    return _tasks(incomplete, active=True)


def processes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the processes that the host keeps."""
    from click.shell_completion import CompletionItem

    from holdfast.cli import host_access

    url, token_file = context.params.get("url"), context.params.get("token_file")
    try:
        found = host_access.ask_if_running(url, token_file, lambda client: client.list(), patience=_PATIENCE)
    except HoldfastError:
        return []
    return [
        CompletionItem(status.process_id, help=status.command)
        for status in found or ()
        if status.process_id.startswith(incomplete)
    ]


def _tasks(incomplete: str, *, active: bool) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from holdfast.daemon.lifecycle import connect_existing
    from holdfast.directories import state_directory

    try:
        client = connect_existing(state_directory())
        views = [] if client is None else client.tasks(active=active, limit=50, timeout=_PATIENCE)
    except HoldfastError:
        # Completion is a courtesy: the command itself will say what is wrong.
        return []
    return [
        CompletionItem(view.id, help=view.label or view.summary) for view in views if view.id.startswith(incomplete)
    ]
