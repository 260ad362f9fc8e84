"""A schema is looked at before anything starts; whether an answer fits it is decided here and not by the agent."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.tasks import checker
from holdfast.tasks.checker import CheckFailed, fit_schema
from holdfast.tasks.output_schema import OutputSchemaRefused, check_schema, parse_schema

REVIEW: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"enum": ["approve", "needs-attention"]}, "notes": {"$ref": "#/$defs/notes"}},
    "required": ["verdict"],
    "additionalProperties": False,
    "$defs": {"notes": {"type": "array", "items": {"type": "string"}}},
}


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "1", b"\xff"])
def test_what_is_not_a_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(OutputSchemaRefused):
        parse_schema(text)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"type": "object", "properties": {"$ref": {"$ref": "file:///etc/passwd"}}},
        {"type": "object", "$schema": "https://example.org/dialect"},
        {"type": "object", "description": "x" * 100_000},
        _nested(60),
    ],
)
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(OutputSchemaRefused):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        REVIEW,
        {"type": "object", "properties": {"$ref": {"type": "string"}}, "examples": [{"$ref": "nowhere"}]},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
        _nested(20),
    ],
)
def test_a_schema_is_accepted(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    "answer",
    [
        '{"verdict": "approve", "notes": ["a"]}',
        '\n {"verdict":"approve","notes":["a"]}\n',
        '```json\n{"verdict": "approve", "notes": ["a"]}\n```',
    ],
)
async def test_an_answer_that_fits_is_the_document(answer: str) -> None:
    assert await fit_schema(REVIEW, answer) == ({"verdict": "approve", "notes": ["a"]}, [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "not one JSON document"),
        ("It is fine.", "not one JSON document"),
        ('Here: {"verdict": "approve"}', "not one JSON document"),
        ('{"verdict": "approve"} {"verdict": "approve"}', "not one JSON document"),
        ('{"verdict": "approve", "verdict": "needs-attention"}', "twice"),
        ('{"verdict": NaN}', "NaN"),
        ("[" * 100_000, "not one JSON document"),
        ("null", "object"),
        ("{}", "verdict"),
        ('{"verdict": "maybe"}', "$.verdict"),
        ('{"verdict": "approve", "notes": [1]}', "$.notes[0]"),
        ('{"verdict": "approve", "more": 1}', "more"),
    ],
)
async def test_an_answer_that_does_not_fit_says_why(answer: str, reason: str) -> None:
    document, unmet = await fit_schema(REVIEW, answer)
    assert document is None
    assert reason in " ".join(unmet)


async def test_a_schema_that_takes_for_ever_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_PATIENCE", 2.0)
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(x+)+$"}}}
    with pytest.raises(CheckFailed):
        await fit_schema(schema, '{"a": "' + "x" * 60 + '!"}')
