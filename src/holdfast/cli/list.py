"""``holdfast list``: the tasks."""

from __future__ import annotations

import builtins

import click

from holdfast.cli import duration, table, terminal
from holdfast.cli.daemon_documents import Document, Documents, encode

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
    with Documents() as daemon:
        answer = daemon.get(f"/v1/tasks?limit={limit}{'&active=1' if active else ''}")
    tasks: builtins.list[Document] = answer["tasks"]
    if as_json:
        terminal.write_line(encode({"tasks": tasks}))
        return 0
    if not tasks:
        terminal.tell("No task is active." if active else "There are no tasks yet.")
        return 0
    rows = [
        [
            task["id"],
            task["agent"],
            ended_or_state(task["status"], task["state"], cancel_requested=task["cancel_requested"]),
            duration.words(task["elapsed_s"]),
            str(task["tool_uses"]),
            _what(task),
        ]
        for task in tasks
    ]
    terminal.write_line(table.render(["ID", "AGENT", "STATE", "TIME", "TOOLS", "WHAT"], rows))
    more = answer.get("total", len(tasks)) - len(tasks)
    if more > 0:
        everything = f"holdfast list --{'active' if active else 'all'}"
        terminal.tell(f"{more} more" if limit == _EVERYTHING else f"{more} more: {everything}")
    return 0


def ended_or_state(status: str | None, state: str, *, cancel_requested: bool) -> str:
    """One word for where a task is: how it ended, or what state it is in."""
    if status is not None:
        return status
    return "cancelling" if cancel_requested and state != "finalising" else state


def _what(task: Document) -> str:
    name = f"[{task['label']}] " if task["label"] else ""
    return name + (task["summary"] if task["state"] == "finished" else f"{task['evidence']} - {task['summary']}")
