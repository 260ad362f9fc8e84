"""``holdfast down``: stop the daemon."""

from __future__ import annotations

import os
import select
import time

import click

from holdfast.cli import terminal
from holdfast.clock import monotonic
from holdfast.directories import state_directory
from holdfast.errors import Unavailable

#: Seconds for a daemon to end after it said that it would, even if its host does not answer.
_PATIENCE = 60.0


class StillThere(Unavailable):
    """The daemon said that it would end and did not."""

    code = "daemon_still_there"


@click.command()
@click.option("--cancel", is_flag=True, help="End every active task first; otherwise they go on without the daemon.")
def down(*, cancel: bool) -> int:
    """Stop the daemon and return when it is gone.

    Running tasks go on in their host; the next command that needs the daemon starts one, which takes them up again.
    """
    from holdfast.daemon.lifecycle import connect_existing

    client = connect_existing(state_directory())
    if client is None:
        terminal.write_line("No daemon is running.")
        return 0
    pid = client.status().pid
    process = _open_process(pid)
    try:
        answer = client.shutdown(cancel=cancel)
        if not _wait_for_end(process, pid):
            raise StillThere(f"The daemon (process {pid}) has not ended.", hint=f"Look at it, or end it: kill {pid}")
    finally:
        if process is not None:
            os.close(process)
    if answer.host_error is not None:
        from holdfast.host.port import HostUnavailable

        raise HostUnavailable(
            f"The daemon is stopped, but what still runs in its host is not known: {answer.host_error.message}",
            hint=answer.host_error.hint,
        )
    running = (
        f"  {answer.active} task{'s' * (answer.active != 1)} go{'es' * (answer.active == 1)} on."
        if answer.active
        else ""
    )
    terminal.write_line(f"The daemon is stopped.{running}")
    return 0


def _open_process(pid: int) -> int | None:
    """A handle that tells when the process is gone, where the system has such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _wait_for_end(process: int | None, pid: int) -> bool:
    if process is not None:
        return bool(select.select([process], [], [], _PATIENCE)[0])
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
