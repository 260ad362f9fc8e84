"""``cancel``: end a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from holdfast.companion import job, output, render
from holdfast.companion.arguments import Syntax
from holdfast.companion.daemon import Document
from holdfast.companion.jobs import Jobs
from holdfast.companion.refusal import Refused
from holdfast.companion.view import Record, is_active
from holdfast.companion.workspace import Workspace

SYNTAX: Final = Syntax(switches=("json",))


def run(arguments: Sequence[str]) -> int:
    """``cancel [job-id]``."""
    given = SYNTAX.read(arguments)
    jobs = Jobs(Workspace(given.value("cwd")))
    try:
        record = _choose(jobs, given.words[0] if given.words else None)
        attempted = job.is_ours(record, jobs.home) and bool(record.get("threadId"))
        interrupted = jobs.cancel(record)
        payload: Document = {
            "jobId": record["id"],
            "status": record["status"] if not is_active(record) else "cancelling",
            "title": record.get("title"),
            "turnInterruptAttempted": attempted or interrupted,
            "turnInterrupted": interrupted,
        }
        text = render.cancelled(record)
        if record["status"] != "cancelled":
            # It came to an end of its own before it could be ended, or is still being ended.
            why = record.get("errorMessage")
            text = f"{record['id']} is {record['status']}{f': {why}' if why else '.'}\n"
        output.put(payload, text, as_json=given.switch("json"))
        return 0
    finally:
        jobs.daemon.close()


def _choose(jobs: Jobs, reference: str | None) -> Record:
    if reference is not None:
        record = jobs.named(reference)
        if not is_active(record):
            raise Refused(f'No active job found for "{reference}": it is {record.get("status")}.')
        return record
    active = [each for each in jobs.of_session() if is_active(each)]
    if len(active) > 1:
        raise Refused("Multiple Codex jobs are active. Pass a job id to /codex:cancel.")
    if not active:
        suffix = " for this session" if jobs.workspace.session is not None else ""
        raise Refused(f"No active Codex jobs to cancel{suffix}.")
    return active[0]
