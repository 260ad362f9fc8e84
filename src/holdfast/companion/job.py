"""A job as callers of the companion know it, and the Holdfast task behind it.

A job of ours *is* a task: the job's id is the task's, and what the companion must remember about it beside what a task
holds (whose session, which kind, what it is called) travels in the task's tags.  So a job can be shown whole although
nothing of the view is left.  Records carry ``holdfast``, which says in whose state directory the task lives.
"""

from __future__ import annotations

import os
import time
from typing import Final, cast

from holdfast.clock import isoformat, wall
from holdfast.companion.daemon import Document
from holdfast.companion.view import Record

#: What carries jobs out.
AGENT: Final = "codex"
#: How it is conversed with; ``None`` would leave the choice to Holdfast.
DRIVE: Final = "app-server"

#: Longest summary, characters.
SUMMARY_LENGTH: Final = 96
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_TAG: Final = "companion."
_KIND_LABELS: Final = {"task": "rescue", "review": "review", "adversarial-review": "adversarial-review"}
#: Which field of a record a line of progress names, by its kind.
_NAMED_BY: Final = {"thread": "threadId", "turn": "turnId"}
#: How a finished task looks as a job: everything but a success is a failure, unless somebody wanted it to end.
_PHASES: Final = {"completed": "done", "failed": "failed", "cancelled": "cancelled"}


def new_id(prefix: str) -> str:
    """An id of the form that callers know: *prefix*, the milliseconds and six random characters, both in base 36."""
    milliseconds, digits = time.time_ns() // 1_000_000, ""
    while milliseconds:
        milliseconds, digit = divmod(milliseconds, 36)
        digits = _BASE36[digit] + digits
    # 252 = 7 * 36: of the bytes below it every character is as likely as every other.
    random = [byte for byte in os.urandom(64) if byte < 252][:6]
    return f"{prefix}-{digits}-{''.join(_BASE36[byte % 36] for byte in random)}"


def new_record(
    *, job_id: str, kind: str, title: str, summary: str, root: str, session: str | None, write: bool, home: str
) -> Record:
    """The record of a job that is about to be handed over; *home* is Holdfast's state directory."""
    record: Record = {
        "id": job_id,
        "kind": kind,
        "kindLabel": _KIND_LABELS[kind],
        "title": title,
        "workspaceRoot": root,
        "jobClass": "task" if kind == "task" else "review",
        "summary": summary,
        "write": write,
        "createdAt": isoformat(wall()),
        "status": "queued",
        "phase": "queued",
        "pid": None,
        "threadId": None,
        "turnId": None,
        "holdfast": {"stateDirectory": home},
    }
    if session is not None:
        record["sessionId"] = session
    return record


def tags(record: Record) -> dict[str, str]:
    """What the task of *record* has to carry for :func:`recall`."""
    wanted = {
        "kind": record["kind"],
        "title": record["title"],
        "summary": record["summary"],
        "workspace": record["workspaceRoot"],
        "session": record.get("sessionId"),
        "target": record.get("target"),
    }
    return {_TAG + name: value for name, value in wanted.items() if isinstance(value, str)}


def wanted_tags(root: str, session: str | None) -> list[str]:
    """The tags, as ``NAME=VALUE``, of the jobs of the workspace *root*, or only of one session in it."""
    wanted = [f"{_TAG}workspace={root}"]
    return wanted if session is None else [*wanted, f"{_TAG}session={session}"]


def recall(view: Document, home: str) -> Record | None:
    """The record of the job that the task *view* is; ``None`` for a task that is none."""
    known = cast("dict[str, str]", view.get("tags") or {})
    kind = known.get(f"{_TAG}kind", "")
    if kind not in _KIND_LABELS:
        return None
    record = new_record(
        job_id=view["id"],
        kind=kind,
        title=known.get(f"{_TAG}title", "Codex Task"),
        summary=known.get(f"{_TAG}summary", str(view["summary"])),
        root=known.get(f"{_TAG}workspace", str(view["cwd"])),
        session=known.get(f"{_TAG}session"),
        write=view["sandbox"] != "read-only",
        home=home,
    )
    if f"{_TAG}target" in known:
        record["target"] = known[f"{_TAG}target"]
    record["createdAt"] = view["created"]
    update(record, view)
    record["updatedAt"] = record.get("completedAt") or record["createdAt"]
    return record


