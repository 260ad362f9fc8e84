"""``holdfast logs``: what a task did, and the very bytes that its process wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from holdfast.cli import completion_values, duration, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.cli.follow import Follower
from holdfast.daemon.client import DaemonGone, LogEntry, StreamSilent
from holdfast.tasks.view import Progress

_STDERR = "stderr"


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
            lines = Follower(daemon, task_id).lines() if follow else daemon.client.progress(task_id, follow=False)
            for line in lines:
                terminal.write_line(_readable(line))
            return 0
        for entry in _entries(daemon, task_id, attempt, follow=follow):
            if as_json:
                terminal.write([msgspec.json.encode(entry) + b"\n"])
            else:
                _write_raw(entry)
    return 0


def _entries(daemon: Daemon, task_id: str, attempt: int | None, *, follow: bool) -> Iterator[LogEntry]:
    """Yield the log to its end; one that breaks off is read on behind what was seen of the attempt."""
    seen: dict[int, int] = {}
    while True:
        client = daemon.client
        try:
            for entry in client.log(task_id, attempt=attempt, follow=follow):
                if entry.seq and entry.seq <= seen.get(entry.attempt, 0):
                    continue
                if entry.gap is not None and entry.gap[1] <= seen.get(entry.attempt, 0):
                    continue
                seen[entry.attempt] = entry.gap[1] if entry.gap is not None else entry.seq
                daemon.found()
                yield entry
            return
        except StreamSilent:
            daemon.call(lambda client: client.status(timeout=10.0))
        except DaemonGone as error:
            daemon.lost(client, error)


def _readable(line: Progress) -> str:
    return f"{duration.clock(line.elapsed_s):>7}  {line.kind:<11}  {terminal.printable(line.text)}".rstrip()


def _write_raw(entry: LogEntry) -> None:
    if entry.gap is not None:
        terminal.tell(f"notice: records {entry.gap[0]} to {entry.gap[1]} are no longer there")
    elif entry.kind != _STDERR:
        terminal.write([entry.data])
    elif sys.stderr is not None:
        sys.stderr.buffer.write(entry.data)
        sys.stderr.buffer.flush()
