"""What a finished job comes to: the exit status, the document for programs, the text for people, the one-line summary.

Made from the task's result alone, so it comes out the same whoever asks, and as often as it is asked.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple, cast

from holdfast.companion.daemon import Document
from holdfast.companion.job import first_line, why
from holdfast.companion.view import Record


class Outcome(NamedTuple):
    """What is left of a finished job."""

    #: 0 only for a success.
    exit_status: int
    #: What ``--json`` prints.
    payload: Document
    #: What is printed otherwise.
    rendered: str
    summary: str
    #: Why it is no success, for standard error.
    reason: str | None


def outcome(record: Record, result: Document, answer: str, reasoning: list[str]) -> Outcome:
    """The outcome of the job *record* whose task ended with *result*, and whose agent's last message was *answer*."""
    if record["jobClass"] == "review":
        return _review(record, result, answer, reasoning)
    exit_status = 0 if result["status"] == "completed" else 1
    reason = None if exit_status == 0 else why(result)
    root = record["workspaceRoot"]
    payload: Document = {
        "status": exit_status,
        "threadId": result["thread"]["id"],
        "rawOutput": answer,
        "touchedFiles": [os.path.join(root, change["path"]) for change in result["files"]["changed"]],
        "reasoningSummary": reasoning,
    }
    if reason is not None:
        payload["error"] = error_of(result)
    text = answer or reason or "Codex did not return a final message."
    rendered = text if text.endswith("\n") else f"{text}\n"
    summary = first_line(answer) or first_line(reason or "") or f"{record['title']} finished."
    return Outcome(exit_status, payload, rendered, summary, reason)


def error_of(result: Document) -> Document:
    """Why a task is no success, for programs."""
    error = cast(Document, result["error"] or {})
    remedies = cast("list[Document]", error.get("remedy") or [])
    return {
        "code": error.get("class") or result["status"],
        "message": why(result),
        "hint": remedies[0]["text"] if remedies else None,
        "status": result["status"],
    }


def _review(record: Record, result: Document, answer: str, reasoning: list[str]) -> Outcome:
    # Imported here: a task needs none of it.
    from holdfast.companion import review_text

    details = cast(Document, json.loads(record.get("target") or "{}"))
    conclude = review_text.adversarial if record["kind"] == "adversarial-review" else review_text.native
    payload, rendered, summary, reason = conclude(record, result, answer, reasoning, details)
    return Outcome(0 if reason is None else 1, payload, rendered, summary, reason)
