"""``holdfast transfer``: go on with a conversation of Claude Code in Codex."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import msgspec

from holdfast.cli import terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError


@click.command()
@click.argument("transcript", metavar="[TRANSCRIPT]", required=False)
@click.option("--cwd", metavar="DIR", help="Directory that the thread goes on in.  [default: the current one]")
@click.option("--json", "as_json", is_flag=True, help="Print agent, thread_id and source as JSON on one line.")
def transfer(*, transcript: str | None, cwd: str | None, as_json: bool) -> int:
    """Make a Codex thread of a conversation of Claude Code, and print its id.

    \b
      thread=$(holdfast transfer)
      holdfast run codex --resume "$thread" "Go on where Claude stopped"

    TRANSCRIPT is a .jsonl file of Claude Code's own; by default the newest one of the directory.
    """
    directory = os.path.abspath(cwd or ".")
    source = os.path.abspath(transcript) if transcript is not None else str(_newest(directory))
    with Daemon() as daemon:
        made = daemon.call(lambda client: client.transfer(source, directory, os.environ))
    if as_json:
        terminal.write([msgspec.json.encode(made) + b"\n"])
        return 0
    terminal.write_line(made.thread_id)
    terminal.tell(
        f"Go on with it: holdfast run codex --resume {made.thread_id} ...  (or: codex resume {made.thread_id})"
    )
    return 0


def _newest(directory: str) -> Path:
    """The newest transcript of *directory*; Claude Code names the folder by the path, with '-' for what is no letter
    or digit (measured on 2.1.329)."""
    home = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
    folder = home / "projects" / re.sub(r"[^A-Za-z0-9]", "-", os.path.realpath(directory))
    found = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(
            f"There is no conversation of Claude Code about {directory}.",
            hint=f"Name its transcript; they lie in {home / 'projects'}.",
        )
    return found[-1]
