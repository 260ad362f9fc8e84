"""What was settled when a task was accepted, and where its files lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents.adapter import Agent, Drive, Launch, Work
from holdfast.agents.catalogue import find_agent
from holdfast.agents.events import Usage
from holdfast.agents.models import Choice
from holdfast.directories import private_directory
from holdfast.drivers.choice import through
from holdfast.tasks.request import Notification, TaskRequest
from holdfast.tasks.worktree import Worktree

#: The file of the schema for the answer, beside the prompt.
SCHEMA_NAME: Final = "output-schema.json"
#: A summary is one line that fits a terminal's width beside the other columns.
_SUMMARY_LENGTH: Final = 96


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was checked and resolved before the task was stored; it never changes afterwards."""

    request: TaskRequest
    prompt_sha256: str
    prompt_bytes: int
    #: First line of the prompt, shortened, for people.
    summary: str
    #: The agent's command as found in the caller's environment.
    command: list[str]
    #: How the agent is conversed with.
    drive: Drive = Drive.ONE_SHOT
    #: The thread to go on with, resolved from a task id where one was given.
    resume_thread: str | None = None
    #: The thread to begin with a copy of, resolved likewise.
    fork_thread: str | None = None
    #: The task that is still at work in that thread, whose end is waited for.
    after: str | None = None
    #: It was asked for from within a task.
    nested: bool = False
    #: What that thread had used before, as far as it is known here.
    usage_before: Usage | None = None
    #: Where the agent keeps its own records (``CODEX_HOME`` and the like), to read them afterwards.
    record_env: dict[str, str] = {}
    warnings: list[str] = []
    #: The model and the effort, and who chose them.
    choice: Choice = Choice()
    #: Whom to tell of the end.
    notify: list[Notification] = []
    worktree: Worktree | None = None

    @property
    def settled(self) -> TaskRequest:
        """The request with everything filled in that was decided when it was accepted."""
        request, chosen = self.request, self.choice
        return msgspec.structs.replace(
            request,
            cwd=request.cwd if self.worktree is None else self.worktree.cwd,
            model=chosen.model or request.model,
            effort=chosen.effort or request.effort,
        )

    def agent(self) -> Agent:
        """The agent that does it, as it is conversed with.

        :raises UnknownAgent: it was declared in the configuration, and is no longer
        """
        return through(find_agent(self.request.agent), self.drive)

    def work(self, prompt_file: Path) -> Work:
        """What the agent is asked to do, in the terms of its adapter; the prompt lies in *prompt_file*."""
        request = self.settled
        return Work(
            cwd=Path(request.cwd),
            sandbox=request.sandbox,
            model=request.model,
            effort=request.effort,
            resume=self.resume_thread,
            add_dirs=[Path(path) for path in request.add_dirs],
            pass_env=request.pass_env,
            prompt_file=prompt_file,
            work_id=request.task_id,
            fork=self.fork_thread,
            ephemeral=request.ephemeral,
            thread_name=request.thread_name,
            network=request.network,
            approvals=request.approvals,
            output_schema=request.output_schema,
            output_schema_file=None if request.output_schema is None else prompt_file.with_name(SCHEMA_NAME),
            review=request.review,
        )


class TaskFiles:
    """The private directory of one task: what is too big, too secret or too short-lived for the store."""

    def __init__(self, tasks_directory: Path, task_id: str) -> None:
        self.directory = tasks_directory / task_id
        #: The prompt, byte for byte; the agent's standard input.
        self.prompt = self.directory / "prompt"
        #: What an attempt is told that concludes an earlier one.
        self.closing_prompt = self.directory / "closing-prompt"
        #: The JSON Schema that the answer must fit, where there is one.
        self.output_schema = self.directory / SCHEMA_NAME
        #: Command line and environment of the newest attempt; removed when the task is finished.
        self.launch = self.directory / "launch.json"
        #: The answer, byte for byte.
        self.message = self.directory / "message"
        #: The result document, as in the store.
        self.result = self.directory / "result.json"

    @property
    def kept(self) -> Path:
        """Where Holdfast keeps everything, this among it."""
        return self.directory.parent.parent

    def create(self) -> None:
        """Make the directory (0700)."""
        private_directory(self.directory)

    def save_launch(self, launch: Launch) -> None:
        """Keep how to start the next attempt (its environment holds secrets)."""
        replace_file(self.launch, [msgspec.json.encode(launch)])

    def load_launch(self) -> Launch:
        """Read back what :meth:`save_launch` kept."""
        return msgspec.json.decode(self.launch.read_bytes(), type=Launch)


class Draft:
    """A file (0600) that gets its name when it is whole, or never.  Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Bytes written so far.
        self.size = 0
        self._digest = hashlib.sha256()
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Draft:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._temporary, flags, 0o600), "wb")
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append *data*."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def publish(self) -> None:
        """Put the file on the disk and give it its name, replacing what had it before."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._temporary.replace(self.path)


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write *chunks* to *path* (0600), whole or not at all."""
    with Draft(path) as draft:
        for chunk in chunks:
            draft.write(chunk)
        draft.publish()


def summarise(prompt: bytes) -> str:
    """The first line of a prompt that says something, made safe for a terminal."""
    text = prompt[:4096].decode(errors="replace").strip()
    line = "".join(character if character.isprintable() else " " for character in text.partition("\n")[0])
    return line if len(line) <= _SUMMARY_LENGTH else f"{line[: _SUMMARY_LENGTH - 1]}…"
