"""``holdfast cancel``: end tasks."""

from __future__ import annotations

import click
import msgspec

from holdfast.api.follow import until_finished
from holdfast.cli import completion_values, duration, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.tasks.state import State


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=completion_values.active_tasks)
@click.option("--wait", "wait_", is_flag=True, help="Return when they have ended, and their processes with them.")
@click.option("--timeout", metavar="DURATION", callback=duration.option, help="With --wait: for this long at most.")
@click.option("--json", "as_json", is_flag=True, help="Print each task as JSON, one a line.")
def cancel(*, ids: tuple[str, ...], wait_: bool, timeout: float | None, as_json: bool) -> int:
    """Ask for the end of tasks: the agent and every process that it started.

    What the agent said and changed until then stays in the result.  Cancelling a finished task changes nothing.
    """
    deadline = duration.deadline(timeout)
    with Daemon() as daemon:
        # All are looked up first: with one id wrong, none is cancelled.
        known = [daemon.call(lambda client, i=i: client.task(i)) for i in ids]
        views = [daemon.call(lambda client, view=view: client.cancel(view.id)) for view in known]
        if wait_:
            views = [until_finished(daemon, view.id, deadline=deadline) for view in views]
    for before, view in zip(known, views, strict=True):
        if as_json:
            terminal.write([msgspec.json.encode(view) + b"\n"])
        elif before.state is State.FINISHED:
            terminal.write_line(f"{view.id}  was finished already: {view.status}")
        else:
            terminal.write_line(f"{view.id}  {view.status or 'cancelling'}")
    return 0
