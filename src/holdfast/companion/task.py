"""``task``: hand a piece of work to Codex, and wait for it or not."""

from __future__ import annotations

import base64
import os
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import Final, NamedTuple

from holdfast.companion import job, output, worker
from holdfast.companion.arguments import Syntax
from holdfast.companion.daemon import Document
from holdfast.companion.jobs import Jobs
from holdfast.companion.outcome import Outcome
from holdfast.companion.refusal import CodexMissing, Refused
from holdfast.companion.view import Record, is_active
from holdfast.companion.workspace import Workspace

SYNTAX: Final = Syntax(
    switches=("json", "write", "read-only", "resume-last", "resume", "fresh", "background", "wait"),
    values=("model", "effort", "prompt-file"),
    prose=True,
)

#: What a thread is told that is to go on without further words.
CONTINUE: Final = (
    "Continue from the current thread state. "
    "Pick the next highest-value step and follow through until the task is resolved."
)
#: Threads of tasks are named so, and found by it.
THREAD_PREFIX: Final = "Codex Companion Task"
#: Words that a prompt has when it is the stop gate's.
GATE_MARKER: Final = "Run a stop-gate review of the previous Claude turn."
#: Seconds.  A rescue may take hours; what stands still for half an hour is not at work.
TOTAL: Final = 86_400.0
IDLE: Final = 1_800.0

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")
_MODELS: Final = {"spark": "gpt-5.3-codex-spark"}
_EXCERPT: Final = 56
_NO_PROMPT: Final = "Provide a prompt, a prompt file, piped stdin, or use --resume-last."
NO_THREAD: Final = "No previous Codex task thread was found for this repository."


class Work(NamedTuple):
    """What a job asks of Codex."""

    prompt: str
    title: str
    summary: str
    write: bool = False
    model: str | None = None
    effort: str | None = None
    #: The thread to go on with.
    resume: str | None = None
    total_s: float = TOTAL
    #: More fields of the request.
    fields: Mapping[str, object] = MappingProxyType({})
    kind: str = "task"
    #: What a review looks at, for whoever shows it later (JSON).
    target: str | None = None


def run(arguments: Sequence[str]) -> int:
    """``task [options] [prompt]``."""
    given = SYNTAX.read(arguments)
    as_json = given.switch("json")
    workspace = Workspace(given.value("cwd"))
    resume = given.switch("resume-last") or given.switch("resume")
    if resume and given.switch("fresh"):
        raise Refused("Choose either --resume/--resume-last or --fresh.")
    if given.switch("write") and given.switch("read-only"):
        raise Refused("Choose either --write or --read-only.")
    if given.switch("background") and given.switch("wait"):
        raise Refused("Choose either --background or --wait.")
    model, effort = model_named(given.value("model")), _effort(given.value("effort"))
    prompt = _prompt(workspace, given.value("prompt-file"), given.prose, optional=resume)
    if not prompt.strip() and not resume:
        raise Refused(_NO_PROMPT)
    jobs = Jobs(workspace)
    title, summary = _heading(prompt, resume=resume)
    work = Work(
        prompt=prompt if prompt.strip() else CONTINUE,
        title=title,
        summary=summary,
        write=given.switch("write"),
        model=model,
        effort=effort,
        resume=_thread(jobs) if resume else None,
    )
    try:
        record = hand_over(jobs, work)
        if given.switch("background"):
            return _leave(jobs, record, as_json=as_json)
        end = attend(jobs, record, as_json=as_json)
        output.put(end.payload, end.rendered, as_json=as_json)
        if end.reason is not None:
            output.note(end.reason)
        return end.exit_status
    finally:
        jobs.daemon.close()


def hand_over(jobs: Jobs, work: Work) -> Record:
    """Make a job of *work* and give it to Holdfast; from here on it has an end and a result.

    :raises Refused: it was refused, and there is no job
    """
    prefix = "task" if work.kind == "task" else "review"
    record = job.new_record(
        job_id=job.new_id(prefix),
        kind=work.kind,
        title=work.title,
        summary=work.summary,
        root=jobs.workspace.root,
        session=jobs.workspace.session,
        write=work.write,
        home=jobs.home,
    )
    if work.target is not None:
        record["target"] = work.target
    request: Document = {
        "task_id": record["id"],
        "agent": job.AGENT,
        "drive": job.DRIVE,
        "cwd": jobs.workspace.root,
        "label": work.title,
        "sandbox": "workspace-write" if work.write else "read-only",
        "model": work.model,
        "effort": work.effort,
        "resume": work.resume,
        "limits": {"total_s": work.total_s, "idle_s": IDLE},
        "tags": job.tags(record),
        **work.fields,
    }
    if work.kind == "task" and work.resume is None:
        request["thread_name"] = f"{THREAD_PREFIX}: {job.shorten(work.prompt, _EXCERPT)}"
    # Surrogates stand for bytes that are no UTF-8: they reach Codex as they came.
    prompt = work.prompt.encode("utf-8", "surrogateescape")
    try:
        view = jobs.daemon.post(
            "/v1/tasks",
            {"request": request, "prompt_base64": base64.b64encode(prompt).decode(), "environment": environment()},
        )
    except Refused as error:
        if error.code == "backend_missing":
            raise CodexMissing(error.message) from error
        raise
    job.update(record, view)
    record["logFile"] = str(jobs.view.log_path(record["id"]))
    jobs.with_view(lambda: jobs.view.add(record, f"Starting {work.title}."))
    return record


