"""``holdfast logs``: what a task did, and the very bytes that its process wrote."""

from __future__ import annotations

import click
import msgspec

from holdfast.api.follow import Follower, log_entries
from holdfast.cli import completion_values, duration, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.daemon.client import LogEntry
from holdfast.tasks.view import Progress


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completion_values.tasks)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task is finished.")
@click.option("--raw", is_flag=True, help="What the process wrote, byte for byte: stdout to stdout, stderr to stderr.")
@click.option("--json", "as_json", is_flag=True, help="The records of the process's log, one JSON object a line.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="With --raw or --json: this attempt only.")
def logs(*, task_id: str, follow: bool, raw: bool, as_json: bool, attempt: int | None) -> int:
    """Show what a task did: a line for each thing that the agent reported.

    With --raw or --json show the log of its process instead, exactly as its host recorded it.
    """
    if raw and as_json:
        raise UsageError("--raw and --json contradict each other.", hint="Leave one of them out.")
    if attempt is not None and not (raw or as_json):
        raise UsageError("--attempt is about the process's log.", hint="Use it with --raw or --json.")
    with Daemon() as daemon:
        task_id = daemon.call(lambda client: client.task(task_id)).id
        if not (raw or as_json):
            for line in Follower(daemon, task_id, follow=follow).lines():
                terminal.write_line(_readable(line))
            return 0
        for entry in log_entries(daemon, task_id, attempt=attempt, follow=follow):
            if as_json:
                terminal.write([msgspec.json.encode(entry) + b"\n"])
            else:
                _write_raw(entry)
    return 0


def _readable(line: Progress) -> str:
    return f"{duration.clock(line.elapsed_s):>7}  {line.kind:<11}  {terminal.printable(line.text)}".rstrip()


def _write_raw(entry: LogEntry) -> None:
    if entry.gap is not None:
        terminal.tell(f"notice: records {entry.gap[0]} to {entry.gap[1]} are no longer there")
    else:
        terminal.write_record(entry.kind, entry.data)
