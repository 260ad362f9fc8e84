"""What a review found, in one form: from the JSON of a prompted review, or from the text of Codex's own reviewer."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec


class Severity(StrEnum):
    """How bad a finding is, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Judgement(StrEnum):
    """What a review comes to."""

    APPROVE = "approve"
    NEEDS_ATTENTION = "needs-attention"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    severity: Severity
    title: str
    body: str
    #: Relative to the root of the repository.
    file: str
    #: The first line is 1.
    line_start: int
    line_end: int
    #: From 0 to 1; ``None`` where the reviewer does not say.
    confidence: float | None
    recommendation: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a review found."""

    #: ``None`` where the reviewer states none: absence of findings in a text is no approval.
    verdict: Judgement | None
    summary: str
    #: Worst first.
    findings: list[Finding]
    next_steps: list[str]
    #: How sure the reviewer is of the verdict, from 0 to 1; ``None`` where it does not say.
    confidence: float | None = None


class SchemaUnmet(Exception):
    """An answer is not in the form that was asked for; the message says why."""


_TEXT: Final = {"type": "string"}
#: The form of an answer, as JSON Schema that also the strictest reader of schemas takes: all is required, no more.
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": list(map(str, Judgement))},
        "summary": _TEXT,
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "severity": {"type": "string", "enum": list(map(str, Severity))},
                    "title": _TEXT,
                    "body": _TEXT,
                    "file": _TEXT,
                    "line_start": {"type": "integer", "description": "The first line is 1."},
                    "line_end": {"type": "integer", "description": "Not before line_start."},
                    "confidence": {"type": "number", "description": "From 0 to 1."},
                    "recommendation": _TEXT,
                },
                "required": [
                    *("severity", "title", "body", "file"),
                    *("line_start", "line_end", "confidence", "recommendation"),
                ],
                "additionalProperties": False,
            },
        },
        "next_steps": {"type": "array", "items": _TEXT},
    },
    "required": ["verdict", "summary", "findings", "next_steps"],
    "additionalProperties": False,
}

_Line = Annotated[int, msgspec.Meta(ge=1)]


class _Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    severity: Severity
    title: str
    body: str
    file: str
    line_start: _Line
    line_end: _Line
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]
    recommendation: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    verdict: Judgement
    summary: str
    findings: list[_Finding]
    next_steps: list[str]


def parse_answer(text: str) -> Report:
    """Read the answer of a prompted review: the JSON object alone, or in the one fenced block of the answer.

    :raises SchemaUnmet: it is something else
    """
    try:
        answer = msgspec.json.decode(_unfenced(text), type=_Answer)
    except msgspec.ValidationError as error:
        raise SchemaUnmet(str(error)) from None
    except msgspec.DecodeError as error:
        raise SchemaUnmet(f"it is not the JSON object that was asked for ({error})") from None
    for finding in answer.findings:
        if finding.line_end < finding.line_start:
            raise SchemaUnmet(f"the finding {finding.title!r} ends before it begins")
    findings = [Finding(**msgspec.structs.asdict(finding)) for finding in answer.findings]
    return Report(
        verdict=answer.verdict, summary=answer.summary, findings=worst_first(findings), next_steps=answer.next_steps
    )


def _unfenced(text: str) -> str:
    text = text.strip()
    if text.startswith("{"):
        return text
    lines = text.splitlines()
    # No line of a JSON text can begin so: within its strings line feeds are escaped.
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith("```")]
    if len(fences) != 2:
        return text
    return "\n".join(lines[fences[0] + 1 : fences[1]])


#: What Codex 0.169 writes between the explanation and the list (measured): the first for one finding, else the second.
_HEADINGS: Final = ("Review comment:", "Full review comments:")
#: The head of a finding: title, a dash between blanks, an absolute path, the lines.
_HEAD: Final = re.compile(r"- (?P<title>.+?) — (?P<file>/.+):(?P<start>[0-9]+)-(?P<end>[0-9]+)")
_PRIORITY: Final = re.compile(r"\[P(?P<priority>[0-3])\] *")
_SEVERITIES: Final = (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW)
#: What Codex's reviewer says instead of a review when its model gave none (measured on 0.169).
_INTERRUPTED: Final = "Review was interrupted. Please re-run /review and wait for it to complete."


def parse_native(text: str, root: Path) -> Report:
    """Read what Codex's own reviewer wrote: an explanation, a heading, and a list of findings with indented bodies.

    Its text has no verdict: with findings it is ``needs-attention``, without any it is none.

    :param root: of the repository; paths below it become relative
    :raises SchemaUnmet: there was no review, or a list that we cannot read
    """
    if not text.strip() or text.strip() == _INTERRUPTED:
        raise SchemaUnmet("the reviewer gave no review")
    lines = text.splitlines()
    heading = next((number for number, line in enumerate(lines) if line in _HEADINGS), None)
    if heading is None:
        return Report(verdict=None, summary=text.strip(), findings=[], next_steps=[])
    findings: list[Finding] = []
    for block in _blocks(lines[heading + 1 :]):
        head = _HEAD.fullmatch(block[0])
        if head is None:
            raise SchemaUnmet(f"{block[0][:100]!r} is not the head of a finding")
        priority = _PRIORITY.match(head["title"])
        findings.append(
            Finding(
                severity=Severity.MEDIUM if priority is None else _SEVERITIES[int(priority["priority"])],
                title=_PRIORITY.sub("", head["title"], count=1),
                body="\n".join(line.removeprefix("  ") for line in block[1:]).strip(),
                file=_relative(head["file"], root),
                line_start=int(head["start"]),
                line_end=int(head["end"]),
                confidence=None,
                recommendation="",
            )
        )
    if not findings:
        raise SchemaUnmet("it announces findings and has none")
    summary = "\n".join(lines[:heading]).strip()
    return Report(verdict=Judgement.NEEDS_ATTENTION, summary=summary, findings=worst_first(findings), next_steps=[])


class _Lines(msgspec.Struct, frozen=True):
    start: _Line
    end: _Line


class _Location(msgspec.Struct, frozen=True):
    absolute_file_path: str
    line_range: _Lines


class _NativeFinding(msgspec.Struct, frozen=True):
    title: str
    body: str
    confidence_score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    code_location: _Location
    priority: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None


class _NativeAnswer(msgspec.Struct, frozen=True):
    """Codex's ``ReviewOutputEvent`` (0.142 to 0.169)."""

    findings: list[_NativeFinding]
    overall_correctness: Literal["patch is correct", "patch is incorrect"]
    overall_explanation: str
    overall_confidence_score: Annotated[float, msgspec.Meta(ge=0, le=1)]


