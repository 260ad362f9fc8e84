"""The real agents are told the schema of the answer; what they do with an answer that does not fit is no promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.agents.adapter import Work
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
from tests.agents.running import run, workspace
from tests.model_server import ModelServer, Say, Tool

pytestmark = pytest.mark.real_agent

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["approve", "needs-attention"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


def asked(tmp_path: Path) -> Work:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    return Work(cwd=workspace(tmp_path), output_schema=SCHEMA, output_schema_file=file)


def test_codex_asks_its_model_for_the_schema(
    model_server: ModelServer, codex_environment: dict[str, str], tmp_path: Path
) -> None:
    model_server.script(Say('{"verdict": "approve"}'))
    done = run(CodexAgent(), asked(tmp_path), codex_environment, b"Judge.")
    assert done.answer == '{"verdict": "approve"}'
    (request,) = model_server.main_requests
    asked_for = request.body["text"]["format"]
    assert (asked_for["schema"], asked_for["strict"]) == (SCHEMA, True)


def test_codex_calls_anything_a_success(
    model_server: ModelServer, codex_environment: dict[str, str], tmp_path: Path
) -> None:
    model_server.script(Say("It is fine."))
    assert run(CodexAgent(), asked(tmp_path), codex_environment, b"Judge.").answer == "It is fine."


def test_claude_hands_over_the_document_as_its_answer(
    model_server: ModelServer, claude_environment: dict[str, str], tmp_path: Path
) -> None:
    model_server.script(Tool("StructuredOutput", {"verdict": "approve"}), Say("Done."))
    done = run(ClaudeAgent(), asked(tmp_path), claude_environment, b"Judge.")
    assert json.loads(done.answer) == {"verdict": "approve"}


def test_claude_calls_anything_a_success(
    model_server: ModelServer, claude_environment: dict[str, str], tmp_path: Path
) -> None:
    model_server.script(Say("It is fine."), Say("It is fine, really."))
    assert run(ClaudeAgent(), asked(tmp_path), claude_environment, b"Judge.").answer == "It is fine, really."
