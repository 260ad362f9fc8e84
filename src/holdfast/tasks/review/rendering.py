"""A finished review as one document, and as text for people.  Both can be made again from the task at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from holdfast.agents.failure import FailureClass
from holdfast.errors import InvalidRequest
from holdfast.tasks.result import EXIT_CODES, ErrorPart, Result, Status
from holdfast.tasks.review.findings import Finding, Judgement, Report, SchemaUnmet, parse_answer, read_native
from holdfast.tasks.review.plan import TAG, ReviewTag
from holdfast.tasks.review.targets import Target
from holdfast.tasks.view import TaskView

#: Exit status of a review whose form is not the one that was asked for.
UNMET_EXIT_CODE: Final = EXIT_CODES[Status.NO_SIGNAL]
#: Exit status of a review that does not approve, for who asked for it.
REJECTED_EXIT_CODE: Final = 5
#: Outcomes whose answer is shown although it is not the whole.
_SHOWS_ANSWER: Final = frozenset({Status.COMPLETED, Status.PARTIAL, Status.NO_SIGNAL})


class NotAReview(InvalidRequest):
    """A task is something else than a review."""

    code = "not_a_review"


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """How a review ended and what it found."""

    schema: Literal["holdfast.review/1"] = "holdfast.review/1"
    task_id: str
    agent: str
    #: How the task ended.
    status: Status
    #: The task completed, and its answer is a review.
    ok: bool
    #: As ``holdfast review`` exits, without ``--fail-on-reject``.
    exit_code: int
    target: Target
    #: Done by the agent's own reviewer.
    native: bool
    adversarial: bool
    #: ``None`` without a review, and where an agent's own reviewer states none and has no findings.
    verdict: Judgement | None = None
    #: How sure the reviewer is of the verdict, from 0 to 1; ``None`` where it does not say.
    confidence: float | None = None
    summary: str | None = None
    #: Worst first.
    findings: list[Finding] = []
    next_steps: list[str] = []
    #: Why the answer is no review; then ``raw`` is all there is.
    schema_unmet: str | None = None
    #: The answer as the agent gave it.
    raw: str = ""
    #: Why the task did not complete.
    error: ErrorPart | None = None
    thread_id: str | None = None
    warnings: list[str] = []


def tag_of(view: TaskView) -> ReviewTag:
    """What is known about the review that a task is.

    :raises NotAReview: it is none
    """
    tag = view.tags.get(TAG)
    if tag is None:
        raise NotAReview(f"Task {view.id} is not a review.", hint=f"See: holdfast result {view.id}")
    return msgspec.json.decode(tag, type=ReviewTag)


def review_of(result: Result, tag: ReviewTag, message: bytes) -> Review:
    """The review that a finished task has made.

    :param message: the answer, whole
    """
    raw = message.decode("utf-8", "replace")
    report, unmet = None, None
    # What was said before a task failed may look whole, and is not to be taken for it.
    if result.status is Status.COMPLETED:
        try:
            report = _report(result, tag, raw)
        except SchemaUnmet as error:
            unmet = str(error)
    elif result.error is not None and result.error.error_class is FailureClass.SCHEMA_UNMET:
        unmet = result.error.message
    ok = result.ok and report is not None
    return Review(
        task_id=result.task_id,
        agent=result.backend.name,
        status=result.status,
        ok=ok,
        exit_code=result.exit.wrapper_code or (0 if ok else UNMET_EXIT_CODE),
        target=tag.target,
        native=tag.native,
        adversarial=tag.adversarial,
        verdict=None if report is None else report.verdict,
        confidence=None if report is None else report.confidence,
        summary=None if report is None else report.summary,
        findings=[] if report is None else report.findings,
        next_steps=[] if report is None else report.next_steps,
        schema_unmet=unmet,
        raw=raw,
        error=result.error,
        thread_id=result.thread.id,
        warnings=result.warnings,
    )


def _report(result: Result, tag: ReviewTag, raw: str) -> Report:
    if not tag.native:
        return parse_answer(raw)
    return read_native(raw, result.verdict.structured, Path(tag.root))


def exit_code(review: Review, *, fail_on_reject: bool) -> int:
    """The exit status of a command that shows *review*; who fails on a rejection wants an approval, not its absence."""
    if review.exit_code == 0 and fail_on_reject and review.verdict is not Judgement.APPROVE:
        return REJECTED_EXIT_CODE
    return review.exit_code


def render(review: Review) -> str:
    """*review* as text.  An answer that is no review is shown as it is, and what was said before a failure is not."""
    if not review.ok:
        return review.raw if review.schema_unmet is not None or review.status in _SHOWS_ANSWER else ""
    title = "Adversarial review" if review.adversarial else "Review"
    lines = [f"# {title}", "", f"Target: {review.target.label}"]
    sure = "" if review.confidence is None else f" (confidence {review.confidence:g})"
    lines.append(f"Verdict: {review.verdict or 'not stated'}{sure}")
    if review.summary:
        lines += ["", review.summary]
    lines.append("")
    if review.findings:
        lines.append("Findings:")
        for finding in review.findings:
            lines += _finding(finding)
    else:
        lines.append("No findings.")
    if review.next_steps:
        lines += ["", "Next steps:", *(f"- {_indented(step)}" for step in review.next_steps)]
    return "\n".join(lines) + "\n"


def _finding(finding: Finding) -> list[str]:
    lines = f"{finding.line_start}-{finding.line_end}" if finding.line_end != finding.line_start else finding.line_start
    text = [f"- [{finding.severity}] {_indented(finding.title)} ({finding.file}:{lines})"]
    if finding.body:
        text.append(f"  {_indented(finding.body)}")
    if finding.recommendation:
        text.append(f"  Recommendation: {_indented(finding.recommendation)}")
    return text


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.strip().splitlines()).removeprefix("  ")
