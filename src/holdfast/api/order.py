"""A piece of work as a caller describes it, and the request that it amounts to; the same for every door."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypedDict, TypeVar

import msgspec

from holdfast.agents.adapter import Approvals, Drive, Sandbox
from holdfast.errors import InvalidRequest
from holdfast.tasks.output_schema import parse_schema
from holdfast.tasks.request import (
    Limits,
    Notification,
    TaskRequest,
    VerdictRule,
    WorktreeRequest,
    new_task_id,
    validate,
)

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATTERN: Final = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]*")
_LIMITS: Final = Limits()

_E = TypeVar("_E", bound=StrEnum)

#: How a caller writes the name of an option, so that a hint can be followed to the letter.
Spelling = Callable[[str], str]


class HasId(Protocol):
    """Whatever knows the id of a task."""

    @property
    def id(self) -> str:
        """The id, or the beginning of one as long as only one task fits."""
        ...


class WorkOptions(TypedDict, total=False):
    """How a piece of work is to be done.  What is left out is as ``holdfast run`` has it."""

    #: The directory to work in; the current one by default.
    cwd: str | os.PathLike[str] | None
    #: Let the agent change files below ``cwd``: short for ``sandbox="workspace-write"``.
    write: bool
    #: What the agent may touch; ``read-only`` by default.
    sandbox: Sandbox | Literal["read-only", "workspace-write", "danger-full-access"] | str | None
    #: Further directories that it may write to.
    add_dirs: Sequence[str | os.PathLike[str]]
    #: As the agent itself calls it.
    model: str | None
    #: As the agent itself calls it.
    effort: str | None
    #: A task whose thread to go on with, or a thread id of the agent's own.
    resume: str | HasId | None
    #: Seconds from the start of the process until it is ended (3600); ``None`` for no limit.
    timeout: float | None
    #: Seconds without a sign of progress (900); ``None`` for no limit.
    idle_timeout: float | None
    #: Seconds from the start to the first sign of life (120); ``None`` for no limit.
    start_timeout: float | None
    #: Stop the task, as ``partial``, after this many tool uses.
    max_tool_uses: int | None
    #: How often an attempt is repeated that provably did nothing (0).
    retries: int
    #: A name for people.
    label: str | None
    #: Publish the answer as this file: whole, or not at all.
    output_file: str | os.PathLike[str] | None
    #: Let ``output_file`` replace a regular file.
    overwrite: bool
    #: Directories in which ``output_file`` may lie besides ``cwd`` and the temporary directory.
    output_roots: Sequence[str | os.PathLike[str]]
    #: Variables that the agent gets in addition to those of this process.
    env: Mapping[str, str]
    #: Names (``*`` fits many) of variables of this process that look secret and are withheld otherwise.
    pass_env: Sequence[str]
    #: How to converse with the agent: ``app-server`` or ``one-shot``; its best way by default.
    drive: Drive | Literal["app-server", "one-shot"] | str | None
    #: A task, or a thread of the agent's own, to begin with a copy of; it stays as it is.
    fork: str | HasId | None
    #: With ``resume``: wait for a task that is still at work in the thread, instead of being refused.
    queue: bool
    #: Who answers when the agent asks for more than its sandbox allows: ``decline`` (default), ``ask`` or ``accept``.
    approvals: Approvals | Literal["decline", "ask", "accept"] | str
    #: Let commands reach the network from within the workspace-write sandbox.
    network: bool
    #: Do not keep the agent's thread.
    ephemeral: bool
    #: What the agent shall call the thread in its own lists, if it has any.
    thread_name: str | None
    #: Tell the agent to come to an end after this many tool uses.
    soft_tool_uses: int | None
    #: Require a verdict: ``True`` for one of the usual words, or a rule of the caller's own.
    verdict: bool | VerdictRule
    #: The JSON Schema that the answer must fit: an object, or its JSON text.
    output_schema: Mapping[str, Any] | str | bytes | None
    #: End ``output_file`` with ``PATCH_APPLIED`` or ``FINDINGS_ONLY`` as a line of its own.
    append_marker: bool
    #: Free words about the caller's own bookkeeping.
    tags: Mapping[str, str]
    #: Seconds to wait for a slot before the task is given up, as ``unavailable``; ``None`` for as long as it takes.
    slot_wait: float | None
    #: Whom to tell when it is finished; ``None`` is whom the configuration file names, an empty sequence nobody.
    notify: Sequence[Notification] | None
    #: Work in a git worktree of its own: ``True``, or the name of it and its branch.
    worktree: bool | str
    #: Where to make the worktree; below the state directory by default.
    worktree_dir: str | os.PathLike[str] | None
    #: Take ``output_file`` from the line ``[output-file: /absolute/path]`` of the prompt, if it has one.
    output_marker: bool
    #: The id, for a caller who may have to send the same task again: it runs once.
    task_id: str | None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a task is created from."""

    request: TaskRequest
    prompt: bytes
    environment: dict[str, str]


