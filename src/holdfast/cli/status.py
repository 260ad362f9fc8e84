"""``holdfast status``: one task, or the daemon."""

from __future__ import annotations

import click
import msgspec

from holdfast.api.follow import StillRunning, until_finished
from holdfast.cli import completion_values, duration, table, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.cli.list import ended_or_state
from holdfast.daemon.client import DaemonStatus
from holdfast.directories import state_directory
from holdfast.tasks.state import State
from holdfast.tasks.view import TaskView


@click.command()
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=completion_values.tasks)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on one line.")
@click.option("--wait", is_flag=True, help="Show it when it is finished.")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration.option,
    help="With --wait: show it as it is after this long, with exit status 75.",
)
def status(*, task_id: str | None, as_json: bool, wait: bool, timeout: float | None) -> int:
    """Show where a task is, with the evidence for it; without ID, show the daemon (and start none).

    The exit status is 0 whatever the task's state is ('holdfast wait' and 'holdfast result' give its own), and 75 when
    --timeout came before the end that --wait waits for.
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout is about --wait.", hint="Add --wait, or leave --timeout out.")
    if task_id is None:
        if wait:
            raise UsageError("--wait needs the ID of a task.", hint="Give one; 'holdfast list' shows them.")
        return _show_daemon(as_json=as_json)
    exit_code = 0
    with Daemon() as daemon:
        if wait:
            try:
                until_finished(daemon, task_id, deadline=duration.deadline(timeout))
            except StillRunning as running:
                exit_code = running.exit_code
        view = daemon.call(lambda client: client.task(task_id))
    if as_json:
        terminal.write([msgspec.json.encode(view) + b"\n"])
    else:
        terminal.write_line(table.pairs(_task_rows(view)))
    return exit_code


def _task_rows(view: TaskView) -> list[tuple[str, str]]:
    age = "" if view.evidence_age_s is None else f", {duration.words(view.evidence_age_s)} ago"
    ended = view.state is State.FINISHED
    rows = [
        ("task", view.id if view.label is None else f"{view.id} [{view.label}]"),
        ("agent", view.agent if view.model is None else f"{view.agent}, model {view.model}"),
        ("state", ended_or_state(view) + (f" (exit status {view.exit_code})" if ended else "")),
        ("evidence", f"{view.evidence}{age}"),
        ("time", f"{duration.words(view.elapsed_s)} since {view.created}"),
        ("tool uses", str(view.tool_uses)),
        ("directory", f"{view.cwd} ({view.sandbox})"),
        ("prompt", view.summary),
    ]
    if view.attempts > 1:
        rows.append(("attempts", str(view.attempts)))
    if view.thread_id is not None:
        rows.append(("thread", view.thread_id))
    for told in view.notifications:
        how = f"{told.state}, {told.tries} tr{'y' if told.tries == 1 else 'ies'}" + (
            f": {told.error}" if told.error else ""
        )
        rows.append(("notify", f"{told.to}: {how}"))
    rows.append(("next", f"holdfast result {view.id}" if ended else f"holdfast wait {view.id}"))
    return rows


def _show_daemon(*, as_json: bool) -> int:
    from holdfast.daemon.lifecycle import connect_existing

    client = connect_existing(state_directory())
    if client is None:
        if as_json:
            terminal.write_line('{"running": false}')
        else:
            terminal.write_line("No daemon is running; a command that needs one starts it.")
        return 0
    answer = client.status()
    if as_json:
        terminal.write([msgspec.json.encode({"running": True, **msgspec.to_builtins(answer)}) + b"\n"])
    else:
        terminal.write_line(table.pairs(_daemon_rows(answer)))
    return 0


def _daemon_rows(answer: DaemonStatus) -> list[tuple[str, str]]:
    return [
        ("daemon", f"running, process {answer.pid}, version {answer.version}"),
        ("since", answer.started),
        ("directory", answer.state_directory),
        ("host", str(answer.host.get("url") or "not connected yet")),
        ("tasks", f"{answer.tasks.get('active', 0)} active, {answer.tasks.get('total', 0)} in all"),
    ]
