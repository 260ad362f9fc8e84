"""The options that ``run`` and ``start`` share, and the request that they amount to.

None of them has a one-letter form: a prompt that happens to begin with ``-m`` must not choose a model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar, Unpack

import click
import msgspec

from holdfast.agents.adapter import Sandbox
from holdfast.cli import completion_values, duration, prompt, terminal
from holdfast.cli.error_report import UsageError
from holdfast.tasks.request import Limits, TaskRequest, new_task_id, validate

_VARIABLE: Final = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]*")

_LIMITS: Final = Limits()

_F = TypeVar("_F", bound=Callable[..., Any])


class Options(TypedDict):
    """What the options of a task parse to."""

    agent: str
    prompt: tuple[str, ...]
    prompt_file: str | None
    write: bool
    sandbox: str | None
    cwd: str | None
    add_dir: tuple[str, ...]
    model: str | None
    effort: str | None
    resume: str | None
    fresh: bool
    timeout: float | None
    idle_timeout: float | None
    start_timeout: float | None
    max_tool_uses: int | None
    retries: int | None
    label: str | None
    output_file: str | None
    overwrite: bool
    allow_output_root: tuple[str, ...]
    env: tuple[str, ...]
    task_id: str | None


def _words(seconds: float | None) -> str:
    return "none" if seconds is None else duration.words(seconds)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a task is created from."""

    request: TaskRequest
    prompt: bytes
    environment: dict[str, str]


_DECORATORS: Final = [
    click.argument("agent", shell_complete=completion_values.agents),
    click.argument("prompt", metavar="[PROMPT]", nargs=-1, type=click.UNPROCESSED),
    click.option("--prompt-file", metavar="FILE", help="Read the prompt from FILE, '-' for standard input."),
    click.option("--write", is_flag=True, help="Let the agent change files: --sandbox workspace-write."),
    click.option(
        "--sandbox",
        type=click.Choice([str(sandbox) for sandbox in Sandbox]),
        help="What the agent may touch.  [default: read-only]",
    ),
    click.option("--cwd", metavar="DIR", help="Directory to work in.  [default: the current one]"),
    click.option("--add-dir", metavar="DIR", multiple=True, help="A further directory it may write to; repeatable."),
    click.option("--model", metavar="NAME", help="The model, as the agent calls it."),
    click.option("--effort", metavar="LEVEL", help="The reasoning effort, as the agent calls it."),
    click.option(
        "--resume",
        metavar="ID",
        shell_complete=completion_values.tasks,
        help="Go on with the thread of an earlier task, or with a thread of the agent's own.",
    ),
    click.option("--fresh", is_flag=True, help="Start a thread of its own (this is what happens anyway)."),
    click.option(
        "--timeout",
        metavar="DURATION",
        callback=duration.option,
        help=f"End it after this long, as timeout.  90, 90s, 10m, 1h30m or none.  [default: {_words(_LIMITS.total_s)}]",
    ),
    click.option(
        "--idle-timeout",
        metavar="DURATION",
        callback=duration.option,
        help=f"End it after this long without a sign of progress.  [default: {_words(_LIMITS.idle_s)}]",
    ),
    click.option(
        "--start-timeout",
        metavar="DURATION",
        callback=duration.option,
        help=f"End it if it reports nothing for this long after its start.  [default: {_words(_LIMITS.start_s)}]",
    ),
    click.option("--max-tool-uses", metavar="N", type=int, help="Stop it, as partial, after N tool uses."),
    click.option(
        "--retries", metavar="N", type=int, help="Try again, up to N times, what provably did nothing.  [default: 0]"
    ),
    click.option("--label", metavar="TEXT", help="A name for people; shown by list and status."),
    click.option("--output-file", metavar="FILE", help="Publish the answer as FILE: whole, or not at all."),
    click.option("--overwrite", is_flag=True, help="Let --output-file replace a regular file of yours."),
    click.option(
        "--allow-output-root",
        metavar="DIR",
        multiple=True,
        help="Let --output-file lie below DIR, beside --cwd and the temporary directory; repeatable.",
    ),
    click.option(
        "--env",
        metavar="NAME[=VALUE]",
        multiple=True,
        help="Pass a variable that looks secret and is withheld otherwise, or set one; * fits many; repeatable.",
    ),
    click.option("--task-id", metavar="ID", help="Choose the id: sending the same task twice runs it once."),
]


def task_options(function: _F) -> _F:
    """Add the arguments and options of a task to a command."""
    for decorator in reversed(_DECORATORS):
        function = decorator(function)
    return function


