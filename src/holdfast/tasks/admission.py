"""Whether a task is accepted: everything that can be found wrong with it is found here, before anything is started."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from holdfast.agents import models
from holdfast.agents.adapter import Agent, Installation, Launch, UnsupportedOption
from holdfast.agents.catalogue import find_agent
from holdfast.drivers.choice import through
from holdfast.errors import InvalidRequest, NotFound
from holdfast.host.tree import MARKER
from holdfast.tasks import worktree
from holdfast.tasks.acceptance import Acceptance, TaskFiles, replace_file, summarise
from holdfast.tasks.collection import Collector, Deleting
from holdfast.tasks.ledger import Conflict, Ledger
from holdfast.tasks.notification import wanted
from holdfast.tasks.output_file import Reservation, reserve
from holdfast.tasks.output_schema import check_schema
from holdfast.tasks.request import Notification, TaskRequest, WorktreeRequest, validate
from holdfast.tasks.rows import TaskRow, usage_of
from holdfast.tasks.state import State
from holdfast.tasks.versions import Versions

#: A prompt beyond this is a mistake (a file that was not meant), bytes.
MAX_PROMPT_BYTES: Final = 64 << 20
#: Variables that say where agents keep their own records; none of them is a secret.
_RECORD_VARIABLES: Final = (
    "HOME",
    "CODEX_HOME",
    "CLAUDE_CONFIG_DIR",
    "HOLDFAST_REHEARSAL_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
)


class ThreadBusy(InvalidRequest):
    """Another task is at work in the thread that was asked for."""

    code = "thread_busy"


class Admission:
    """Checks requests, and stores what is accepted."""

    def __init__(self, ledger: Ledger, directory: Path, versions: Versions, collector: Collector) -> None:
        self._ledger = ledger
        self._directory = directory
        self._versions = versions
        self._collector = collector
        #: Held while a task gets its files and its row: two of one id would write each other's.
        self._storing = asyncio.Lock()

    async def admit(self, request: TaskRequest, prompt: bytes, environment: dict[str, str]) -> Acceptance | None:
        """Check a request and store it, with its files; ``None`` if this very task was stored before.

        :raises InvalidRequest: or a subclass of it, naming what is wrong
        :raises AgentMissing: the agent is not installed where *environment* says
        """
        validate(request)
        if request.task_id == self._collector.deleting:
            raise Deleting(f"Task {request.task_id} is just being deleted.", hint="Try again, or leave the id out.")
        digest = hashlib.sha256(prompt).hexdigest()
        if await self._accepted_before(request, digest):
            return None
        _check_prompt(prompt)
        agent = await asyncio.to_thread(_check_machine, request)
        installation = await asyncio.to_thread(agent.find, environment)
        warnings: list[str] = []
        thread, after = await self._resume(request, agent, warnings)
        previous = None if thread is None else await self._ledger.thread(thread)
        fork, _ = await self._thread_of(request.fork, request, warnings) if request.fork is not None else (None, None)
        choice, notify = await asyncio.to_thread(_settle, agent, request, installation, environment, warnings)
        acceptance = Acceptance(
            request=request,
            prompt_sha256=digest,
            prompt_bytes=len(prompt),
            summary=summarise(prompt),
            command=installation.command,
            drive=agent.drive,
            resume_thread=thread,
            fork_thread=fork,
            after=after,
            # The host marks what it starts, and whatever that starts.
            nested=MARKER in environment,
            usage_before=usage_of(previous),
            record_env={name: environment[name] for name in _RECORD_VARIABLES if name in environment},
            warnings=warnings,
            choice=choice,
            notify=notify,
        )
        files = TaskFiles(self._directory, request.task_id)
        launch = agent.launch(installation, acceptance.work(files.prompt), environment)
        reservation = await asyncio.to_thread(_reserve, request) if request.output_file is not None else None
        try:
            if request.worktree is not None:
                acceptance = await asyncio.to_thread(self._with_worktree, acceptance, request.worktree)
                launch = agent.launch(installation, acceptance.work(files.prompt), environment)
            async with self._storing:
                if await self._accepted_before(request, digest):
                    created = False
                else:
                    await asyncio.to_thread(_write_files, files, prompt, launch, request.output_schema)
                    created = await self._ledger.add(acceptance, reservation)
        except BaseException:
            await _undo(reservation, acceptance)
            raise
        if created:
            self._versions.ask(agent, installation.command, launch.env)
            return acceptance
        # The same task came twice at the same time; the other one is carried out.
        await _undo(reservation, acceptance)
        return None

    def _with_worktree(self, acceptance: Acceptance, wanted: WorktreeRequest) -> Acceptance:
        request = acceptance.request
        base = self._directory.parent / "worktrees"
        made, warnings = worktree.create(request.cwd, request.task_id, wanted, base)
        return msgspec.structs.replace(acceptance, worktree=made, warnings=[*acceptance.warnings, *warnings])

    async def _accepted_before(self, request: TaskRequest, prompt_sha256: str) -> bool:
        """Whether this very task is there already.

        :raises Conflict: another one of its id is, and stays as it is
        """
        try:
            known = (await self._ledger.task(request.task_id)).acceptance
        except NotFound:
            return False
        if (known.prompt_sha256, known.request) != (prompt_sha256, request):
            raise Conflict(f"There is another task {request.task_id} already.", hint="Leave the id out.")
        return True

    async def _resume(self, request: TaskRequest, agent: Agent, warnings: list[str]) -> tuple[str | None, str | None]:
        """The thread that *request* wants to go on with, and the task whose end it has to wait for."""
        if request.resume is None:
            return None, None
        if not agent.can_resume:
            raise UnsupportedOption(f"{agent.title} cannot go on with an earlier thread.", hint="Leave --resume out.")
        thread, earlier = await self._thread_of(request.resume, request, warnings)
        if earlier is None or earlier.state is State.FINISHED:
            return thread, None
        if not request.queue:
            raise ThreadBusy(
                f"Task {earlier.id} is still at work in this thread.",
                hint=f"Wait for it (holdfast wait {earlier.id}), or have this one wait: --queue.",
            )
        return thread, earlier.id

    async def _thread_of(self, name: str, request: TaskRequest, warnings: list[str]) -> tuple[str, TaskRow | None]:
        """The thread that *name*, a task or a thread of the agent itself, stands for, and the task if it is one."""
        try:
            earlier = await self._ledger.task(await self._ledger.resolve(name))
        except NotFound:
            # Not one of our tasks: a thread id of the agent itself, which only the agent can check.
            return name, None
        attempts = await self._ledger.attempts(earlier.id)
        known = attempts[-1].facts.thread_id if attempts else None
        asked, before = request.agent, earlier.acceptance.request
        if before.agent != asked:
            raise InvalidRequest(
                f"Task {earlier.id} is a task of {before.agent}, not of {asked}.",
                hint=f"Run: holdfast run {before.agent} --resume {earlier.id} ...",
            )
        if known is None:
            raise InvalidRequest(
                f"Task {earlier.id} never got as far as having a thread.", hint="Start afresh: leave --resume out."
            )
        if before.cwd != request.cwd:
            warnings.append(f"the thread was begun in {before.cwd} and goes on in {request.cwd}")
        return known, earlier


def _settle(
    agent: Agent,
    request: TaskRequest,
    installation: Installation,
    environment: dict[str, str],
    warnings: list[str],
) -> tuple[models.Choice, list[Notification]]:
    """What the request and the configuration together amount to."""
    choice = models.choose(agent, model=request.model, effort=request.effort)
    doubt = models.check_effort(agent, choice, installation, environment)
    if doubt is not None:
        warnings.append(doubt)
    return choice, wanted(request.notify)


def _check_prompt(prompt: bytes) -> None:
    if not prompt.strip():
        raise InvalidRequest("The prompt is empty.", hint="Say what the agent shall do.")
    if len(prompt) > MAX_PROMPT_BYTES:
        raise InvalidRequest(
            f"The prompt has {len(prompt)} bytes; {MAX_PROMPT_BYTES} is the limit.",
            hint="Put the material into a file and name the file in the prompt.",
        )
    if b"\0" in prompt:
        raise InvalidRequest("The prompt contains a NUL byte.", hint="Give text; agents refuse or cut NUL bytes.")


def _check_machine(request: TaskRequest) -> Agent:
    agent = through(find_agent(request.agent), request.drive)
    for name, text in (("directory", request.cwd), *(("additional directory", path) for path in request.add_dirs)):
        path = Path(text)
        if not path.exists():
            raise InvalidRequest(f"The {name} {text} does not exist.", hint="Give an existing directory.")
        if not path.is_dir():
            raise InvalidRequest(f"The {name} {text} is not a directory.", hint="Give an existing directory.")
        if not os.access(path, os.R_OK | os.X_OK):
            raise InvalidRequest(f"The {name} {text} cannot be entered.", hint="Check its permissions.")
    if request.output_schema is not None:
        check_schema(request.output_schema)
    return agent


def _reserve(request: TaskRequest) -> Reservation:
    assert request.output_file is not None
    roots = [Path(request.cwd), Path(tempfile.gettempdir()), *(Path(root) for root in request.output_roots)]
    return reserve(request.output_file, roots, overwrite=request.overwrite)


async def _undo(reservation: Reservation | None, acceptance: Acceptance) -> None:
    """Take back what was prepared for a task that is not stored."""
    if reservation is not None:
        await asyncio.to_thread(reservation.abandon)
    if acceptance.worktree is not None:
        await asyncio.to_thread(worktree.discard, acceptance.worktree)


def _write_files(files: TaskFiles, prompt: bytes, launch: Launch, schema: dict[str, object] | None) -> None:
    files.create()
    replace_file(files.prompt, [prompt])
    if schema is not None:
        replace_file(files.output_schema, [msgspec.json.encode(schema)])
    files.save_launch(launch)
