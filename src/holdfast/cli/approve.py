"""``holdfast approve``: answer what an agent asks to be allowed."""

from __future__ import annotations

import click
import msgspec

from holdfast.cli import completion_values, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completion_values.active_tasks)
@click.argument("request_id", metavar="[QUESTION]", required=False)
@click.option("--for-session", is_flag=True, help="Allow it, and its like for the rest of the thread.")
@click.option("--decline", is_flag=True, help="Do not allow it; the agent goes on without.")
@click.option("--abort", is_flag=True, help="Do not allow it, and end the turn.")
@click.option("--show", is_flag=True, help="Only show what is being asked.")
@click.option("--json", "as_json", is_flag=True, help="Print the task as JSON.")
def approve(
    *,
    task_id: str,
    request_id: str | None,
    for_session: bool,
    decline: bool,
    abort: bool,
    show: bool,
    as_json: bool,
) -> int:
    """Allow what the agent of a task asks for (or decline it); without QUESTION the only open one.

    Agents ask when the task was started with --approvals ask.  'holdfast status ID' shows the open questions.
    """
    if for_session + decline + abort + show > 1:
        raise UsageError("Only one of --for-session, --decline, --abort and --show can be meant.", hint="Choose one.")
    decision = "decline" if decline else "cancel" if abort else "accept_for_session" if for_session else "accept"
    with Daemon() as daemon:
        if show:
            view = daemon.call(lambda client: client.task(task_id))
        else:
            view = daemon.call(lambda client: client.decide(task_id, decision, request_id))
    if as_json:
        terminal.write([msgspec.json.encode(view) + b"\n"])
    elif show:
        for question in view.approvals:
            reason = f" ({question.reason})" if question.reason else ""
            terminal.write_line(f"{question.request_id}  {question.tool}: {question.title}{reason}")
    else:
        terminal.tell(f"The agent of task {view.id} has the answer: {decision.replace('_', ' ')}.")
    return 0
