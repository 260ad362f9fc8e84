"""``holdfast run``: hand over a task, stay with it, print its answer."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import TypedDict, Unpack

import click

from holdfast.api.follow import Follower
from holdfast.cli import progress_display, result_output, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.interrupts import Interrupts
from holdfast.cli.output_options import judgement_options, output_options
from holdfast.cli.progress_display import Display
from holdfast.cli.result_output import Format
from holdfast.cli.task_options import Options, Order, order, task_options
from holdfast.daemon.client import DaemonClient
from holdfast.errors import HoldfastError

#: Seconds for the one last try to have a task cancelled when its caller leaves.
_LAST_TRY = 2.0


@click.command()
@task_options
@judgement_options
@output_options
def run(
    *,
    output_format: str | None,
    as_json: bool,
    quiet: bool,
    progress: str,
    fail_on_reject: bool,
    **options: Unpack[Options],
) -> int:
    """Give AGENT the piece of work PROMPT, wait for it, and print the answer and nothing else on standard output.

    PROMPT is one argument, '-' or a pipe for standard input, or --prompt-file; it reaches the agent byte for byte.
    Put a prompt that begins with '-' behind '--'.

    The exit status says how it ended: 0 completed, 1 failed, 2 refused, 3 partial, 4 no answer or no verdict, 5 not
    approved (--fail-on-reject), 124 time limit, 125 outcome not known, 127 agent missing, 130 cancelled.

    Ctrl-C cancels the task and waits for its result; a second Ctrl-C leaves at once.  If this command is ended in any
    other way the task goes on: pick it up with 'holdfast wait ID'.
    """
    result_output.choose(output_format, as_json=as_json)
    shown = Shown(output_format=output_format, as_json=as_json, quiet=quiet, progress=progress)
    with Daemon() as daemon:
        return carry_out(daemon, options, shown, fail_on_reject=fail_on_reject)


class Shown(TypedDict):
    """How the person wants to see it."""

    output_format: str | None
    as_json: bool
    quiet: bool
    progress: str


def carry_out(daemon: Daemon, options: Options, shown: Shown, *, fail_on_reject: bool) -> int:
    """Place a task as *options* have it, stay with it, and show its result; the exit status."""
    # Whoever would act on a verdict must not take silence for one.
    options["verdict"] = options["verdict"] or fail_on_reject
    placed = order(**options)
    wanted = result_output.choose(
        shown["output_format"], as_json=shown["as_json"], output_file=placed.request.output_file
    )
    if not attend(daemon, placed, wanted, progress=shown["progress"], quiet=shown["quiet"]):
        return terminal.INTERRUPTED_EXIT
    return result_output.show(
        daemon,
        placed.request.task_id,
        wanted,
        quiet=shown["quiet"],
        append_marker=options["append_marker"],
        fail_on_reject=fail_on_reject,
    )


def attend(daemon: Daemon, placed: Order, wanted: Format, *, progress: str, quiet: bool) -> bool:
    """Hand over a task and show its progress until it is finished; ``False`` when the person left before that."""
    display = (
        progress_display.JsonLines()
        if wanted is Format.JSONL
        else progress_display.choose(progress, placed.request.agent, quiet=quiet)
    )
    _explain_sigterm(placed.request.task_id)
    try:
        return not _Attendance(daemon, placed, display).stay()
    finally:
        display.close()


class _Attendance:
    """One task from handing it over to its end, with what Ctrl-C does on the way."""

    def __init__(self, daemon: Daemon, placed: Order, display: Display) -> None:
        self._daemon = daemon
        self._order = placed
        self._display = display
        self._task_id = placed.request.task_id
        self._sent = False
        self._accepted = False
        self._cancelled = False

    def stay(self) -> bool:
        """Stay until the task is finished, or (true) until the person insists on leaving."""
        follower = Follower(self._daemon, self._task_id)
        with Interrupts() as interrupts:
            while True:
                try:
                    with interrupts.allowed():
                        self._take_care(cancel=interrupts.count > 0)
                        for progress in follower.lines():
                            self._display.show(progress)
                    return False
                except KeyboardInterrupt:
                    pass
                if interrupts.count > 1 or not self._sent:
                    self._leave()
                    return True
                self._display.note(f"Cancelling task {self._task_id}; press Ctrl-C again to leave at once.")

    def _take_care(self, *, cancel: bool) -> None:
        if not self._accepted:
            # After an interrupted first try too: only an accepted task can be cancelled for certain.
            self._daemon.call(self._send)
            self._accepted = True
        if cancel and not self._cancelled:
            self._daemon.call(lambda client: client.cancel(self._task_id))
            self._cancelled = True

    def _send(self, client: DaemonClient) -> None:
        self._sent = True
        client.create(self._order.request, self._order.prompt, self._order.environment)

    def _leave(self) -> None:
        self._display.close()
        if not self._sent:
            terminal.tell("Interrupted before anything was started.")
            return
        if not self._cancelled:
            self._cancelled = self._last_try()
        if self._cancelled:
            terminal.tell(f"Left.  Task {self._task_id} is being ended; see: holdfast status {self._task_id}")
        else:
            terminal.tell(f"Left.  Task {self._task_id} may go on; end it with: holdfast cancel {self._task_id}")

    def _last_try(self) -> bool:
        try:
            self._daemon.client.cancel(self._task_id, timeout=_LAST_TRY)
        except HoldfastError:
            return False
        return True


def _explain_sigterm(task_id: str) -> None:
    """Say, when this command is ended from outside, that its task is not."""

    farewell = f"Ended by SIGTERM.  Task {task_id} goes on; pick it up with: holdfast wait {task_id}\n".encode()

    def end(number: int, frame: FrameType | None) -> None:
        # Not through sys.stderr: the signal may have come in the middle of a write to it.
        with contextlib.suppress(OSError):
            os.write(2, farewell)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
