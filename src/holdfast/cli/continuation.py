"""What ``resume`` and ``fork`` have in common: a new task that begins where an earlier one is."""

from __future__ import annotations

from typing import Any, Literal, cast

import click

from holdfast.cli import completion_values, result_output
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.output_options import judgement_options, output_options
from holdfast.cli.run import Shown, carry_out
from holdfast.cli.task_options import Options, work_options


def continuation(verb: Literal["resume", "fork"], *, help: str) -> click.Command:
    """The command that is ``run`` with the agent and the directory of an earlier task, and its thread by *verb*."""

    @click.command(verb, help=help)
    @click.argument("earlier", metavar="ID", shell_complete=completion_values.tasks)
    @work_options
    @judgement_options
    @output_options
    def command(
        *,
        earlier: str,
        output_format: str | None,
        as_json: bool,
        quiet: bool,
        progress: str,
        fail_on_reject: bool,
        **given: Any,
    ) -> int:
        result_output.choose(output_format, as_json=as_json)
        shown = Shown(output_format=output_format, as_json=as_json, quiet=quiet, progress=progress)
        with Daemon() as daemon:
            task = daemon.call(lambda client: client.task(earlier))
            thread = {"resume": None, "fork": None, "fresh": False, verb: task.id}
            options = {**given, **thread, "agent": task.agent, "cwd": given["cwd"] or task.cwd}
            return carry_out(daemon, cast("Options", options), shown, fail_on_reject=fail_on_reject)

    return command