def read_native(text: str, document: object, root: Path) -> Report:
    """Read what Codex's own reviewer said: by what it has on record, if that is what it wrote, else by its text.

    Only the record has a verdict beside findings, and how sure it is.  It approves if it calls the patch correct and
    names nothing that contradicts that: a finding that is urgent, or does not say how urgent it is.

    :param document: the record, whatever it is
    :param root: of the repository; paths below it become relative
    :raises SchemaUnmet: there was no review, or a list that we cannot read
    """
    try:
        answer = msgspec.convert(document, _NativeAnswer)
    except msgspec.ValidationError:
        return parse_native(text, root)
    if not _is_record_of(answer, text):
        return parse_native(text, root)
    findings: list[Finding] = []
    urgent = False
    for each in answer.findings:
        named = _PRIORITY.match(each.title)
        priority = each.priority if each.priority is not None else int(named["priority"]) if named is not None else None
        severity = Severity.MEDIUM if priority is None else _SEVERITIES[priority]
        urgent = urgent or priority is None or severity in (Severity.CRITICAL, Severity.HIGH)
        findings.append(
            Finding(
                severity=severity,
                title=_PRIORITY.sub("", each.title, count=1),
                body=each.body.strip(),
                file=_relative(each.code_location.absolute_file_path, root),
                line_start=each.code_location.line_range.start,
                line_end=each.code_location.line_range.end,
                confidence=each.confidence_score,
                recommendation="",
            )
        )
    approves = answer.overall_correctness == "patch is correct" and not urgent
    return Report(
        verdict=Judgement.APPROVE if approves else Judgement.NEEDS_ATTENTION,
        summary=answer.overall_explanation.strip(),
        findings=worst_first(findings),
        next_steps=[],
        confidence=answer.overall_confidence_score,
    )


def _is_record_of(answer: _NativeAnswer, text: str) -> bool:
    """Whether *text* is what the reviewer makes of *answer*: nothing is judged by the record of something else."""
    if not (answer.overall_explanation.strip() or answer.findings):
        return False
    heads: list[str] = []
    for each in answer.findings:
        lines = each.code_location.line_range
        if lines.end < lines.start:
            return False
        heads.append(f"- {each.title} — {each.code_location.absolute_file_path}:{lines.start}-{lines.end}")
    rest = text.strip()
    explanation = answer.overall_explanation.strip()
    if not rest.startswith(explanation):
        return False
    rest = rest.removeprefix(explanation).strip()
    if not heads:
        return not rest
    heading, _, listed = rest.partition("\n")
    at = 0
    for head in heads:
        at = listed.find(head, at)
        if at < 0:
            return False
        at += len(head)
    return heading.strip() in _HEADINGS


def _blocks(lines: list[str]) -> list[list[str]]:
    """*lines* cut before each one that is not indented; a body is indented by two blanks throughout."""
    blocks: list[list[str]] = []
    for line in lines:
        if line and not line.startswith("  "):
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
    return blocks


def _relative(path: str, root: Path) -> str:
    below = Path(path)
    return str(below.relative_to(root)) if below.is_relative_to(root) else path


def worst_first(findings: list[Finding]) -> list[Finding]:
    """*findings* by severity, otherwise in their order."""
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))
