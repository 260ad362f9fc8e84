"""What a caller asks for: one piece of work for one agent, with limits."""

from __future__ import annotations

import os
import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from holdfast.agents.adapter import Approvals, Drive, ReviewTarget, Sandbox
from holdfast.clock import wall
from holdfast.errors import InvalidRequest
from holdfast.tasks.output_schema import check_shape
from holdfast.tasks.verdict import check_rule

#: Crockford's alphabet, lower case: no letter that can be taken for a digit.
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TASK_ID: Final = re.compile(r"[0-9a-z][0-9a-z-]{7,63}")
#: A model or effort name is one word that can never be read as an option.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,127}")
_THREAD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_WORKTREE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAGS_LENGTH: Final = 4096


def new_task_id() -> str:
    """Make a task id: twelve characters, sorting by the second of creation, unique without asking anybody."""
    value = int(wall()) << 25 | int.from_bytes(os.urandom(4), "big") >> 7
    digits: list[str] = []
    for _ in range(12):
        value, digit = divmod(value, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a task, in seconds and counts; ``None`` means unbounded."""

    #: From the start of the first attempt to the end; the process tree is ended when it is over.
    total_s: float | None = 3600.0
    #: Without any sign of progress; not counted while a tool use of the agent is running.
    idle_s: float | None = 900.0
    #: From the start of the process to its first event.
    start_s: float | None = 120.0
    #: The task is stopped, as ``partial``, when the agent has used this many tools.
    max_tool_uses: int | None = None
    #: After this many tool uses the agent is told to come to an end.
    soft_tool_uses: int | None = None
    #: From the acceptance until the task may begin; it is given up, as ``unavailable``, when no slot is free by then.
    slot_s: float | None = None


class VerdictRule(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as the judgement that the task was asked for; an answer without one is not a pass."""

    #: A regular expression that a whole line of the answer outside code fences must match; its group ``verdict`` (or
    #: the whole match) is the value.  ``None``: one of the usual words alone on a line (see ``tasks.verdict``).
    pattern: str | None = None
    #: The values that approve, compared without regard to case.
    approve: list[str] = []


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to tell when the task is finished; exactly one of the fields is given."""

    #: A program and its arguments; the digest of the result comes on standard input as JSON.
    command: list[str] | None = None
    #: An ``http`` or ``https`` URL that gets the digest by POST.
    webhook: str | None = None
    #: A notification on the user's desktop.
    desktop: bool = False


class WorktreeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A git worktree of the task's own to work in."""

    #: What it and its branch are called; ``None``: the task's id.
    name: str | None = None
    #: Absolute directory to make it in; ``None``: below the state directory.
    directory: str | None = None


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One delegated piece of work.  The prompt travels beside it, as bytes, and is never part of a command line."""

    task_id: str
    agent: str
    #: Absolute directory to work in.
    cwd: str
    label: str | None = None
    sandbox: Sandbox = Sandbox.READ_ONLY
    model: str | None = None
    effort: str | None = None
    #: A task whose thread to go on with, or a thread id of the agent itself.
    resume: str | None = None
    add_dirs: list[str] = []
    limits: Limits = Limits()
    #: How often an attempt is repeated that failed for a passing reason and provably did nothing.
    retries: int = 0
    #: Where the answer is published as a file (absolute); the file appears whole, or not at all.
    output_file: str | None = None
    overwrite: bool = False
    #: Further directories in which ``output_file`` may lie, beside ``cwd`` and the temporary directory.
    output_roots: list[str] = []
    #: End ``output_file`` with the result's ``marker`` as a line of its own.
    append_marker: bool = False
    #: Names (or patterns with ``*``) of the caller's variables that the agent gets although they look secret.
    pass_env: list[str] = []
    #: With ``resume``: wait for a task that is still at work in the thread, instead of being refused.
    queue: bool = False
    #: How to converse with the agent; ``None`` is the best way that the installed agent knows.
    drive: Drive | None = None
    #: A task or thread to begin with a copy of; it stays as it is.
    fork: str | None = None
    #: Do not keep the agent's thread.
    ephemeral: bool = False
    #: What the agent shall call the thread in its own lists.
    thread_name: str | None = None
    #: Let commands reach the network from within the sandbox.
    network: bool = False
    approvals: Approvals = Approvals.DECLINE
    #: The JSON Schema that the answer must fit.
    output_schema: dict[str, Any] | None = None
    #: Have the agent's own reviewer do it.
    review: ReviewTarget | None = None
    verdict: VerdictRule | None = None
    #: ``None``: as the configuration says.
    notify: list[Notification] | None = None
    worktree: WorktreeRequest | None = None
    #: Free words of a caller about its own bookkeeping (at most 4 KiB in all); Holdfast only keeps them.
    tags: dict[str, str] = {}


def validate(request: TaskRequest) -> None:
    """Check everything about *request* that can be checked without touching the machine.

    :raises InvalidRequest: naming the offending value and what is expected instead
    """
    if not _TASK_ID.fullmatch(request.task_id):
        raise InvalidRequest(
            f"{request.task_id!r} cannot be a task id.",
            hint="Use 8 to 64 characters of a-z, 0-9 and '-', or leave the id out.",
        )
    for option, value in (("model", request.model), ("effort", request.effort)):
        if value is not None and not _NAME.fullmatch(value):
            raise InvalidRequest(
                f"{value!r} cannot be the name of a {option}.",
                hint=f"Give --{option} one word, such as those that the agent itself lists.",
            )
    if request.resume is not None and not _THREAD.fullmatch(request.resume):
        raise InvalidRequest(
            f"{request.resume!r} is neither a task id nor a thread id.",
            hint="Take the id from 'holdfast list' or from the result of the earlier task.",
        )
    if request.fork is not None and request.resume is not None:
        raise InvalidRequest("A task cannot both resume and fork a thread.", hint="Leave one of them out.")
    if request.fork is not None and not _THREAD.fullmatch(request.fork):
        raise InvalidRequest(
            f"{request.fork!r} is neither a task id nor a thread id.",
            hint="Take the id from 'holdfast list' or from the result of the earlier task.",
        )
    if sum(len(name) + len(value) for name, value in request.tags.items()) > _TAGS_LENGTH:
        raise InvalidRequest(f"The tags are longer than {_TAGS_LENGTH} characters.", hint="Keep less in them.")
    limits = request.limits
    for notification in request.notify or []:
        check_notification(notification)
    if request.worktree is not None:
        _check_worktree(request.worktree)
    waits = (("timeout", limits.total_s), ("idle timeout", limits.idle_s), ("start", limits.start_s))
    for name, seconds in (*waits, ("slot", limits.slot_s)):
        if seconds is not None and not 0 < seconds < 366 * 86_400:
            raise InvalidRequest(
                f"A {name} limit of {seconds:g} seconds makes no sense.",
                hint="Give a positive number of seconds, or 'none' for no limit.",
            )
    for tool_uses in (limits.max_tool_uses, limits.soft_tool_uses):
        if tool_uses is not None and tool_uses < 1:
            raise InvalidRequest(f"A limit of {tool_uses} tool uses makes no sense.", hint="Give a positive number.")
    soft, hard = limits.soft_tool_uses, limits.max_tool_uses
    if soft is not None and hard is not None and soft > hard:
        raise InvalidRequest(
            f"A soft limit of {soft} tool uses is above the hard one of {hard}.", hint="Give a smaller soft limit."
        )
    if request.output_schema is not None:
        check_shape(request.output_schema)
    if request.verdict is not None:
        check_rule(request.verdict, request.output_schema)
    if not 0 <= request.retries <= 10:
        raise InvalidRequest(f"{request.retries} retries make no sense.", hint="Give a number from 0 to 10.")
    for name, path in (("directory", request.cwd), ("output file", request.output_file)):
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise InvalidRequest(f"The {name} {path!r} is not an absolute path.", hint="Give an absolute path.")


def check_notification(notification: Notification) -> None:
    """Check everything about *notification* that can be checked without trying it.

    :raises InvalidRequest: naming what is wrong
    """
    command, webhook = notification.command, notification.webhook
    if (command is not None) + (webhook is not None) + notification.desktop != 1:
        raise InvalidRequest(
            "A notification is either a command, or a URL, or one on the desktop.", hint="Give one of them for each."
        )
    if command is not None and (not command or not command[0] or any("\0" in word for word in command)):
        raise InvalidRequest(
            f"{command!r} cannot be the command of a notification.", hint="Give a program and its arguments."
        )
    if webhook is not None:
        try:
            url = urlsplit(webhook)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
        except ValueError:
            usable = False
        if not usable or not webhook.isprintable() or " " in webhook:
            raise InvalidRequest(
                f"{webhook!r} cannot be the URL of a notification.",
                hint="Give one that begins with http:// or https://.",
            )


def _check_worktree(worktree: WorktreeRequest) -> None:
    name, directory = worktree.name, worktree.directory
    # Part of a path and of the name of a branch, whose rules these are.
    if name is not None and (not _WORKTREE.fullmatch(name) or ".." in name or name.endswith((".", ".lock"))):
        raise InvalidRequest(
            f"{name!r} cannot be the name of a worktree.", hint="Use letters, digits, '.', '_' and '-', at most 64."
        )
    if directory is not None and (not directory.startswith("/") or "\0" in directory):
        raise InvalidRequest(f"The directory {directory!r} is not an absolute path.", hint="Give an absolute path.")