class Description(NamedTuple):
    """A piece of work without its prompt."""

    request: TaskRequest
    environment: dict[str, str]
    #: Variables that are not UTF-8 (escaped for display) and therefore not passed on.
    unreadable: list[str]


def with_output_marker(options: WorkOptions, prompt: bytes) -> WorkOptions:
    """*options* with the output file that *prompt* itself asks for, if they say that it may.

    :raises InvalidRequest: the prompt is not clear about it
    """
    if not options.get("output_marker", False):
        return options
    if options.get("output_file") is not None:
        raise InvalidRequest(
            "The output file is to be given and to be taken from the prompt.", hint="Leave one of the options out."
        )
    from holdfast.tasks.output_marker import find

    return {**options, "output_file": find(prompt)}


def describe(agent: str, options: WorkOptions, *, spell: Spelling) -> Description:
    """Check everything about a piece of work that can be checked before anything is started, and make its request.

    :raises InvalidRequest: one sentence and a hint
    """
    overwrite = options.get("overwrite", False)
    variables, pass_env = options.get("env", {}), options.get("pass_env", ())
    resume = options.get("resume")
    fork = options.get("fork")
    cwd = options.get("cwd")
    output_file = options.get("output_file")
    request = TaskRequest(
        task_id=options.get("task_id") or new_task_id(),
        agent=agent,
        cwd=_current_directory(spell) if cwd is None else _directory(cwd, spell("cwd")),
        label=options.get("label"),
        sandbox=_sandbox(options.get("write", False), options.get("sandbox"), spell),
        model=options.get("model"),
        effort=options.get("effort"),
        resume=resume if resume is None or isinstance(resume, str) else resume.id,
        add_dirs=[_directory(path, spell("add_dirs")) for path in options.get("add_dirs", ())],
        limits=Limits(
            total_s=options.get("timeout", _LIMITS.total_s),
            idle_s=options.get("idle_timeout", _LIMITS.idle_s),
            start_s=options.get("start_timeout", _LIMITS.start_s),
            max_tool_uses=options.get("max_tool_uses"),
            soft_tool_uses=options.get("soft_tool_uses"),
            slot_s=options.get("slot_wait"),
        ),
        retries=options.get("retries", 0),
        output_file=None if output_file is None else _output_file(output_file, spell, overwrite=overwrite),
        overwrite=overwrite,
        output_roots=[_directory(path, spell("output_roots")) for path in options.get("output_roots", ())],
        pass_env=[*pass_env, *variables],
        drive=_one_of(Drive, options.get("drive"), "drive", spell),
        fork=fork if fork is None or isinstance(fork, str) else fork.id,
        queue=options.get("queue", False),
        approvals=_one_of(Approvals, options.get("approvals"), "approvals", spell) or Approvals.DECLINE,
        network=options.get("network", False),
        ephemeral=options.get("ephemeral", False),
        thread_name=options.get("thread_name"),
        tags=dict(options.get("tags", {})),
        notify=None if (notify := options.get("notify")) is None else list(notify),
        worktree=_worktree(options.get("worktree", False), options.get("worktree_dir"), spell),
        verdict=_verdict(options.get("verdict", False)),
        output_schema=_output_schema(options.get("output_schema")),
        append_marker=options.get("append_marker", False),
    )
    validate(request)
    environment, unreadable = _environment(variables, pass_env, spell)
    return Description(request, environment, unreadable)


def _one_of(kind: type[_E], name: str | None, option: str, spell: Spelling) -> _E | None:
    if name is None:
        return None
    if name not in list(kind):
        raise InvalidRequest(f"There is no {option} {name!r}.", hint=f"Give {spell(option)} one of: {', '.join(kind)}.")
    return kind(name)