def attend(jobs: Jobs, record: Record, *, as_json: bool) -> Outcome:
    """Wait for a job to end, telling about it on standard error unless *as_json*."""
    _explain_ending(record["id"])
    return jobs.follow(record, None if as_json else lambda text: output.note(f"[codex] {text}"))


def environment() -> dict[str, str]:
    """The variables of this process that are text, but for those that tell one Claude session from another.

    They mean nothing to Codex, and a server that serves all sessions cannot have one session's.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OF_SESSION) and _is_text(name) and _is_text(value)
    }


def model_named(name: str | None) -> str | None:
    """The model that *name* stands for."""
    name = (name or "").strip()
    return _MODELS.get(name.lower(), name) or None


def _leave(jobs: Jobs, record: Record, *, as_json: bool) -> int:
    payload = {
        "jobId": record["id"],
        "status": "queued",
        "title": record["title"],
        "summary": record["summary"],
        "logFile": record["logFile"],
    }
    jobs.with_view(lambda: jobs.view.log(jobs.view.log_path(record["id"]), "Queued for background execution."))
    text = (
        f"{record['title']} started in the background as {record['id']}. "
        f"Check /codex:status {record['id']} for progress.\n"
    )
    if jobs.daemon.in_process:
        # The work ends with this process, so it has to stay.
        output.put(payload, text, as_json=as_json)
        sys.stdout.flush()
        jobs.follow(record)
        return 0
    worker.detach(jobs, record)
    output.put(payload, text, as_json=as_json)
    return 0


def _thread(jobs: Jobs) -> str:
    """The thread of the last task: of this session, or of the workspace where no session is known."""
    for record in jobs.of_session():
        if record.get("jobClass") == "task" and is_active(record):
            raise Refused(f"Task {record['id']} is still running. Use /codex:status before continuing it.")
    found = resumable(jobs.of_session())
    if found is None:
        raise Refused(NO_THREAD)
    return str(found["threadId"])


def resumable(records: list[Record]) -> Record | None:
    """The newest of *records* that is a finished task with a thread."""
    for record in records:
        if record.get("jobClass") == "task" and record.get("threadId") and not is_active(record):
            return record
    return None


def _heading(prompt: str, *, resume: bool) -> tuple[str, str]:
    if not resume and GATE_MARKER in prompt:
        return "Codex Stop Gate Review", "Stop-gate review of previous Claude turn"
    if resume:
        return "Codex Resume", job.shorten(prompt) or job.shorten(CONTINUE)
    return "Codex Task", job.shorten(prompt)


def _effort(name: str | None) -> str | None:
    effort = (name or "").strip().lower()
    if effort and effort not in _EFFORTS:
        raise Refused(f'Unsupported reasoning effort "{name}". Use one of: {", ".join(_EFFORTS)}.')
    return effort or None


def _prompt(workspace: Workspace, file: str | None, prose: str, *, optional: bool) -> str:
    if file is not None:
        path = os.path.join(workspace.cwd, file)
        try:
            with open(path, "rb") as opened:
                return opened.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise Refused(f"The prompt file {path} cannot be read: {error.strerror}.") from error
    if prose:
        return prose
    return _piped(optional=optional)


def _piped(*, optional: bool) -> str:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return ""
    if os.isatty(0) or (stat.S_ISCHR(mode) and os.fstat(0).st_rdev == os.stat(os.devnull).st_rdev):
        return ""
    if optional and not stat.S_ISREG(mode):
        import select

        # Nobody is obliged to close an input that need not be there: one that stays silent is none.
        if not select.select([0], [], [], _SILENCE)[0]:
            return ""
    parts: list[bytes] = []
    while chunk := os.read(0, 65_536):
        parts.append(chunk)
    return b"".join(parts).decode("utf-8", "surrogateescape")


#: Seconds.
_SILENCE: Final = 1.0
_OF_SESSION: Final = ("CODEX_COMPANION_", "CLAUDE_", "CLAUDECODE")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _explain_ending(job_id: str) -> None:
    """Say, when this command is ended from outside, that its job is not."""
    farewell = (
        f"\n[codex] This command was ended; {job_id} goes on. "
        f"Check /codex:status {job_id} and /codex:result {job_id}, or end it with /codex:cancel {job_id}.\n"
    ).encode()

    def end(number: int, frame: FrameType | None) -> None:
        try:
            os.write(2, farewell)
        except OSError:
            pass
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)
