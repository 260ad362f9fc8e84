"""Where ``holdfast`` begins: what must be quick goes its own way, before the command line is even imported."""

from __future__ import annotations

import os
import sys

# Not from typing, which takes longer than what is quick.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


#: Exit status of a command that Ctrl-C ended.
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line of this process and leave."""
    try:
        _run()
    except KeyboardInterrupt:
        # Also before there is a command that could say something: what it needs takes its time to be imported.
        sys.exit(_INTERRUPTED)


def _run() -> NoReturn:
    # Claude Code's hooks and commands call it many times a session; click alone would take as long as its whole work.
    if sys.argv[1:2] == ["companion"] and "_HOLDFAST_COMPLETE" not in os.environ:
        from holdfast.companion.main import run

        _leave(run(sys.argv[2:]))
    # What is imported before the process host begins stays in memory for as long as it runs.
    if sys.argv[1:2] == ["exec-server"] and "_HOLDFAST_COMPLETE" not in os.environ:
        from holdfast.host.entry import main as run_host

        sys.exit(run_host(sys.argv[2:]))
    from holdfast.cli.main import main as run_command_line

    run_command_line()


def _leave(status: int) -> NoReturn:
    """End the process at once; taking the interpreter apart would take longer than most commands of the companion."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Closed, or nobody reads it any more.
            pass
    os._exit(status)
