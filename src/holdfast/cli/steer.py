"""``holdfast steer``: say something to a task while it works."""

from __future__ import annotations

import click
import msgspec

from holdfast.cli import completion_values, prompt, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completion_values.active_tasks)
@click.argument("words", metavar="[TEXT]", nargs=-1, type=click.UNPROCESSED)
@click.option("--prompt-file", metavar="FILE", help="Read the text from FILE, '-' for standard input.")
@click.option("--json", "as_json", is_flag=True, help="Print the task as JSON.")
def steer(*, task_id: str, words: tuple[str, ...], prompt_file: str | None, as_json: bool) -> int:
    """Add TEXT to what the agent is working on; returns when the agent has confirmed it.

    \b
      holdfast steer 06j8 "Leave the tests alone; only the parser"

    An agent that runs once per turn cannot be told anything: wait for it and use --resume.
    """
    try:
        text = prompt.read(words, prompt_file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("The text is not UTF-8.", hint="Give the text in UTF-8.") from error
    with Daemon() as daemon:
        view = daemon.call(lambda client: client.steer(task_id, text))
    if as_json:
        terminal.write([msgspec.json.encode(view) + b"\n"])
    else:
        terminal.tell(f"The agent of task {view.id} has it.")
    return 0
