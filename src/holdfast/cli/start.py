"""``holdfast start``: hand over a task and leave."""

from __future__ import annotations

from typing import Unpack

import click
import msgspec

from holdfast.cli import terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.task_options import Options, order, task_options


@click.command()
@task_options
@click.option("--json", "as_json", is_flag=True, help="Print the task as JSON instead of its id.")
def start(*, as_json: bool, **options: Unpack[Options]) -> int:
    """Give AGENT the piece of work PROMPT and print the id of the task, alone, on standard output.

    The id is printed when the task is stored: from then on it has a result, whatever happens to this command, to the
    daemon or to the machine.  Go on with 'holdfast wait ID', 'holdfast logs -f ID' or 'holdfast cancel ID'.
    """
    placed = order(**options)
    with Daemon() as daemon:
        view = daemon.call(lambda client: client.create(placed.request, placed.prompt, placed.environment))
    terminal.write_line(msgspec.json.encode(view).decode() if as_json else view.id, hint=terminal.STORED)
    return 0
