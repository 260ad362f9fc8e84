"""What people read: the headings, tables and lists that callers of the companion know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from holdfast.clock import wall
from holdfast.companion import job
from holdfast.companion.daemon import Document
from holdfast.companion.narration import preview
from holdfast.companion.view import Record, is_active

_COLUMNS: Final = ("Job", "Kind", "Status", "Phase", "Elapsed", "Codex Session ID", "Summary", "Actions")
#: Of a log that has grown large only the end is read for the last lines, bytes.
_LOG_TAIL: Final = 32_768


def enrich(record: Record) -> Record:
    """*record* with what is worked out for showing it: its kind, last progress, times, phase."""
    active = is_active(record)
    shown: Record = {
        **record,
        "kindLabel": _kind_label(record),
        "progressPreview": _last_lines(record) if active or record.get("status") == "failed" else [],
        "elapsed": _duration(record.get("startedAt") or record.get("createdAt"), record.get("completedAt")),
        "duration": None
        if active
        else _duration(
            record.get("startedAt") or record.get("createdAt"), record.get("completedAt") or record.get("updatedAt")
        ),
    }
    shown["phase"] = record.get("phase") or _phase(record)
    return shown


def status_report(report: Document) -> str:
    """All jobs, as ``status`` prints them."""
    lines = [
        "# Codex Status",
        "",
        f"Session runtime: {report['sessionRuntime']['label']}",
        f"Review gate: {'enabled' if report['config'].get('stopReviewGate') else 'disabled'}",
        "",
    ]
    if report["running"]:
        lines += ["Active jobs:", _row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
        lines += [_active_row(each) for each in report["running"]]
        lines += ["", "Live details:"]
        for each in report["running"]:
            lines += details(each, elapsed=True, log=True)
        lines.append("")
    finished = report["latestFinished"]
    if finished is not None:
        lines += ["Latest finished:", *details(finished, duration=True, log=finished.get("status") == "failed"), ""]
    if report["recent"]:
        lines.append("Recent jobs:")
        for each in report["recent"]:
            lines += details(each, duration=True, log=each.get("status") == "failed")
        lines.append("")
    elif not report["running"] and finished is None:
        lines += ["No jobs recorded yet.", ""]
    if report["needsReview"]:
        lines += [
            "The stop-time review gate is enabled.",
            "When the session stops, Codex reviews the last turn, and the stop is blocked if it finds something.",
        ]
    return _text(lines)


def job_report(record: Record) -> str:
    """One job, as ``status ID`` prints it."""
    active = is_active(record)
    return _text(
        ["# Codex Job Status", "", *details(record, elapsed=active, duration=not active, log=True, hints=True)]
    )


def details(
    record: Record, *, elapsed: bool = False, duration: bool = False, log: bool = False, hints: bool = False
) -> list[str]:
    """The list item of one job."""
    active = is_active(record)
    head = [record["id"], record.get("status") or "unknown", record.get("kindLabel"), record.get("title")]
    lines = [f"- {' | '.join(str(part) for part in head if part)}"]
    for label, value in (
        ("Summary", record.get("summary")),
        ("Phase", record.get("phase")),
        ("Elapsed", record.get("elapsed") if elapsed else None),
        ("Duration", record.get("duration") if duration else None),
        ("Codex session ID", record.get("threadId")),
        ("Resume in Codex", resume_command(record)),
        ("Error", record.get("errorMessage") if record.get("status") == "failed" else None),
        ("Log", record.get("logFile") if log else None),
        ("Cancel", f"/codex:cancel {record['id']}" if hints and active else None),
        ("Result", f"/codex:result {record['id']}" if hints and not active else None),
    ):
        if value:
            lines.append(f"  {label}: {value}")
    if hints and not active and record.get("jobClass") == "task" and record.get("write"):
        lines += ["  Review changes: /codex:review --wait", "  Stricter review: /codex:adversarial-review --wait"]
    if record.get("progressPreview"):
        lines += ["  Progress:", *(f"    {line}" for line in record["progressPreview"])]
    return lines


def stored_result(record: Record, stored: Record | None) -> str:
    """A finished job's result, as ``result`` prints it."""
    stored = stored or {}
    thread = stored.get("threadId") or record.get("threadId")
    payload = _object(stored.get("result"))
    rendered: object = stored.get("rendered")
    # The answer of a review that has a form is nothing to read; Codex's own reviewer writes text.
    structured = rendered if "result" in payload or ("parseError" in payload and "structured" not in payload) else None
    output = structured or payload.get("rawOutput") or _object(payload.get("codex")).get("stdout")
    if not output and record.get("status") != "cancelled":
        output = rendered
    resume = resume_command({**record, "threadId": thread})
    trailer = [f"Codex session ID: {thread}"] if thread else []
    trailer += [f"Resume in Codex: {resume}"] if resume else []
    if isinstance(output, str) and output:
        text = output if output.endswith("\n") else f"{output}\n"
        return text + ("\n" + "\n".join(trailer) + "\n" if trailer else "")
    lines = [
        f"# {record.get('title') or 'Codex Result'}",
        "",
        f"Job: {record['id']}",
        f"Status: {record.get('status')}",
    ]
    lines += trailer
    if record.get("summary"):
        lines.append(f"Summary: {record['summary']}")
    error = record.get("errorMessage") or stored.get("errorMessage")
    return _text([*lines, "", error or "No captured result payload was stored for this job."])


