"""An answer is a review, or it is said why not; nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.tasks.review.findings import (
    SCHEMA,
    Finding,
    Judgement,
    SchemaUnmet,
    Severity,
    parse_answer,
    parse_native,
    read_native,
)

ROOT = Path("/work/project")


def finding(**changes: Any) -> dict[str, Any]:
    usual = {"severity": "high", "title": "T", "body": "```\nB\n```", "file": "a.py", "line_start": 3, "line_end": 4}
    return {**usual, "confidence": 0.5, "recommendation": "R", **changes}


def answer(**changes: Any) -> str:
    return json.dumps(
        {"verdict": "needs-attention", "summary": "S", "findings": [finding()], "next_steps": []} | changes
    )


def test_the_object_alone() -> None:
    report = parse_answer(f"\n{answer(next_steps=['Go on.'])}\n")
    assert report.verdict is Judgement.NEEDS_ATTENTION
    assert report.findings[0] == Finding(**finding(severity=Severity.HIGH))
    assert report.next_steps == ["Go on."]


def test_the_object_in_the_one_fence() -> None:
    for text in (f"```json\n{answer()}\n```", f"Here it is:\n\n```\n{answer()}\n```\nDone."):
        assert parse_answer(text).summary == "S"


def test_the_worst_comes_first() -> None:
    severities = ["low", "critical", "medium", "high", "critical"]
    found = parse_answer(answer(findings=[finding(severity=each, title=str(n)) for n, each in enumerate(severities)]))
    assert [each.title for each in found.findings] == ["1", "4", "3", "2", "0"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Looks good to me.",
        "approve",
        answer()[:-1],
        answer() + answer(),
        answer(verdict="fine"),
        answer(verdict=None),
        answer(more=1),
        answer(findings=[finding(severity="blocker")]),
        answer(findings=[finding(line_start=0)]),
        answer(findings=[finding(line_start=5)]),
        answer(findings=[finding(confidence=2)]),
        answer(findings=[{"title": "T"}]),
        f"```\n{answer()}\n```\n```\n{answer()}\n```",
        f"I think {answer()}",
    ],
)
def test_anything_else_is_no_review(text: str) -> None:
    with pytest.raises(SchemaUnmet):
        parse_answer(text)


def test_the_schema_asks_for_all_and_no_more() -> None:
    def check(part: dict[str, Any]) -> None:
        if part["type"] == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
            for member in part["properties"].values():
                check(member)
        elif part["type"] == "array":
            check(part["items"])

    check(SCHEMA)
    assert set(SCHEMA["properties"]["findings"]["items"]["properties"]) == set(Finding.__struct_fields__)


#: As Codex 0.169 wrote it.
NATIVE = """It breaks.
Two lines.

Full review comments:

- [P1] Off by one in loop — /work/project/a.txt:1-2
  First line of body.
  Second line.
  \n  After blank.

- No priority word — /work/elsewhere/b — c.txt:5-5
  Body two

- [P0] Worst — /work/project/d.txt:7-7"""


def test_the_list_of_the_native_reviewer() -> None:
    report = parse_native(NATIVE, ROOT)
    assert report.verdict is Judgement.NEEDS_ATTENTION
    assert report.summary == "It breaks.\nTwo lines."
    assert [(each.severity, each.title, each.file, each.line_start, each.line_end) for each in report.findings] == [
        ("critical", "Worst", "d.txt", 7, 7),
        ("high", "Off by one in loop", "a.txt", 1, 2),
        ("medium", "No priority word", "/work/elsewhere/b — c.txt", 5, 5),
    ]
    assert report.findings[1].body == "First line of body.\nSecond line.\n\nAfter blank."


def test_one_finding_has_another_heading() -> None:
    report = parse_native("Review comment:\n\n- [P3] T — /work/project/a:1-1\n  B", ROOT)
    assert [(each.severity, each.body) for each in report.findings] == [("low", "B")]


def test_a_native_text_without_findings_is_no_approval() -> None:
    report = parse_native("Looks fine.\n- a list — of something", ROOT)
    assert (report.verdict, report.findings) == (None, [])
    assert report.summary.startswith("Looks fine.")


def record(correctness: str = "patch is correct", priority: int | None = 2, **fields: Any) -> dict[str, Any]:
    finding = {
        "title": "Twice",
        "body": "The loop.",
        "confidence_score": 0.5,
        "priority": priority,
        "code_location": {"absolute_file_path": "/work/project/a.txt", "line_range": {"start": 2, "end": 3}},
    }
    return {
        "findings": [finding],
        "overall_correctness": correctness,
        "overall_explanation": "Looks right.\n",
        "overall_confidence_score": 0.8,
        **fields,
    }


TEXT = "Looks right.\n\nReview comment:\n\n- Twice — /work/project/a.txt:2-3\n  The loop."


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        (record(), Judgement.APPROVE),
        (record(priority=3), Judgement.APPROVE),
        (record("patch is incorrect"), Judgement.NEEDS_ATTENTION),
        (record(priority=1), Judgement.NEEDS_ATTENTION),
        (record(priority=None), Judgement.NEEDS_ATTENTION),
    ],
)
def test_the_record_of_the_native_reviewer_has_its_verdict(document: dict[str, Any], verdict: Judgement) -> None:
    report = read_native(TEXT, document, ROOT)
    assert (report.verdict, report.summary, report.confidence) == (verdict, "Looks right.", 0.8)
    (found,) = report.findings
    assert (found.file, found.line_start, found.line_end, found.confidence) == ("a.txt", 2, 3, 0.5)


def test_an_approval_without_findings_is_one() -> None:
    report = read_native("Looks right.", record(findings=[]), ROOT)
    assert (report.verdict, report.findings) == (Judgement.APPROVE, [])


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        # What Codex 0.169 records of a reviewer that answered in prose.
        record("", findings=[], overall_confidence_score=0.0),
        record("patch is perfect", findings=[]),
        record(findings=[], overall_confidence_score=1.5),
        record(findings=[], overall_confidence_score=None),
        # The record of another review.
        record(findings=[], overall_explanation="Looks"),
        record(findings=[], overall_explanation=""),
        record(),
    ],
)
def test_any_other_record_judges_nothing(document: object) -> None:
    report = read_native("Looks right.", document, ROOT)
    assert (report.verdict, report.confidence, report.summary) == (None, None, "Looks right.")


@pytest.mark.parametrize(
    "document",
    [
        record(findings=[]),
        record(findings=record()["findings"] * 2),
        record(findings=[record()["findings"][0] | {"title": "Once"}]),
        record(findings=[record()["findings"][0] | {"code_location": {}}]),
    ],
)
def test_a_record_of_other_findings_judges_nothing(document: object) -> None:
    report = read_native(TEXT, document, ROOT)
    assert (report.verdict, report.confidence, len(report.findings)) == (Judgement.NEEDS_ATTENTION, None, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Review was interrupted. Please re-run /review and wait for it to complete.",
        "Full review comments:\n\nnothing of the kind",
        "Review comment:\n",
    ],
)
def test_no_native_review(text: str) -> None:
    with pytest.raises(SchemaUnmet):
        parse_native(text, ROOT)
