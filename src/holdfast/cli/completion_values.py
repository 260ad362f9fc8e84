"""What the shell can complete behind a command: agents, and ids of tasks and processes if somebody answers.

Nothing is started for that.  An error of Holdfast means that nothing is offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli import terminal

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: A person waits for the completion.
_PATIENCE: Final = 1.0


def agents(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of agents."""
    from holdfast.agents.catalogue import known_agents

    return _items(((agent.name, agent.title) for agent in known_agents()), incomplete)


def tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of recent tasks, newest first."""
    return _tasks(incomplete, active=False)


def active_tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of tasks that are not finished."""
    return _tasks(incomplete, active=True)


def processes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the processes that the host keeps."""
    from holdfast.cli import host_access

    url, token_file = context.params.get("url"), context.params.get("token_file")
    try:
        found = host_access.ask_if_running(url, token_file, lambda client: client.list(), within=_PATIENCE)
    except TimeoutError:
        found = None
    return _items(((status.process_id, status.command) for status in found or ()), incomplete)


def host_options(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What can come next among the words of *parameter*: options of a host, or values of the last one."""
    from click.shell_completion import CompletionItem

    options = options_of_host()
    # Bash makes a word of the sign in "--log-format=json".
    given = [word for word in context.params.get(parameter.name or "") or () if word != "="]
    value = options.get(given[-1], "") if given else ""
    if value in ("FILE", "DIR"):
        return [CompletionItem(incomplete, type=value.lower())]
    offers = options if not value else value.strip("{}").split(",") if value.startswith("{") else ()
    return _items(((offer, None) for offer in offers), incomplete)


def options_of_host() -> dict[str, str]:
    """Every option of a host, and what its usage says of the value: ``DIR``, ``{text,json}``; empty if it has none."""
    from holdfast.host.options import build_parser

    return dict(re.findall(r"\[(--[a-z0-9-]+)(?: ([^\]]+))?\]", build_parser().format_usage()))


def _tasks(incomplete: str, *, active: bool) -> list[CompletionItem]:
    from holdfast.daemon.client import DaemonClient, daemon_socket
    from holdfast.directories import state_directory

    views = DaemonClient(daemon_socket(state_directory())).tasks(active=active, limit=50, timeout=_PATIENCE)
    return _items(((view.id, view.label or view.summary) for view in views), incomplete)


def _items(found: Iterable[tuple[str, str | None]], incomplete: str) -> list[CompletionItem]:
    """Those of the values that begin with *incomplete*, with what is said about each.

    The shells are told line by line, and fish splits a line at its commas: a value that does not fit cannot be offered.
    """
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(value, help=None if told is None else terminal.printable(told))
        for value, told in found
        if value.startswith(incomplete) and value.isprintable() and "," not in value
    ]
