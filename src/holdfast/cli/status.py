"""``holdfast status``: one task, or the daemon."""

from __future__ import annotations

import click

from holdfast.cli import completion_values, duration, table, terminal
from holdfast.cli.daemon_documents import Document, Documents, encode
from holdfast.cli.error_report import UsageError
from holdfast.cli.list import ended_or_state
from holdfast.daemon.documents import task_path


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
    exit_code = _wait(task_id, duration.deadline(timeout)) if wait else 0
    with Documents() as daemon:
        task = daemon.get(task_path(task_id))
    if as_json:
        terminal.write_line(encode(task))
    else:
        terminal.write_line(table.pairs(_task_rows(task)))
    return exit_code


def _wait(task_id: str, deadline: float | None) -> int:
    # Imported here: it takes longer than everything else that this command does.
    from holdfast.api.follow import StillRunning, until_finished
    from holdfast.cli.daemon_access import Daemon

    with Daemon() as daemon:
        try:
            until_finished(daemon, task_id, deadline=deadline)
        except StillRunning as running:
            return running.exit_code
    return 0


def _task_rows(task: Document) -> list[tuple[str, str]]:
    name, ended = task["id"], task["state"] == "finished"
    age = "" if task["evidence_age_s"] is None else f", {duration.words(task['evidence_age_s'])} ago"
    state = ended_or_state(task["status"], task["state"], cancel_requested=task["cancel_requested"])
    rows = [
        ("task", name if task["label"] is None else f"{name} [{task['label']}]"),
        ("agent", task["agent"] if task["model"] is None else f"{task['agent']}, model {task['model']}"),
        ("state", state + (f" (exit status {task['exit_code']})" if ended else "")),
        ("evidence", f"{task['evidence']}{age}"),
        ("time", f"{duration.words(task['elapsed_s'])} since {task['created']}"),
        ("tool uses", str(task["tool_uses"])),
        ("directory", f"{task['cwd']} ({task['sandbox']})"),
        ("prompt", task["summary"]),
    ]
    if task["attempts"] > 1:
        rows.append(("attempts", str(task["attempts"])))
    if task["thread_id"] is not None:
        rows.append(("thread", task["thread_id"]))
    for told in task["notifications"]:
        how = f"{told['state']}, {told['tries']} tr{'y' if told['tries'] == 1 else 'ies'}"
        rows.append(("notify", f"{told['to']}: {how}{': ' + told['error'] if told['error'] else ''}"))
    rows.append(("next", f"holdfast result {name}" if ended else f"holdfast wait {name}"))
    return rows


def _show_daemon(*, as_json: bool) -> int:
    answer = Documents().status()
    if as_json:
        terminal.write_line(encode({"running": False} if answer is None else {"running": True, **answer}))
    elif answer is None:
        terminal.write_line("No daemon is running; a command that needs one starts it.")
    else:
        terminal.write_line(table.pairs(_daemon_rows(answer)))
    return 0


def _daemon_rows(answer: Document) -> list[tuple[str, str]]:
    tasks = answer["tasks"]
    return [
        ("daemon", f"running, process {answer['pid']}, version {answer['version']}"),
        ("since", answer["started"]),
        ("directory", answer["state_directory"]),
        ("host", str(answer["host"].get("url") or "not connected yet")),
        ("tasks", f"{tasks.get('active', 0)} active, {tasks.get('total', 0)} in all"),
    ]
