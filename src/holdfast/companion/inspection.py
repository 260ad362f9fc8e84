"""``status``, ``result`` and ``task-resume-candidate``: looking at jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from holdfast.clock import monotonic
from holdfast.companion import job, output, render
from holdfast.companion.arguments import Arguments, Syntax
from holdfast.companion.daemon import WAIT_BOUND, Document
from holdfast.companion.jobs import Jobs
from holdfast.companion.refusal import JobNotFound, Refused, StillRunning
from holdfast.companion.runtime import session_runtime
from holdfast.companion.task import resumable
from holdfast.companion.view import Record, is_active
from holdfast.companion.workspace import Workspace

STATUS_SYNTAX: Final = Syntax(switches=("json", "all", "wait"), values=("timeout-ms", "poll-interval-ms"))
SYNTAX: Final = Syntax(switches=("json",))

#: Finished and active jobs that ``status`` shows without ``--all``.
SHOWN: Final = 8
_TIMEOUT_MS: Final = 240_000
_POLL_MS: Final = 2_000
_LEAST_POLL_MS: Final = 100


def status(arguments: Sequence[str]) -> int:
    """``status [job-id] [--wait] [--all]``."""
    given = STATUS_SYNTAX.read(arguments)
    jobs = Jobs(Workspace(given.value("cwd")))
    as_json = given.switch("json")
    try:
        if given.words:
            report = _one(jobs, given)
            output.put(report, render.job_report(report["job"]), as_json=as_json)
            return 0
        if given.switch("wait"):
            raise Refused("`status --wait` requires a job id.")
        report = _all(jobs, every=given.switch("all"))
        output.put(report, render.status_report(report), as_json=as_json)
        return 0
    finally:
        jobs.daemon.close()


def result(arguments: Sequence[str]) -> int:
    """``result [job-id]``."""
    given = SYNTAX.read(arguments)
    jobs = Jobs(Workspace(given.value("cwd")))
    try:
        record = _finished(jobs, given.words[0] if given.words else None)
        stored = jobs.stored(record)
        text = render.stored_result(record, stored)
        output.put({"job": record, "storedJob": stored}, text, as_json=given.switch("json"))
        return 0
    finally:
        jobs.daemon.close()


def resume_candidate(arguments: Sequence[str]) -> int:
    """``task-resume-candidate``: the task whose thread ``task --resume-last`` would go on with."""
    given = SYNTAX.read(arguments)
    jobs = Jobs(Workspace(given.value("cwd")))
    found = resumable(jobs.of_session())
    names = ("id", "status", "title", "summary", "threadId", "completedAt", "updatedAt")
    payload: Document = {
        "available": found is not None,
        "sessionId": jobs.workspace.session,
        "candidate": None if found is None else {name: found.get(name) for name in names},
    }
    text = "No resumable task found for this session.\n"
    if found is not None:
        text = f"Resumable task found: {found['id']} ({found.get('status')}).\n"
    output.put(payload, text, as_json=given.switch("json"))
    return 0


def _all(jobs: Jobs, *, every: bool) -> Document:
    records = jobs.of_session(every=every)
    active = [each for each in records if is_active(each)]
    finished = [each for each in records if not is_active(each)]
    shown = records if every else records[:SHOWN]
    config = jobs.view.config
    return {
        "workspaceRoot": jobs.workspace.root,
        "config": config,
        "sessionRuntime": session_runtime(jobs.view, active=any(job.is_ours(each, jobs.home) for each in active)),
        "running": [render.enrich(each) for each in active],
        "latestFinished": render.enrich(finished[0]) if finished else None,
        "recent": [render.enrich(each) for each in finished[1:] if each in shown],
        "needsReview": bool(config.get("stopReviewGate")),
    }


def _one(jobs: Jobs, given: Arguments) -> Document:
    reference = given.words[0]
    record = jobs.named(reference)
    if not given.switch("wait"):
        return {"workspaceRoot": jobs.workspace.root, "job": render.enrich(record)}
    timeout_ms = _milliseconds(given, "timeout-ms", _TIMEOUT_MS)
    record = _wait(jobs, record, timeout_ms, max(_LEAST_POLL_MS, _milliseconds(given, "poll-interval-ms", _POLL_MS)))
    return {
        "workspaceRoot": jobs.workspace.root,
        "job": render.enrich(record),
        "waitTimedOut": is_active(record),
        "timeoutMs": timeout_ms,
    }


def _wait(jobs: Jobs, record: Record, timeout_ms: int, poll_ms: int) -> Record:
    """The job when it is finished, or when the time is over; ours tell it at once, others are asked again and again."""
    deadline = monotonic() + timeout_ms / 1000
    while is_active(record) and (left := deadline - monotonic()) > 0:
        if job.is_ours(record, jobs.home):
            patience = min(left, WAIT_BOUND / 2)
            jobs.daemon.get(f"/v1/tasks/{record['id']}/wait?timeout_s={patience:.3f}", timeout=patience + 30.0)
        else:
            time.sleep(min(left, poll_ms / 1000))
        record = jobs.named(record["id"])
    return record


def _milliseconds(given: Arguments, name: str, default: int) -> int:
    text = given.value(name)
    try:
        number = default if text is None else int(float(text))
    except (ValueError, OverflowError):
        raise Refused(f"--{name} {text} is not a number of milliseconds.") from None
    # 0 and nonsense below it have always meant the default.
    return number if number > 0 else default


def _finished(jobs: Jobs, reference: str | None) -> Record:
    if reference is not None:
        record = jobs.named(reference)
        if is_active(record):
            raise _still_running(record)
        return record
    records = jobs.of_session()
    for record in records:
        if not is_active(record):
            return record
    if records:
        raise _still_running(records[0])
    raise JobNotFound("No finished Codex jobs found for this repository yet.")


def _still_running(record: Record) -> StillRunning:
    name = record["id"]
    return StillRunning(
        f"Job {name} is still {record.get('status')}: it has no result yet.",
        hint=f"Wait for it with /codex:status {name} --wait, then ask again with /codex:result {name}.",
    )
