"""``holdfast review``: have a change reviewed, by any agent, with findings in one form."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final, cast

import click
import msgspec

from holdfast.agents.adapter import Drive
from holdfast.agents.catalogue import find_agent
from holdfast.api.answer import answer_bytes
from holdfast.cli import completion_values, prompt, result_output, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.output_options import output_options
from holdfast.cli.result_output import Format
from holdfast.cli.run import attend
from holdfast.cli.task_options import Options, Order, order, task_options
from holdfast.daemon.client import DaemonClient
from holdfast.drivers.choice import through
from holdfast.tasks.review import plan, rendering
from holdfast.tasks.review.targets import Choice

#: The options of a task that a review has, too; it never writes, and has a thread of its own.
_SHARED: Final = (
    *("cwd", "model", "effort", "timeout", "idle_timeout", "start_timeout", "max_tool_uses", "retries", "label"),
    *("output_file", "overwrite", "allow_output_root", "env", "task_id", "drive", "ephemeral", "thread_name"),
    *("slot_wait", "notify_command", "notify_url", "notify_desktop", "no_notify"),
)


@click.command()
@click.argument("agent", default="codex", shell_complete=completion_values.agents)
@click.argument("focus", metavar="[FOCUS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--uncommitted", is_flag=True, help="Review what is not committed: staged, unstaged and untracked.")
@click.option("--base", metavar="REF", help="Review what the current branch has that REF does not.")
@click.option("--commit", metavar="SHA", help="Review one commit.")
@click.option(
    "--pr",
    "pull_request",
    metavar="REF",
    help="Review a pull request (number, address of its page, or ref of the remote) without checking it out.",
)
@click.option("--remote", metavar="NAME", help="With --pr: the remote that has it.  [default: origin]")
@click.option("--custom", is_flag=True, help="Review what FOCUS says, whatever it is.")
@click.option("--adversarial", is_flag=True, help="Look for the strongest reasons against releasing the change.")
@click.option(
    "--native/--prompted",
    default=None,
    help="Use the agent's own reviewer, or a prompt of Holdfast's.  [default: its own where it has one and it will do]",
)
@click.option("--prompt-file", metavar="FILE", help="Read FOCUS from FILE, '-' for standard input.")
@click.option("--fail-on-reject", is_flag=True, help="Exit with status 5 unless the review approves.")
@click.option("--start", is_flag=True, help="Do not wait: print the task's id (with --json the task).")
@click.option(
    "--show", metavar="ID", shell_complete=completion_values.tasks, help="Print a finished review again; runs nothing."
)
@output_options
def review(
    *,
    agent: str,
    focus: tuple[str, ...],
    uncommitted: bool,
    base: str | None,
    commit: str | None,
    pull_request: str | None,
    remote: str | None,
    custom: bool,
    adversarial: bool,
    native: bool | None,
    prompt_file: str | None,
    fail_on_reject: bool,
    start: bool,
    show: str | None,
    output_format: str | None,
    as_json: bool,
    quiet: bool,
    progress: str,
    **options: Any,
) -> int:
    """Have AGENT (codex) review a change, wait for it, and print verdict and findings.

    Without a target it is what is not committed, or if there is nothing, what the branch has that the main branch does
    not.  FOCUS says what to weigh above all: one argument, '-' for standard input, or --prompt-file.

    The exit status is that of 'holdfast run', 4 for an answer that is no review, 2 if there is nothing to review, and
    with --fail-on-reject 5 unless the review approves.
    """
    wanted = result_output.choose(output_format, as_json=as_json, output_file=options["output_file"])
    if show is not None:
        with Daemon() as daemon:
            return print_review(daemon, show, wanted, quiet=quiet, fail_on_reject=fail_on_reject)
    choice = Choice(
        uncommitted=uncommitted, base=base, commit=commit, pull_request=pull_request, custom=custom, remote=remote
    )
    # Standard input is read on request only: most reviews have no focus, and many callers leave it open.
    words = os.fsdecode(prompt.read(focus, prompt_file)) if focus or prompt_file is not None else ""
    made = plan.make(
        through(find_agent(agent), None if options["drive"] is None else Drive(options["drive"])),
        Path(options["cwd"] or os.getcwd()).absolute(),
        choice,
        words,
        adversarial=adversarial,
        native=native,
        needs_verdict=fail_on_reject,
    )
    placed = _order(agent, made, options)
    with Daemon() as daemon:
        if start:
            view = daemon.call(lambda client: client.create(placed.request, placed.prompt, placed.environment))
            terminal.write_line(msgspec.json.encode(view).decode() if as_json else view.id, hint=terminal.STORED)
            return 0
        if not quiet and terminal.is_terminal(sys.stderr):
            terminal.tell(terminal.printable(f"Review of {made.summary}."))
        if not attend(daemon, placed, wanted, progress=progress, quiet=quiet):
            return terminal.INTERRUPTED_EXIT
        return print_review(daemon, placed.request.task_id, wanted, quiet=quiet, fail_on_reject=fail_on_reject)


#: Everything that ``run`` takes.
_PARAMETERS: Final = click.command()(task_options(lambda: None)).params
review.params.extend(parameter for parameter in _PARAMETERS if parameter.name in _SHARED)


def _order(agent: str, made: plan.Plan, options: dict[str, Any]) -> Order:
    every = {str(parameter.name): _absent(parameter) for parameter in _PARAMETERS} | options
    every |= {"agent": agent, "prompt": (made.prompt,), "cwd": str(made.cwd), "label": options["label"] or made.label}
    placed = order(**cast("Options", every))
    request = msgspec.structs.replace(
        placed.request, review=made.review, output_schema=made.output_schema, tags={**placed.request.tags, **made.tags}
    )
    return msgspec.structs.replace(placed, request=request)


def _absent(parameter: click.Parameter) -> Any:
    """What an option is when it is not given."""
    if parameter.multiple or parameter.nargs == -1:
        return ()
    return False if isinstance(parameter, click.Option) and parameter.is_flag else None


def print_review(daemon: Daemon, task_id: str, wanted: Format, *, quiet: bool, fail_on_reject: bool) -> int:
    """Print a finished review, and return the exit status that says the same.

    :raises NotAReview: the task is none
    :raises NotFinished: it has no result yet
    """
    view = daemon.call(lambda client: client.task(task_id))
    tag = rendering.tag_of(view)
    result = DaemonClient.decode_result(daemon.call(lambda client: client.result_document(view.id)))
    message = b"".join(answer_bytes(daemon, result))
    found = rendering.review_of(result, tag, message)
    if wanted in (Format.JSON, Format.JSONL):
        terminal.write_line(msgspec.json.encode(found).decode(), hint=terminal.STORED)
    elif wanted in (Format.RECEIPT, Format.RECEIPT_EXTENDED):
        lines = result_output.receipt(result, extended=wanted is Format.RECEIPT_EXTENDED)
        terminal.write_line("\n".join(lines), hint=terminal.STORED)
    else:
        terminal.write([rendering.render(found).encode()], hint=terminal.STORED)
    if wanted not in (Format.JSON, Format.JSONL):
        _explain(found, result_was_ok=result.ok)
        result_output.explain(result, quiet=quiet)
    return rendering.exit_code(found, fail_on_reject=fail_on_reject)


def _explain(found: rendering.Review, *, result_was_ok: bool) -> None:
    if found.schema_unmet is not None and result_was_ok:
        style = terminal.Style(sys.stderr)
        problem = terminal.printable(found.schema_unmet)
        terminal.tell(
            f"{style('red', 'error:')} The answer is not a review in the form that was asked for: {problem} "
            "(schema_unmet)\n"
            f"{style('bold', 'hint:')} Read it as it is, or review again with another model or agent."
        )