def order(**options: Unpack[Options]) -> Order:
    """Check everything that can be checked here, before anything is started, and make the request.

    :raises InvalidRequest: one sentence and a hint
    """
    if options["fresh"] and options["resume"] is not None:
        raise UsageError("--fresh and --resume contradict each other.", hint="Leave one of them out.")
    request = TaskRequest(
        task_id=options["task_id"] or new_task_id(),
        agent=options["agent"],
        cwd=_directory(options["cwd"] or _current_directory(), "--cwd"),
        label=options["label"],
        sandbox=_sandbox(options["write"], options["sandbox"]),
        model=options["model"],
        effort=options["effort"],
        resume=options["resume"],
        add_dirs=[_directory(path, "--add-dir") for path in options["add_dir"]],
        limits=Limits(
            total_s=_limit(options["timeout"], _LIMITS.total_s),
            idle_s=_limit(options["idle_timeout"], _LIMITS.idle_s),
            start_s=_limit(options["start_timeout"], _LIMITS.start_s),
            max_tool_uses=options["max_tool_uses"],
        ),
        retries=options["retries"] or 0,
        output_file=_output_file(options["output_file"], overwrite=options["overwrite"]),
        overwrite=options["overwrite"],
        output_roots=[_directory(path, "--allow-output-root") for path in options["allow_output_root"]],
        pass_env=[entry.partition("=")[0] for entry in options["env"]],
    )
    validate(request)
    environment = _environment(options["env"])
    return Order(
        request=request, prompt=prompt.read(options["prompt"], options["prompt_file"]), environment=environment
    )


def _sandbox(write: bool, name: str | None) -> Sandbox:
    if not write:
        return Sandbox(name or Sandbox.READ_ONLY)
    if name is not None and name != Sandbox.WORKSPACE_WRITE:
        raise UsageError(f"--write and --sandbox {name} contradict each other.", hint="Leave one of them out.")
    return Sandbox.WORKSPACE_WRITE


def _limit(given: float | None, default: float | None) -> float | None:
    return default if given is None else duration.limit(given)


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "The current directory no longer exists.", hint="Change to another one, or give --cwd."
        ) from None


def _directory(path: str, option: str) -> str:
    absolute = _absolute(path, option)
    if not os.path.isdir(absolute):
        problem = "is not a directory" if os.path.lexists(absolute) else "does not exist"
        raise UsageError(f"The directory {absolute} {problem}.", hint=f"Check {option}{_tilde(path)}.")
    return absolute


def _output_file(path: str | None, *, overwrite: bool) -> str | None:
    """Refuse early what would be refused anyway; the daemon decides, and reserves the name before it starts."""
    if path is None:
        return None
    absolute = _absolute(path, "--output-file")
    parent = Path(absolute).parent
    if not parent.is_dir():
        raise UsageError(
            f"The directory {parent} does not exist.", hint=f"Make it, or check --output-file{_tilde(path)}."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"You may not write to {parent}.", hint="Give --output-file another directory.")
    if os.path.islink(absolute) or (os.path.lexists(absolute) and not os.path.isfile(absolute)):
        raise UsageError(f"{absolute} is not a regular file.", hint="Give --output-file another name.")
    if not overwrite and os.path.lexists(absolute):
        raise UsageError(f"{absolute} exists already.", hint="Give another name, or --overwrite.")
    return absolute


def _absolute(path: str, option: str) -> str:
    if not path or "\0" in path or path.encode("utf-8", "replace").decode() != path:
        raise UsageError(f"{path!r} cannot be a path.", hint=f"Give {option} a path in UTF-8.")
    return os.path.abspath(path)


def _tilde(path: str) -> str:
    return "; '~' means your home only where the shell sees it unquoted" if path.startswith("~") else ""


def _environment(entries: tuple[str, ...]) -> dict[str, str]:
    environment = dict(os.environ)
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not _VARIABLE.fullmatch(name) or (separator and "*" in name):
            raise UsageError(
                f"{name!r} cannot be a variable.", hint="Write --env NAME, --env 'PREFIX_*' or --env NAME=VALUE."
            )
        if separator:
            environment[name] = value
        elif "*" not in name and name not in environment:
            raise UsageError(f"The variable {name} is not set.", hint="Set it, or write --env NAME=VALUE.")
    unreadable = sorted(name for name, value in environment.items() if not _is_utf8(name + value))
    for name in unreadable:
        del environment[name]
    if unreadable:
        names = terminal.printable(", ".join(name.encode("utf-8", "backslashreplace").decode() for name in unreadable))
        terminal.tell(f"notice: variables that are not UTF-8 are not passed on: {names}")
    return environment


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
