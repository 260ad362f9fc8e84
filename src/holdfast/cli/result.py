"""``holdfast result``: what a finished task left."""

from __future__ import annotations

from typing import Any, cast

import click
import msgspec

from holdfast.api.answer import answer_bytes
from holdfast.cli import completion_values, result_output, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.cli.output_options import format_options, judgement_options, marker_options

#: The field that is not a part of the document but the answer itself.
_ANSWER = "message"


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completion_values.tasks)
@click.option(
    "--field",
    metavar="NAME",
    help="Print one field of the result: 'message' for the answer itself, else a path such as usage.output_tokens.",
)
@click.option("--offset", metavar="BYTES", type=click.IntRange(min=0), help="With --field message: begin here.")
@click.option("--limit", metavar="BYTES", type=click.IntRange(min=0), help="With --field message: at most this many.")
@click.option("--quiet", is_flag=True, help="Nothing on standard error but failures.")
@marker_options
@judgement_options
@format_options
def result(
    *,
    task_id: str,
    field: str | None,
    offset: int | None,
    limit: int | None,
    quiet: bool,
    output_format: str | None,
    as_json: bool,
    fail_on_reject: bool,
    append_marker: bool,
) -> int:
    """Print the answer (or with --json the result document) of a finished task, as often as you like.

    The exit status is that of the task, or 75 while it is still running.  With --field it is 0 when the field could
    be printed.
    """
    if field is None and (offset is not None or limit is not None):
        field = _ANSWER
    if field != _ANSWER and (offset is not None or limit is not None):
        raise UsageError("--offset and --limit are about the answer.", hint="Use them with --field message.")
    if field is not None and (as_json or output_format is not None):
        raise UsageError("--field prints one field and nothing else.", hint="Leave --json and --format out.")
    with Daemon() as daemon:
        if field is None:
            wanted = result_output.choose(output_format, as_json=as_json)
            return result_output.show(
                daemon, task_id, wanted, quiet=quiet, append_marker=append_marker, fail_on_reject=fail_on_reject
            )
        if field == _ANSWER:
            finished = daemon.call(lambda client: client.result(task_id))
            terminal.write(answer_bytes(daemon, finished, offset=offset or 0, limit=limit), hint=terminal.STORED)
        else:
            document = daemon.call(lambda client: client.result_document(task_id))
            terminal.write_line(_render(_pick(msgspec.json.decode(document), field)), hint=terminal.STORED)
    return 0


def _pick(document: Any, path: str) -> Any:
    value = document
    for name in path.split("."):
        members = _members(value)
        if name not in members:
            names = ", ".join(members) or "none"
            raise UsageError(f"The result has no field {path!r}.", hint=f"Where {name!r} stands there are: {names}.")
        value = members[name]
    return value


def _members(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    if isinstance(value, list):
        return {str(index): member for index, member in enumerate(cast("list[Any]", value))}
    return {}


def _render(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()
