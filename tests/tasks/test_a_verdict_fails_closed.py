"""A verdict is a line of its own in the agent's own words, or it is not there; what is not there approves nothing."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidRequest
from holdfast.tasks import checker
from holdfast.tasks.appraisal import settled
from holdfast.tasks.request import VerdictRule
from holdfast.tasks.result import MessagePart, Status, Verdict
from holdfast.tasks.verdict import agree, candidate_lines, check_rule, find_in_document, find_in_text, judge

USUAL = VerdictRule()


@pytest.mark.parametrize(
    ("answer", "value", "approved"),
    [
        ("All good.\n\nPASS", "PASS", True),
        ("PASS\n", "PASS", True),
        ("**PASS**", "PASS", True),
        ("## Verdict: `needs fix`", "NEEDS_FIX", False),
        ("Verdict: needs-attention.", "NEEDS_ATTENTION", False),
        ("**Verdict:** APPROVE", "APPROVE", True),
        ("判定：PASS", "PASS", True),
        ("STATUS: DONE\nCHANGED_FILES: (none)", "DONE", True),
        ("STATUS: PARTIAL\nBLOCKERS: none", "PARTIAL", False),
        ("ALLOW: nothing was changed", "ALLOW", True),
        ("BLOCK: the test was weakened", "BLOCK", False),
        ("PASS\nand, to say it again:\nPASS", "PASS", True),
        ("```\nNEEDS_FIX\n```\nPASS", "PASS", True),
        ("> NEEDS_FIX\n\nPASS\r\n", "PASS", True),
    ],
)
def test_r36_a_line_of_its_own_is_a_verdict(answer: str, value: str, approved: bool) -> None:
    verdict = judge(find_in_text(answer, USUAL), USUAL, "marker_line")
    assert (verdict.present, verdict.value, verdict.approved, verdict.source) == (True, value, approved, "marker_line")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "All tests PASS.",
        "I would say PASS",
        "Done.",
        "pass",
        "- PASS",
        "`PASS`",
        "```\nPASS\n```",
        "~~~text\nPASS\n~~~",
        "```\nPASS",
        "````\n```\nPASS\n````",
        "> PASS",
        "    PASS",
        "\tPASS",
        "PASS: the tests",
        "PASS NEEDS_FIX",
        "Verdict: PASS or NEEDS_FIX",
        "Verdict:\nnot decided",
        "PASS\nNEEDS_FIX",
        "Answer with one of\nPASS\nNEEDS_FIX\nBLOCKED",
        "DONE\nPASS",
        "PASS" + " " * 2000 + ".",
    ],
)
def test_r36_everything_else_is_none(answer: str) -> None:
    finding = find_in_text(answer, USUAL)
    verdict = judge(finding, USUAL, "marker_line")
    assert finding.missing
    assert (verdict.required, verdict.present, verdict.value, verdict.approved) == (True, False, None, None)


def test_r36_the_words_that_approve_are_the_callers() -> None:
    rule = VerdictRule(approve=["LGTM"])
    assert judge(find_in_text("LGTM", rule), rule, "marker_line").approved is True
    assert judge(find_in_text("Verdict: lgtm", rule), rule, "marker_line").approved is True
    assert judge(find_in_text("PASS", rule), rule, "marker_line").approved is False


async def _matched(answer: str, rule: VerdictRule) -> tuple[str | None, bool | None]:
    assert rule.pattern is not None
    verdict = judge(agree(await checker.match_lines(rule.pattern, candidate_lines(answer))), rule, "regex")
    return verdict.value, verdict.approved


async def test_r36_a_pattern_matches_whole_lines_outside_of_code() -> None:
    rule = VerdictRule(pattern=r"RESULT=(?P<verdict>\w+)", approve=["ok"])
    assert await _matched("RESULT=OK", rule) == ("OK", True)
    assert await _matched("RESULT=bad\n", rule) == ("bad", False)
    assert await _matched("the RESULT=OK", rule) == (None, None)
    assert await _matched("```\nRESULT=OK\n```", rule) == (None, None)
    assert await _matched("RESULT=OK\nRESULT=bad", rule) == (None, None)
    assert await _matched("PASS", VerdictRule(pattern="PASS|FAIL")) == ("PASS", True)


async def test_r36_a_catastrophic_pattern_ends_and_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_PATIENCE", 1.0)
    with pytest.raises(checker.CheckFailed):
        await checker.match_lines(r"(a+)+b", [(1, "a" * 60)])


@pytest.mark.parametrize("pattern", ["", "(", "(?P<verdict>a", "x" * 2000, "(" * 900])
def test_r36_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        check_rule(VerdictRule(pattern=pattern), None)


def test_r36_a_rule_that_nothing_can_satisfy_is_refused() -> None:
    schema = {"type": "object", "properties": {"summary": {}}}
    for rule in (USUAL, VerdictRule(pattern="x")):
        with pytest.raises(InvalidRequest):
            check_rule(rule, schema)
    with pytest.raises(InvalidRequest):
        check_rule(VerdictRule(approve=["a\nb"]), None)
    check_rule(USUAL, {"type": "object", "properties": {"verdict": {"type": "string"}}})
    check_rule(USUAL, {"type": "object", "$ref": "#/$defs/review"})


@pytest.mark.parametrize(
    ("document", "value", "approved"),
    [
        ({"verdict": "approve"}, "approve", True),
        ({"verdict": "needs-attention"}, "needs-attention", False),
        ({"verdict": "anything"}, "anything", False),
        ({"verdict": True}, None, None),
        ({"verdict": ""}, None, None),
        ({}, None, None),
        (["approve"], None, None),
    ],
)
def test_r36_the_verdict_of_a_document_is_its_property(document: object, value: str | None, approved: object) -> None:
    verdict = judge(find_in_document(document), None, "schema")
    assert (verdict.required, verdict.value, verdict.approved) == (False, value, approved)


def test_r36_only_a_whole_answer_approves() -> None:
    verdict = judge(find_in_text("PASS", USUAL), USUAL, "marker_line")
    whole, part = MessagePart(complete=True), MessagePart()
    assert settled(verdict, whole, Status.COMPLETED) == verdict
    # The answer is whole, and only its file could not be written.
    assert settled(verdict, whole, Status.FAILED) == verdict
    assert settled(verdict, part, Status.PARTIAL).approved is None
    for status in set(Status) - {Status.COMPLETED, Status.PARTIAL}:
        assert settled(verdict, part, status) == Verdict(required=True)
    rejection = judge(find_in_text("NEEDS_FIX", USUAL), USUAL, "marker_line")
    assert settled(rejection, part, Status.PARTIAL).approved is False