def _sandbox(write: bool, name: str | None, spell: Spelling) -> Sandbox:
    if name is not None and name not in list(Sandbox):
        names = ", ".join(Sandbox)
        raise InvalidRequest(f"There is no sandbox {name!r}.", hint=f"Give {spell('sandbox')} one of: {names}.")
    if not write:
        return Sandbox(name or Sandbox.READ_ONLY)
    if name is not None and name != Sandbox.WORKSPACE_WRITE:
        raise InvalidRequest(
            f"{spell('write')} and {spell('sandbox')} {name} contradict each other.", hint="Leave one of them out."
        )
    return Sandbox.WORKSPACE_WRITE


def _worktree(wanted: bool | str, directory: str | os.PathLike[str] | None, spell: Spelling) -> WorktreeRequest | None:
    if wanted is False:
        if directory is not None:
            raise InvalidRequest(
                f"{spell('worktree_dir')} is about a worktree.", hint=f"Add {spell('worktree')}, or leave it out."
            )
        return None
    return WorktreeRequest(
        name=None if wanted is True else wanted,
        directory=None if directory is None else _absolute(directory, spell("worktree_dir")),
    )


def _verdict(wanted: bool | VerdictRule) -> VerdictRule | None:
    return wanted if isinstance(wanted, VerdictRule) else VerdictRule() if wanted else None


def _output_schema(schema: Mapping[str, Any] | str | bytes | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return parse_schema(schema) if isinstance(schema, str | bytes) else dict(schema)


def _current_directory(spell: Spelling) -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise InvalidRequest(
            "The current directory no longer exists.", hint=f"Change to another one, or give {spell('cwd')}."
        ) from None


def _directory(path: str | os.PathLike[str], option: str) -> str:
    absolute = _absolute(path, option)
    if not os.path.isdir(absolute):
        problem = "is not a directory" if os.path.lexists(absolute) else "does not exist"
        raise InvalidRequest(f"The directory {absolute} {problem}.", hint=f"Check {option}{_tilde(path)}.")
    return absolute


def _output_file(path: str | os.PathLike[str], spell: Spelling, *, overwrite: bool) -> str:
    """Refuse early what would be refused anyway; the daemon decides, and reserves the name before it starts."""
    option = spell("output_file")
    absolute = _absolute(path, option)
    parent = Path(absolute).parent
    if not parent.is_dir():
        raise InvalidRequest(
            f"The directory {parent} does not exist.", hint=f"Make it, or check {option}{_tilde(path)}."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InvalidRequest(f"You may not write to {parent}.", hint=f"Give {option} another directory.")
    if os.path.islink(absolute) or (os.path.lexists(absolute) and not os.path.isfile(absolute)):
        raise InvalidRequest(f"{absolute} is not a regular file.", hint=f"Give {option} another name.")
    if not overwrite and os.path.lexists(absolute):
        raise InvalidRequest(f"{absolute} exists already.", hint=f"Give another name, or {spell('overwrite')}.")
    return absolute


def _absolute(path: str | os.PathLike[str], option: str) -> str:
    text = os.fspath(path)
    if not text or "\0" in text or not _is_utf8(text):
        raise InvalidRequest(f"{text!r} cannot be a path.", hint=f"Give {option} a path in UTF-8.")
    return os.path.abspath(text)


def _tilde(path: str | os.PathLike[str]) -> str:
    return "; '~' means your home only where a shell sees it unquoted" if os.fspath(path).startswith("~") else ""


def _environment(
    variables: Mapping[str, str], pass_env: Sequence[str], spell: Spelling
) -> tuple[dict[str, str], list[str]]:
    environment = {**os.environ, **variables}
    for name in [*variables, *pass_env]:
        if not (_VARIABLE if name in variables else _PATTERN).fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot be a variable.", hint=f"Write {spell('env')}, or {spell('pass_env')}."
            )
        if "*" not in name and name not in environment:
            raise InvalidRequest(f"The variable {name} is not set.", hint=f"Set it, or write {spell('env')}.")
    unreadable = sorted(name for name, value in environment.items() if not _is_utf8(name + value))
    for name in unreadable:
        del environment[name]
    return environment, [name.encode("utf-8", "backslashreplace").decode() for name in unreadable]


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