def cancelled(record: Record) -> str:
    """What ``cancel`` prints."""
    lines = ["# Codex Cancel", "", f"Cancelled {record['id']}.", ""]
    lines += [
        f"- {label}: {record[name]}" for label, name in (("Title", "title"), ("Summary", "summary")) if record.get(name)
    ]
    return _text([*lines, "- Check `/codex:status` for the updated queue."])


def setup_report(report: Document) -> str:
    """What ``setup`` prints."""
    lines = [
        "# Codex Setup",
        "",
        f"Status: {'ready' if report['ready'] else 'needs attention'}",
        "",
        "Checks:",
        *(f"- {name}: {report[name]['detail']}" for name in ("node", "npm", "codex", "auth")),
        f"- session runtime: {report['sessionRuntime']['label']}",
        f"- review gate: {'enabled' if report['reviewGateEnabled'] else 'disabled'}",
        "",
    ]
    for heading, items in (("Actions taken:", report["actionsTaken"]), ("Next steps:", report["nextSteps"])):
        if items:
            lines += [heading, *(f"- {item}" for item in items), ""]
    return _text(lines)


def resume_command(record: Record) -> str | None:
    """How to go on with the job's thread in Codex itself; ``None`` where no thread was kept."""
    # A review's thread is not kept, if the review is one of ours: then nothing can resume it.
    if not record.get("threadId") or ("holdfast" in record and record.get("jobClass") == "review"):
        return None
    return f"codex resume {record['threadId']}"


def _object(value: object) -> Document:
    return cast(Document, value) if isinstance(value, dict) else {}


def _active_row(record: Record) -> str:
    actions = f"`/codex:status {record['id']}`"
    if is_active(record):
        actions += f"<br>`/codex:cancel {record['id']}`"
    names = ("id", "kindLabel", "status", "phase", "elapsed", "threadId", "summary")
    return _row([*(_cell(record.get(name)) for name in names), actions])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    return " ".join(str(value if value is not None else "").replace("|", "\\|").splitlines()).strip()


def _text(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _kind_label(record: Record) -> str:
    label = record.get("kindLabel")
    if isinstance(label, str) and label:
        return label
    if record.get("kind") == "adversarial-review":
        return "adversarial-review"
    for name in ("jobClass", "kind"):
        if record.get(name) == "review":
            return "review"
        if record.get(name) == "task":
            return "rescue"
    return "job"


def _phase(record: Record) -> str:
    known = {"queued": "queued", "cancelled": "cancelled", "failed": "failed", "completed": "done"}
    status = str(record.get("status"))
    return known.get(status) or ("reviewing" if record.get("jobClass") == "review" else "running")


def _last_lines(record: Record) -> list[str]:
    path = record.get("logFile")
    if not isinstance(path, str):
        return []
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_TAIL))
            return preview(file.read().decode(errors="replace"))
    except OSError:
        return []


def _duration(start: object, end: object) -> str | None:
    began, ended = job.seconds(start), job.seconds(end) if end else wall()
    if began is None or ended is None or ended < began:
        return None
    minutes, seconds = divmod(round(ended - began), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"
