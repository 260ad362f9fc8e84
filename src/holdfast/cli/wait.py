"""``holdfast wait``: stay with tasks until they are finished."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import click

from holdfast.api.follow import Follower, StillRunning, as_finished
from holdfast.cli import completion_values, duration, progress_display, result_output, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.cli.output_options import judgement_options, marker_options, output_options
from holdfast.cli.result_output import Format
from holdfast.tasks.result import worst_exit_code


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=completion_values.tasks)
@click.option("--any", "any_", is_flag=True, help="Return when the first of several tasks is finished.")
@click.option("--all", "all_", is_flag=True, help="Return when all are finished (the default).")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration.option,
    help="Stop waiting after this long, with exit status 75; the tasks go on.",
)
@marker_options
@judgement_options
@output_options
def wait(
    *,
    ids: tuple[str, ...],
    any_: bool,
    all_: bool,
    timeout: float | None,
    output_format: str | None,
    as_json: bool,
    quiet: bool,
    progress: str,
    fail_on_reject: bool,
    append_marker: bool,
) -> int:
    """Wait for tasks to finish and print how they ended.

    One task is shown as 'holdfast run' shows it, and the exit status is its own.  Of several tasks each is one line
    (with --json one result document), in the order in which they finish.  The exit status is that of the one that
    ended worst, so it is 0 only if all of them completed; with --any it is that of the one that was finished first.

    The exit status is 75 when --timeout comes first.  Ctrl-C only stops the waiting.
    """
    if any_ and all_:
        raise UsageError("--any and --all contradict each other.", hint="Leave one of them out.")
    wanted = result_output.choose(output_format, as_json=as_json)
    deadline = duration.deadline(timeout)
    with Daemon() as daemon:
        # Every id is looked up first, so that a wrong one is refused at once and not after an hour.
        views = {view.id: view for view in [daemon.call(lambda client, i=i: client.task(i)) for i in ids]}
        if len(views) > 1:
            return _wait_for_several(
                daemon, list(views), deadline, first_only=any_, wanted=wanted, fail_on_reject=fail_on_reject
            )
        (view,) = views.values()
        display = (
            progress_display.JsonLines()
            if wanted is Format.JSONL
            else progress_display.choose(progress, view.agent, quiet=quiet)
        )
        try:
            for line in Follower(daemon, view.id, deadline=deadline).lines():
                display.show(line)
        finally:
            display.close()
        return result_output.show(
            daemon, view.id, wanted, quiet=quiet, append_marker=append_marker, fail_on_reject=fail_on_reject
        )


def _wait_for_several(
    daemon: Daemon,
    ids: Sequence[str],
    deadline: float | None,
    *,
    first_only: bool,
    wanted: Format,
    fail_on_reject: bool,
) -> int:
    """Print each task as it finishes."""
    statuses: dict[str, int] = {}
    running: list[str] = []
    with closing(as_finished(daemon, ids, deadline=deadline)) as finished:
        for task_id, error in finished:
            if isinstance(error, StillRunning):
                running.append(task_id)
                continue
            if error is not None:
                raise error
            statuses[task_id] = _show_one(daemon, task_id, wanted, fail_on_reject=fail_on_reject)
            if first_only:
                return statuses[task_id]
    if running:
        still = ", ".join(sorted(running))
        raise StillRunning(f"Still running: {still}.", hint=f"Go on waiting with: holdfast wait {' '.join(running)}")
    return worst_exit_code(statuses.values())


def _show_one(daemon: Daemon, task_id: str, wanted: Format, *, fail_on_reject: bool) -> int:
    if wanted is not Format.TEXT:
        return result_output.show(daemon, task_id, wanted, quiet=True, fail_on_reject=fail_on_reject)
    result = daemon.call(lambda client: client.result(task_id))
    label = f"  {terminal.printable(result.label)}" if result.label else ""
    terminal.write_line(
        f"{task_id}  {result.status}  {duration.words(result.timing.wall_ms / 1000)}{label}", hint=terminal.STORED
    )
    return result_output.exit_status(result, fail_on_reject=fail_on_reject)
