"""The options that ``run`` and ``start`` share, and the request that they amount to.

None of them has a one-letter form: a prompt that happens to begin with ``-m`` must not choose a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypedDict, TypeVar, Unpack

import click
import msgspec

from holdfast.agents.adapter import Approvals, Drive, Sandbox
from holdfast.api.order import Order, WorkOptions, describe, with_output_marker
from holdfast.cli import completion_values, duration, prompt, terminal
from holdfast.cli.error_report import UsageError
from holdfast.tasks.request import Limits, Notification, VerdictRule

#: How an option of a piece of work is written here.
_SPELLINGS: Final = {
    "cwd": "--cwd",
    "write": "--write",
    "sandbox": "--sandbox",
    "add_dirs": "--add-dir",
    "output_file": "--output-file",
    "overwrite": "--overwrite",
    "output_roots": "--allow-output-root",
    "env": "--env NAME=VALUE",
    "drive": "--drive",
    "approvals": "--approvals",
    "worktree": "--worktree",
    "worktree_dir": "--worktree-dir",
    "pass_env": "--env NAME or --env 'PREFIX_*'",
}

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
    soft_tool_uses: int | None
    max_tool_uses: int | None
    retries: int | None
    label: str | None
    output_file: str | None
    overwrite: bool
    allow_output_root: tuple[str, ...]
    env: tuple[str, ...]
    task_id: str | None
    slot_wait: float | None
    notify_command: tuple[str, ...]
    notify_url: tuple[str, ...]
    notify_desktop: bool
    no_notify: bool
    worktree: bool
    worktree_name: str | None
    worktree_dir: str | None
    drive: str | None
    fork: str | None
    approvals: str | None
    queue: bool
    network: bool
    verdict: bool
    verdict_pattern: str | None
    approve: tuple[str, ...]
    output_schema: str | None
    append_marker: bool
    output_marker: bool
    ephemeral: bool
    thread_name: str | None


def _words(seconds: float | None) -> str:
    return "none" if seconds is None else duration.words(seconds)


#: Who does it, and from where on.
_BEGINNING: Final = [
    click.argument("agent", shell_complete=completion_values.agents),
    click.option(
        "--resume",
        metavar="ID",
        shell_complete=completion_values.tasks,
        help="Go on with the thread of an earlier task, or with a thread of the agent's own.",
    ),
    click.option(
        "--fork",
        metavar="ID",
        shell_complete=completion_values.tasks,
        help="Begin with a copy of the thread of an earlier task; that thread stays as it is.",
    ),
    click.option("--fresh", is_flag=True, help="Start a thread of its own (this is what happens anyway)."),
]

#: Everything else about a task.
_WORK: Final = [
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
    click.option("--queue", is_flag=True, help="With --resume: wait for a task that is still at work in the thread."),
    click.option("--network", is_flag=True, help="With --write: let its commands reach the network."),
    click.option(
        "--approvals",
        type=click.Choice([str(policy) for policy in Approvals]),
        help="Who answers when it asks for more than it may: nobody (decline), you (ask, see 'holdfast approve'), or "
        "everything is allowed (accept).  [default: decline]",
    ),
    click.option(
        "--drive",
        type=click.Choice([str(drive) for drive in Drive]),
        help="How to converse with the agent.  [default: the best way that it knows]",
    ),
    click.option("--ephemeral", is_flag=True, help="Leave no thread behind in the agent's own records."),
    click.option("--thread-name", metavar="TEXT", help="What the agent shall call the thread in its own lists."),
    click.option("--model", metavar="NAME", help="The model, as the agent calls it."),
    click.option("--effort", metavar="LEVEL", help="The reasoning effort, as the agent calls it."),
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
    click.option("--soft-tool-uses", metavar="N", type=int, help="Tell it to come to an end after N tool uses."),
    click.option("--max-tool-uses", metavar="N", type=int, help="Stop it, as partial, after N tool uses."),
    click.option(
        "--retries", metavar="N", type=int, help="Try again, up to N times, what provably did nothing.  [default: 0]"
    ),
    click.option("--verdict", is_flag=True, help="Require a verdict, such as PASS or NEEDS_FIX on a line of its own."),
    click.option(
        "--verdict-pattern",
        metavar="REGEX",
        help="Require a line that REGEX matches as a whole; its group 'verdict' is the verdict.",
    ),
    click.option(
        "--approve",
        metavar="WORD",
        multiple=True,
        help="Require a verdict, of which only WORD approves; repeatable.  [default: PASS, APPROVE, ALLOW, DONE]",
    ),
    click.option(
        "--output-schema",
        metavar="FILE|JSON",
        help="Require an answer in JSON that fits this JSON Schema (of an object).",
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
        "--output-marker",
        is_flag=True,
        help="Take the output file from the line '[output-file: /absolute/path]' of the prompt, if it has one.",
    ),
    click.option(
        "--append-marker",
        is_flag=True,
        help="End the text or the output file with PATCH_APPLIED or FINDINGS_ONLY on a line of its own.",
    ),
    click.option(
        "--env",
        metavar="NAME[=VALUE]",
        multiple=True,
        help="Pass a variable that looks secret and is withheld otherwise, or set one; * fits many; repeatable.",
    ),
    click.option(
        "--slot-wait",
        metavar="DURATION",
        callback=duration.option,
        help="Give it up, as unavailable, if it may not begin by then.  [default: none]",
    ),
    click.option(
        "--notify-command",
        metavar="COMMAND",
        multiple=True,
        help="Run COMMAND (a program, or a JSON array of it and its arguments) with a digest of the result on its "
        "standard input when the task is finished; repeatable.",
    ),
    click.option("--notify-url", metavar="URL", multiple=True, help="POST the digest to URL; repeatable."),
    click.option("--notify-desktop", is_flag=True, help="Show on the desktop that the task is finished."),
    click.option("--no-notify", is_flag=True, help="Tell nobody, whatever the configuration says."),
    click.option("--worktree", is_flag=True, help="Work in a git worktree of its own, on a branch of its own."),
    click.option("--worktree-name", metavar="NAME", help="The same, and call it and its branch NAME."),
    click.option(
        "--worktree-dir", metavar="DIR", help="Make the worktree in DIR.  [default: below the state directory]"
    ),
    click.option("--task-id", metavar="ID", help="Choose the id: sending the same task twice runs it once."),
]


def task_options(function: _F) -> _F:
    """Add the arguments and options of a task to a command."""
    # The first argument of a function is the outermost of its decorators.
    function = work_options(function)
    for decorator in reversed(_BEGINNING):
        function = decorator(function)
    return function


def work_options(function: _F) -> _F:
    """The same without agent and thread, for a command that knows both."""
    for decorator in reversed(_WORK):
        function = decorator(function)
    return function


def order(**options: Unpack[Options]) -> Order:
    """Check everything that can be checked here, before anything is started, and make the request.

    :raises InvalidRequest: one sentence and a hint
    """
    if options["fresh"] and options["resume"] is not None:
        raise UsageError("--fresh and --resume contradict each other.", hint="Leave one of them out.")
    if options["fork"] is not None and (options["fresh"] or options["resume"] is not None):
        raise UsageError("--fork contradicts --fresh and --resume.", hint="Give only one of them.")
    variables, pass_env = _variables(options["env"])
    work: WorkOptions = {
        "cwd": options["cwd"],
        "write": options["write"],
        "sandbox": options["sandbox"],
        "add_dirs": options["add_dir"],
        "model": options["model"],
        "effort": options["effort"],
        "resume": options["resume"],
        "soft_tool_uses": options["soft_tool_uses"],
        "max_tool_uses": options["max_tool_uses"],
        "retries": options["retries"] or 0,
        "label": options["label"],
        "output_file": options["output_file"],
        "overwrite": options["overwrite"],
        "output_roots": options["allow_output_root"],
        "env": variables,
        "pass_env": pass_env,
        "task_id": options["task_id"],
        "notify": _notifications(options),
        "worktree": options["worktree_name"] or options["worktree"],
        "worktree_dir": options["worktree_dir"],
        "drive": options["drive"],
        "fork": options["fork"],
        "queue": options["queue"],
        "network": options["network"],
        "ephemeral": options["ephemeral"],
        "thread_name": options["thread_name"],
        "verdict": _verdict(options),
        "output_schema": None if options["output_schema"] is None else _schema(options["output_schema"]),
        "append_marker": options["append_marker"],
        "output_marker": options["output_marker"],
    }
    if options["approvals"] is not None:
        work["approvals"] = options["approvals"]
    for name in ("timeout", "idle_timeout", "start_timeout", "slot_wait"):
        seconds = options[name]
        if seconds is not None:
            work[name] = duration.limit(seconds)
    words: bytes | None = None
    if options["output_marker"]:
        words = prompt.read(options["prompt"], options["prompt_file"])
        work = with_output_marker(work, words)
    request, environment, unreadable = describe(options["agent"], work, spell=_SPELLINGS.__getitem__)
    if unreadable:
        names = terminal.printable(", ".join(unreadable))
        terminal.tell(f"notice: variables that are not UTF-8 are not passed on: {names}")
    if words is None:
        words = prompt.read(options["prompt"], options["prompt_file"])
    return Order(request=request, prompt=words, environment=environment)


def _verdict(options: Options) -> bool | VerdictRule:
    pattern, words = options["verdict_pattern"], list(options["approve"])
    return VerdictRule(pattern=pattern, approve=words) if pattern is not None or words else options["verdict"]


def _schema(text: str) -> str | bytes:
    """A schema given as JSON, or the content of the file that has it."""
    if text.lstrip().startswith("{"):
        return text
    try:
        with open(text, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise UsageError(
            f"The schema file {text!r} cannot be read: {error.strerror}.",
            hint="Check the path given to --output-schema, or give the schema itself.",
        ) from error


def _notifications(options: Options) -> list[Notification] | None:
    found = [Notification(command=_command(text)) for text in options["notify_command"]]
    found += [Notification(webhook=url) for url in options["notify_url"]]
    found += [Notification(desktop=True)] if options["notify_desktop"] else []
    if options["no_notify"]:
        if found:
            raise UsageError("--no-notify contradicts the other --notify options.", hint="Leave one of them out.")
        return []
    return found or None


def _command(text: str) -> list[str]:
    """A program by itself, or a JSON array of the program and its arguments; never split at blanks."""
    if not text.lstrip().startswith("["):
        return [text]
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise UsageError(
            f"{text!r} is not a JSON array of strings.", hint="""Write --notify-command '["program", "argument"]'."""
        ) from None


def _variables(entries: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """What ``--env`` sets, and what it lets through."""
    variables: dict[str, str] = {}
    passed: list[str] = []
    for entry in entries:
        name, separator, value = entry.partition("=")
        if separator:
            variables[name] = value
        else:
            passed.append(name)
    return variables, passed
