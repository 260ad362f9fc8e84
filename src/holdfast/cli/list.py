"""``holdfast list``: the tasks."""

from __future__ import annotations

import click
import msgspec

from holdfast.cli import duration, table, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.tasks.state import State
from holdfast.tasks.view import TaskView

#: How many tasks are shown unless more are asked for.
_RECENT = 20
#: The daemon's own bound.
_EVERYTHING = 10_000


@click.command("list")
@click.option("--all", "all_", is_flag=True, help=f"Every task, not only the last {_RECENT}.")
@click.option("--active", is_flag=True, help="Only tasks that are not finished.")
@click.option("--limit", metavar="N", type=click.IntRange(1, _EVERYTHING), help="At most this many.")
@click.option("--json", "as_json", is_flag=True, help='Print {"tasks": [...]} on one line.')
def list(*, all_: bool, active: bool, limit: int | None, as_json: bool) -> int:
    """List tasks, newest first."""
    limit = limit or (_EVERYTHING if all_ or active else _RECENT)
    with Daemon() as daemon:
        views = daemon.call(lambda client: client.tasks(active=active, limit=limit))
    if as_json:
        terminal.write([msgspec.json.encode({"tasks": views}) + b"\n"])
    elif views:
        rows = [
            [
                view.id,
                view.agent,
                ended_or_state(view),
                duration.words(view.elapsed_s),
                str(view.tool_uses),
                _what(view),
            ]
            for view in views
        ]
        terminal.write_line(table.render(["ID", "AGENT", "STATE", "TIME", "TOOLS", "WHAT"], rows))
    else:
        terminal.tell("No task is active." if active else "There are no tasks yet.")
    return 0


def ended_or_state(view: TaskView) -> str:
    """One word for where a task is: how it ended, or what state it is in."""
    if view.status is not None:
        return view.status
    return "cancelling" if view.cancel_requested and view.state is not State.FINALISING else view.state


def _what(view: TaskView) -> str:
    name = f"[{view.label}] " if view.label else ""
    return name + (view.summary if view.state is State.FINISHED else f"{view.evidence} - {view.summary}")
