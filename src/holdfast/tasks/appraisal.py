"""What an answer is worth beyond being there: whether it has the judgement, or the shape, that was asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.tasks.checker import ANSWER_BYTES, CheckFailed, fit_schema, match_lines
from holdfast.tasks.intent import ends_with_intent
from holdfast.tasks.request import TaskRequest
from holdfast.tasks.result import MessagePart, Status, Verdict
from holdfast.tasks.verdict import Finding, agree, candidate_lines, find_in_document, find_in_text, judge


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in an answer."""

    verdict: Verdict
    #: Why the answer is not what was asked for, although there is one; ``None`` if it is.
    lack: Failure | None = None
    ends_with_intent: bool = False


async def appraise(request: TaskRequest, message: MessagePart) -> Appraisal:
    """Look in the answer that *message* describes for what *request* asks for beyond an answer."""
    rule, schema = request.verdict, request.output_schema
    if not (message.text or "").strip():
        return Appraisal(verdict=Verdict(required=rule is not None))
    if message.bytes > ANSWER_BYTES:
        why = f"An answer of {message.bytes} bytes is not looked through; {ANSWER_BYTES} is the limit."
        lack = _unmet([why]) if schema is not None else None if rule is None else _no_verdict(why)
        return Appraisal(verdict=Verdict(required=rule is not None), lack=lack)
    text = await _text(message)
    intent = await asyncio.to_thread(ends_with_intent, text)
    if schema is not None:
        try:
            document, unmet = await fit_schema(schema, text)
        except CheckFailed as error:
            document, unmet = None, [error.message]
        if unmet:
            return Appraisal(verdict=Verdict(required=rule is not None), lack=_unmet(unmet), ends_with_intent=intent)
        finding = find_in_document(document)
        verdict = judge(finding, rule, "schema")
        verdict.structured = document
        lack = _no_verdict(finding.missing) if rule is not None and finding.missing else None
        return Appraisal(verdict=verdict, lack=lack)
    if rule is None:
        return Appraisal(verdict=Verdict(), ends_with_intent=intent)
    if rule.pattern is None:
        finding = await asyncio.to_thread(find_in_text, text, rule)
    else:
        finding = await _find_by_pattern(text, rule.pattern)
    return Appraisal(
        verdict=judge(finding, rule, "marker_line" if rule.pattern is None else "regex"),
        lack=None if finding.missing is None else _no_verdict(finding.missing),
        ends_with_intent=intent,
    )


def settled(verdict: Verdict, message: MessagePart, status: Status) -> Verdict:
    """What is left of *verdict* when it is known how the task ended.

    Words of an agent that failed, or was ended, are no judgement, whatever they look like; and an answer that is not
    the whole can reject but not approve.
    """
    if message.complete:
        return verdict
    if status is Status.PARTIAL and verdict.present:
        return msgspec.structs.replace(verdict, approved=None if verdict.approved else verdict.approved)
    return Verdict(required=verdict.required)


async def _find_by_pattern(text: str, pattern: str) -> Finding:
    try:
        return agree(await match_lines(pattern, await asyncio.to_thread(candidate_lines, text)))
    except CheckFailed as error:
        return Finding(missing=f"{error.message} So the answer has no verdict.")


async def _text(message: MessagePart) -> str:
    if not message.inline_truncated or message.path is None:
        return message.text or ""
    return (await asyncio.to_thread(Path(message.path).read_bytes)).decode(errors="replace")


def _unmet(reasons: list[str]) -> Failure:
    return Failure(
        failure_class=FailureClass.SCHEMA_UNMET,
        message=f"The answer does not fit its schema: {'; '.join(reasons)}",
        remedy=[Remedy(text="Read the answer as it is, then ask again, or relax the schema.")],
    )


def _no_verdict(reason: str) -> Failure:
    return Failure(
        failure_class=FailureClass.NO_VERDICT,
        message=f"The agent gave no verdict: {reason}",
        remedy=[
            Remedy(text="Ask again, more narrowly, and name the words that you wait for; silence is not approval.")
        ],
    )
