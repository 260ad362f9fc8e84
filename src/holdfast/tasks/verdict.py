"""The judgement that a task was asked for: found or missing, never guessed, and missing is not a pass.

A verdict is a line of its own in the agent's own words (not in a code fence, not quoted).  An answer with two different
ones has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec

from holdfast.errors import InvalidRequest
from holdfast.tasks.prose import own_lines
from holdfast.tasks.result import Verdict

if TYPE_CHECKING:
    from holdfast.tasks.request import VerdictRule

#: The usual words: those of reviews, of gates and of reports on work.
APPROVING: Final = ("PASS", "APPROVE", "ALLOW", "DONE")
REJECTING: Final = ("NEEDS_FIX", "BLOCKED", "NEEDS_ATTENTION", "BLOCK", "PARTIAL", "FAILED")

#: A longer line is prose, characters.
LINE_LENGTH: Final = 1_000
#: A longer pattern is a mistake, characters.
PATTERN_LENGTH: Final = 1_000
_WORD: Final = re.compile(r"[^\W_](?:[\w -]{0,62}\w)?")
#: What may stand before the word, in any case; then the word may be in any case, too.
_LABEL: Final = re.compile(r"(?:final |overall )?(?:verdict|decision|status|判定|結論)", re.IGNORECASE)
#: Gates give their reason on the same line.
_WITH_REASON: Final = frozenset({"ALLOW", "BLOCK"})


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict in an answer, or the reason why there is none."""

    value: str | None = None
    #: Counted from 1; ``None`` for a verdict that is no line.
    line: int | None = None
    #: Why there is no verdict: one sentence.
    missing: str | None = None


def check_rule(rule: VerdictRule, output_schema: dict[str, Any] | None) -> None:
    """Refuse a rule that no answer could satisfy.

    :raises InvalidRequest: naming what is wrong with it
    """
    for word in rule.approve:
        if not _WORD.fullmatch(word):
            raise InvalidRequest(f"{word!r} cannot be a verdict.", hint="Give --approve one word, such as PASS.")
    if rule.pattern is not None:
        if output_schema is not None:
            raise InvalidRequest(
                "A pattern for the verdict and a schema for the answer contradict each other.",
                hint="With a schema the verdict is the property 'verdict' of the answer.",
            )
        _check_pattern(rule.pattern)
    if output_schema is not None and not _may_have_verdict(output_schema):
        raise InvalidRequest(
            "A verdict is required, and the schema for the answer has no property 'verdict'.",
            hint="Add the property, or do not require a verdict.",
        )


def find_in_text(text: str, rule: VerdictRule) -> Finding:
    """The verdict among the lines of *text*, by the usual words and those of *rule* (which has no pattern)."""
    words = {_normal(word): word for word in (*rule.approve, *APPROVING, *REJECTING)}
    found: list[tuple[int, str]] = []
    for number, line in own_lines(text):
        if len(line) <= LINE_LENGTH:
            value = _word_of(line, words)
            if value is not None:
                found.append((number, value))
    return agree(found)


def candidate_lines(text: str) -> list[tuple[int, str]]:
    """The lines of *text* that a pattern may match."""
    return [(number, line) for number, line in own_lines(text) if line and len(line) <= LINE_LENGTH]


def find_in_document(document: Any) -> Finding:
    """The verdict in an answer that fits its schema: the property ``verdict``."""
    members = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    value = members.get("verdict")
    if isinstance(value, str) and value.strip():
        return Finding(value=value)
    return Finding(missing="The answer has no property 'verdict' with text in it.")


def agree(found: Sequence[tuple[int, str]]) -> Finding:
    """What several lines with a verdict amount to: the last of them if they all say the same, else nothing."""
    values = list(dict.fromkeys(value for _, value in found))
    if not values:
        return Finding(missing="The answer has no line that is a verdict.")
    if len({_normal(value) for value in values}) > 1:
        named = ", ".join(f"{value[:64]!r}" for value in values[:5])
        return Finding(missing=f"The answer has verdicts that contradict each other: {named}.")
    line, value = found[-1]
    return Finding(value=value, line=line)


def judge(finding: Finding, rule: VerdictRule | None, source: Literal["marker_line", "regex", "schema"]) -> Verdict:
    """The verdict as the result has it."""
    verdict = Verdict(required=rule is not None)
    if finding.value is None:
        return verdict
    approving = rule.approve if rule is not None and rule.approve else APPROVING
    verdict.present, verdict.source = True, source
    verdict.value, verdict.line = finding.value, finding.line
    verdict.approved = _normal(finding.value) in set(map(_normal, approving))
    return verdict


def _word_of(line: str, words: dict[str, str]) -> str | None:
    """The verdict that *line* consists of: ``PASS``, ``**PASS**``, ``Verdict: pass``, ``ALLOW: the reason``."""
    bare = line.lstrip("#").strip().replace("**", "").replace("__", "").strip("*_ ")
    label, separator, rest = _partition(bare)
    if separator and _LABEL.fullmatch(label):
        return words.get(_normal(rest.strip("`*_ .。")))
    if separator and label in _WITH_REASON and rest:
        return label
    # Without a label only a word as it is written here counts: "Done." is how people end a sentence.
    return next((word for word in words.values() if bare == word), None)


def _partition(line: str) -> tuple[str, str, str]:
    cut = min((at for at in (line.find(":"), line.find("："), line.find("=")) if at >= 0), default=-1)
    return (line, "", "") if cut < 0 else (line[:cut].strip("`*_ "), line[cut], line[cut + 1 :].strip())


def _normal(word: str) -> str:
    return re.sub(r"[\s_-]+", "_", word.strip()).casefold()


def _check_pattern(pattern: str) -> None:
    if not pattern or len(pattern) > PATTERN_LENGTH:
        raise InvalidRequest(
            f"A pattern for the verdict has 1 to {PATTERN_LENGTH} characters.",
            hint="Give a shorter regular expression.",
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequest(
            f"The pattern for the verdict is not a regular expression: {error}.",
            hint="Write it as Python's re module does; it must match a whole line.",
        ) from None


def _may_have_verdict(schema: dict[str, Any]) -> bool:
    properties = schema.get("properties")
    composed: Iterable[str] = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if")
    return (isinstance(properties, dict) and "verdict" in properties) or any(key in schema for key in composed)