def is_ours(record: Record, home: str) -> bool:
    """Whether the job is a task of the state directory *home*."""
    place = record.get("holdfast")
    return isinstance(place, dict) and cast(Record, place).get("stateDirectory") == home


def update(record: Record, view: Document) -> bool:
    """Bring *record* up to what the task *view* says; whether that changed anything."""
    before = (record.get("status"), record.get("phase"), record.get("threadId"), record.get("turnId"))
    record["threadId"] = view.get("thread_id") or record.get("threadId")
    record["turnId"] = view.get("turn_id") or record.get("turnId")
    state, status = view["state"], view["status"]
    if state == "finished":
        record["status"] = status if status in ("completed", "cancelled") else "failed"
        record["phase"] = _PHASES[record["status"]]
        record["pid"] = None
        record.setdefault("startedAt", view["created"])
        record["completedAt"] = record.get("completedAt") or _later(view["created"], view["elapsed_s"])
    elif state == "queued":
        record["status"] = record["phase"] = "queued"
    else:
        record["status"] = "running"
        record.setdefault("startedAt", view["created"])
        if state in ("stopping", "finalising"):
            record["phase"] = "finalizing"
        elif state == "starting" or record.get("phase") in (None, "queued"):
            record["phase"] = "starting"
    return before != (record.get("status"), record.get("phase"), record.get("threadId"), record.get("turnId"))


def advance(record: Record, kind: str, text: str, phase: str | None) -> bool:
    """Note what a line of progress says of a job that runs; whether that changed anything."""
    before = dict(record)
    if kind in _NAMED_BY:
        record[_NAMED_BY[kind]] = second_word(text)
    record["status"], record["phase"] = "running", phase or record["phase"]
    record.setdefault("startedAt", isoformat(wall()))
    return record != before


def second_word(text: str) -> str:
    """The name in a line such as ``turn 7``."""
    words = text.split()
    return words[1] if len(words) > 1 else text


def conclude(record: Record, result: Document) -> None:
    """Add to *record* what the task's result says about times, and why it is no success."""
    timing = result["timing"]
    record["startedAt"] = timing.get("started") or record.get("startedAt") or record["createdAt"]
    record["completedAt"] = timing.get("ended") or record.get("completedAt") or isoformat(wall())
    record["threadId"] = result["thread"]["id"] or record.get("threadId")
    if record["status"] == "cancelled":
        record["errorMessage"] = "Cancelled by user."
        record["cancelledAt"] = record["completedAt"]
    elif record["status"] == "failed":
        record["errorMessage"] = why(result)


def why(result: Document) -> str:
    """Why a task is no success, in one sentence or several."""
    error = result["error"]
    if error is not None and result["status"] != "cancelled":
        return str(error["message"])
    return {
        "no_signal": "Codex did not return a final message.",
        "partial": "The job was stopped at a limit before it was done.",
        "cancelled": "Cancelled by user.",
    }.get(result["status"], f"The job ended as {result['status']}.")


def shorten(text: str, limit: int = SUMMARY_LENGTH) -> str:
    """*text* on one line of at most *limit* characters, none of which could move a cursor."""
    # Of a long text only as much is looked at as can be shown.
    head = text[: limit * 16]
    line = " ".join("".join(each if each.isprintable() else " " for each in head).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def first_line(text: str) -> str:
    """The first line of *text* that says something, or nothing."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def seconds(stamp: object) -> float | None:
    """The UTC seconds of a time as records spell it; ``None`` if it is none."""
    if not isinstance(stamp, str):
        return None
    from datetime import datetime

    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None


def _later(stamp: str, by: float) -> str:
    return isoformat((seconds(stamp) or wall()) + by)
