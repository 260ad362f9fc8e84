"""What a finished review comes to: the document, the text, and whether it is a review at all."""

from __future__ import annotations

import json
from typing import Any, Final, cast

from holdfast.companion.daemon import Document
from holdfast.companion.job import first_line, why
from holdfast.companion.view import Record

_SEVERITIES: Final = ("critical", "high", "medium", "low")


def native(
    record: Record, result: Document, answer: str, reasoning: list[str], details: Document
) -> tuple[Document, str, str, str | None]:
    """Payload, text, summary and reason (``None`` for a success) of a review by Codex's own reviewer."""
    reason = None if result["status"] == "completed" else why(result)
    payload = _payload("Review", result, answer, reasoning, details)
    payload["sourceThreadId"] = result["thread"]["id"]
    payload["structured"], payload["parseError"] = _findings_in(
        answer, result["verdict"].get("structured"), record["workspaceRoot"]
    )
    lines = _head("Review", details)
    if answer.strip():
        lines.append(answer.strip())
    if reason is not None:
        lines += ["Codex review failed.", "", reason] if not answer.strip() else ["", f"Codex review failed: {reason}"]
    return payload, _text(lines, reasoning), first_line(answer) or reason or "Review completed.", reason


def adversarial(
    record: Record, result: Document, answer: str, reasoning: list[str], details: Document
) -> tuple[Document, str, str, str | None]:
    """The same of a review whose answer has to be findings in JSON; anything else is no review, and no success."""
    del record
    failed = None if result["status"] == "completed" or _is_unmet(result) else why(result)
    parsed, complaint = _parse(answer) if answer.strip() else (None, failed or "Codex did not return a final message.")
    shape = None if parsed is None else _shape_error(parsed)
    payload = _payload("Adversarial Review", result, answer, reasoning, details)
    payload.update(
        context=details.get("context"),
        result=parsed,
        rawOutput=answer,
        parseError=complaint,
        reasoningSummary=reasoning,
    )
    reason = failed or complaint or shape
    if reason is not None and "error" not in payload:
        payload["error"] = {"code": "schema_unmet", "message": reason, "hint": None, "status": "failed"}
    if parsed is None or shape is not None:
        text = _unreadable(answer, failed, complaint, shape, details)
        return payload, _text(text, reasoning), reason or "", reason
    review = cast(Document, parsed)
    lines = _head("Adversarial Review", details)
    lines[-1:] = [f"Verdict: {str(review['verdict']).strip()}", "", str(review["summary"]).strip(), ""]
    lines += _findings(cast("list[object]", review["findings"]))
    steps = [
        step.strip() for step in cast("list[object]", review["next_steps"]) if isinstance(step, str) and step.strip()
    ]
    if steps:
        lines += ["", "Next steps:", *(f"- {step}" for step in steps)]
    return payload, _text(lines, reasoning), str(review["summary"]), reason


def _is_unmet(result: Document) -> bool:
    """Whether the only fault is that the answer has not the required form; then it can be said more exactly here."""
    return cast(Document, result["error"] or {}).get("class") == "schema_unmet"


def _payload(name: str, result: Document, answer: str, reasoning: list[str], details: Document) -> Document:
    from holdfast.companion.outcome import error_of

    completed = result["status"] == "completed"
    error = cast(Document, result["error"] or {})
    stderr = "" if completed else "\n".join(cast("list[str]", error.get("stderr_tail") or []))
    payload: Document = {
        "review": name,
        "target": details.get("target"),
        "threadId": result["thread"]["id"],
        "codex": {"status": 0 if completed else 1, "stderr": stderr, "stdout": answer, "reasoning": reasoning},
    }
    if not completed:
        payload["error"] = error_of(result)
    return payload


def _head(name: str, details: Document) -> list[str]:
    target = cast(Document, details.get("target") or {})
    return [f"# Codex {name}", "", f"Target: {target.get('label', 'unknown')}", ""]


def _unreadable(
    answer: str, failed: str | None, complaint: str | None, shape: str | None, details: Document
) -> list[str]:
    lines = _head("Adversarial Review", details)
    if failed is not None:
        lines += ["Codex review failed before returning a final verdict.", "", f"- Runtime error: {failed}"]
    elif shape is not None:
        lines += ["Codex returned JSON with an unexpected review shape.", "", f"- Validation error: {shape}"]
    else:
        lines += ["Codex did not return valid structured JSON.", "", f"- Parse error: {complaint}"]
    if answer.strip():
        lines += ["", "Raw final message:", "", "```text", answer.strip(), "```"]
    return lines


def _parse(answer: str) -> tuple[object, str | None]:
    try:
        return json.loads(answer), None
    except ValueError as error:
        return None, str(error)


def _shape_error(parsed: object) -> str | None:
    if not isinstance(parsed, dict):
        return "Expected a top-level JSON object."
    review = cast(Document, parsed)
    for name in ("verdict", "summary"):
        if not isinstance(review.get(name), str) or not review[name].strip():
            return f"Missing string `{name}`."
    for name in ("findings", "next_steps"):
        if not isinstance(review.get(name), list):
            return f"Missing array `{name}`."
    return None


def _findings(found: list[object]) -> list[str]:
    findings = [_finding(each, number) for number, each in enumerate(found, start=1)]
    if not findings:
        return ["No material findings."]
    lines = ["Findings:"]
    for each in sorted(findings, key=lambda each: _rank(each["severity"])):
        lines.append(f"- [{each['severity']}] {each['title']} ({each['file']}{each['lines']})")
        lines.append(f"  {each['body']}")
        if each["recommendation"]:
            lines.append(f"  Recommendation: {each['recommendation']}")
    return lines


def _finding(value: object, number: int) -> dict[str, str]:
    given = cast(Document, value) if isinstance(value, dict) else {}
    start, end = _line(given.get("line_start")), _line(given.get("line_end"))
    lines = "" if start is None else f":{start}"
    if start is not None and end is not None and end > start:
        lines += f"-{end}"
    return {
        "severity": _string(given.get("severity"), "low"),
        "title": _string(given.get("title"), f"Finding {number}"),
        "body": _string(given.get("body"), "No details provided."),
        "file": _string(given.get("file"), "unknown"),
        "recommendation": _string(given.get("recommendation"), ""),
        "lines": lines,
    }


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


def _line(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _string(value: object, default: str) -> str:
    return value.strip() if isinstance(value, str) and value.strip() else default


def _findings_in(answer: str, judged: object, root: str) -> tuple[Document | None, str | None]:
    """What the reviewer said and *judged*, in the form of the other review; or why it cannot be read so."""
    from pathlib import Path

    import msgspec

    from holdfast.tasks.review.findings import SchemaUnmet, read_native

    try:
        return msgspec.to_builtins(read_native(answer, judged, Path(root))), None
    except SchemaUnmet as error:
        return None, str(error)


def _text(lines: list[str], reasoning: list[str]) -> str:
    if reasoning:
        lines = [*lines, "", "Reasoning:", *(f"- {section}" for section in reasoning)]
    return "\n".join(lines).rstrip() + "\n"
