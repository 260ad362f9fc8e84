"""What was asked of the answer beyond being there (a verdict, a document, a marker) is held against it, end to end."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import PATIENCE, Installation

REVIEW = {
    "type": "object",
    "properties": {"verdict": {"enum": ["approve", "needs-attention"]}, "summary": {"type": "string"}},
    "required": ["verdict", "summary"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def holdfast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all of them."""
    installation = Installation(tmp_path_factory.mktemp("asked"))
    yield installation
    installation.down()


def rehearse(holdfast: Installation, *directions: str, options: tuple[str, ...] = (), exit_code: int) -> Any:
    prompt = "".join(f"rehearse: {direction}\n" for direction in directions).encode()
    return holdfast.json("run", "rehearsal", "--prompt-file", "-", *options, input=prompt, exit_code=exit_code)


def test_r36_a_verdict_that_is_there_is_in_the_result(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say Looked at it.\\nPASS", options=("--verdict",), exit_code=0)
    assert result["verdict"] == {
        "required": True,
        "present": True,
        "value": "PASS",
        "approved": True,
        "source": "marker_line",
        "line": 2,
        "structured": None,
    }


def test_r36_a_missing_verdict_is_no_signal_and_the_answer_is_kept(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say It looks fine to me.", options=("--verdict",), exit_code=4)
    assert (result["status"], result["ok"], result["error"]["class"]) == ("no_signal", False, "no_verdict")
    assert (result["verdict"]["present"], result["verdict"]["approved"]) == (False, None)
    assert result["message"]["text"] == "It looks fine to me."


def test_r36_a_rejection_is_a_completed_task_and_an_exit_status_on_request(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say Verdict: needs fix", options=("--verdict",), exit_code=0)
    assert (result["status"], result["ok"], result["verdict"]["approved"]) == ("completed", True, False)
    assert (
        rehearse(holdfast, "say BLOCK: no tests", options=("--fail-on-reject",), exit_code=5)["status"] == "completed"
    )
    assert holdfast.run("result", result["task_id"], "--fail-on-reject").returncode == 5


def test_r36_what_was_said_before_a_failure_is_no_verdict(holdfast: Installation) -> None:
    for direction, options, exit_code in (("fail policy no", (), 1), ("hang", ("--idle-timeout", "3"), 124)):
        result = rehearse(holdfast, "say PASS", direction, options=("--verdict", *options), exit_code=exit_code)
        assert result["message"]["text"] == "PASS"
        assert (result["verdict"]["present"], result["verdict"]["approved"]) == (False, None)


def test_r20_an_announcement_without_a_verdict_is_partial(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say Found it. I will fix it next.", options=("--verdict",), exit_code=3)
    assert (result["status"], result["message"]["ends_with_intent"]) == ("partial", True)
    result = rehearse(holdfast, "say Found it. I will fix it next.", exit_code=0)
    assert any("ends_with_intent" in warning for warning in result["warnings"])


def test_r36_a_pattern_of_ones_own(holdfast: Installation) -> None:
    options = ("--verdict-pattern", r"score: (?P<verdict>\d+)", "--approve", "10")
    assert rehearse(holdfast, "say score: 10", options=options, exit_code=0)["verdict"]["approved"] is True
    assert rehearse(holdfast, "say score: 9", options=options, exit_code=0)["verdict"]["approved"] is False
    assert rehearse(holdfast, "say score: none", options=options, exit_code=4)["verdict"]["source"] is None


def test_r36_a_pattern_that_never_ends_is_no_verdict(holdfast: Installation) -> None:
    options = ("--verdict-pattern", "(a+)+b")
    result = rehearse(holdfast, f"say {'a' * 60}", options=options, exit_code=4)
    assert "too long" in result["error"]["message"]


def test_a_document_that_fits_its_schema_is_in_the_result(holdfast: Installation) -> None:
    document = {"verdict": "needs-attention", "summary": "x"}
    options = ("--output-schema", json.dumps(REVIEW), "--verdict")
    result = rehearse(holdfast, f"say {json.dumps(document)}", options=options, exit_code=0)
    assert (result["verdict"]["structured"], result["verdict"]["source"]) == (document, "schema")
    assert (result["verdict"]["value"], result["verdict"]["approved"]) == ("needs-attention", False)


@pytest.mark.parametrize("answer", ['{"verdict": "maybe", "summary": "x"}', "It is fine.", '{"verdict": "approve"'])
def test_an_answer_that_does_not_fit_is_no_signal_and_kept(holdfast: Installation, answer: str) -> None:
    result = rehearse(holdfast, f"say {answer}", options=("--output-schema", json.dumps(REVIEW)), exit_code=4)
    assert (result["status"], result["error"]["class"]) == ("no_signal", "schema_unmet")
    assert (result["message"]["text"], result["verdict"]["structured"]) == (answer, None)


def test_a_schema_that_is_none_starts_nothing(holdfast: Installation) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}}
    completed = holdfast.run("run", "rehearsal", "--output-schema", json.dumps(schema), "hello")
    assert (completed.returncode, b"https://example.org/a" in completed.stderr) == (2, True)


@pytest.mark.parametrize(
    ("directions", "options", "marker", "exit_code"),
    [
        (("edit new.txt hello", "say done"), ("--write",), "PATCH_APPLIED", 0),
        (("say done",), ("--write",), "FINDINGS_ONLY", 0),
        (("say done",), (), "FINDINGS_ONLY", 0),
        (("say done", "hang"), ("--idle-timeout", "0.5"), None, 124),
    ],
)
def test_r21_the_marker_says_what_was_observed(
    holdfast: Installation, directions: tuple[str, ...], options: tuple[str, ...], marker: str | None, exit_code: int
) -> None:
    assert rehearse(holdfast, *directions, options=options, exit_code=exit_code)["marker"] == marker


def test_r22_the_output_file_ends_with_the_marker_and_the_answer_does_not(
    holdfast: Installation, tmp_path: Path
) -> None:
    file = holdfast.workspace / "marked.txt"
    options = ("--output-file", str(file), "--append-marker")
    result = rehearse(holdfast, "say done", options=options, exit_code=0)
    assert file.read_bytes() == b"done\nFINDINGS_ONLY\n"
    assert result["output"]["bytes"] == len(file.read_bytes())
    assert result["message"]["text"] == "done"


def test_r23_the_file_that_the_prompt_names_gets_the_answer_and_the_agent_the_whole_prompt(
    holdfast: Installation,
) -> None:
    file = holdfast.workspace / "asked-for.txt"
    prompt = f"rehearse: say done\n[output-file: {file}]\n".encode()
    completed = holdfast.run("run", "rehearsal", "--output-marker", "--prompt-file", "-", input=prompt)
    assert completed.stdout == f"OUTPUT_PATH={file}\nOUTPUT_BYTES=4\n".encode()
    assert file.read_bytes() == b"done"
    outside = b"rehearse: say done\n[output-file: /etc/holdfast-test]\n"
    refused = holdfast.run("run", "rehearsal", "--output-marker", "--prompt-file", "-", input=outside)
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_r05_the_prompt_lies_in_a_private_file_and_nowhere_else(holdfast: Installation, tmp_path: Path) -> None:
    holdfast.environment["TMPDIR"] = str(tmp_path)
    result = rehearse(holdfast, "say done", exit_code=0)
    del holdfast.environment["TMPDIR"]
    kept = holdfast.state / "tasks" / result["task_id"] / "prompt"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert kept.read_bytes() == b"rehearse: say done\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("agent", ["codex", "claude"])
def test_r14_an_agent_that_is_not_installed_is_named_with_the_way_to_install_it(
    holdfast: Installation, agent: str, tmp_path: Path
) -> None:
    def known() -> list[str]:
        return [task["id"] for task in holdfast.json("list", "--all")["tasks"]]

    before = known()
    path = holdfast.environment["PATH"]
    holdfast.environment["PATH"] = str(tmp_path)
    answer = holdfast.json("run", agent, "hello", exit_code=127)
    holdfast.environment["PATH"] = path
    assert answer["error"]["code"] == "backend_missing"
    assert "npm install -g" in answer["error"]["hint"]
    assert known() == before


def test_r43_eight_long_answers_at_once_are_eight_whole_files_and_short_receipts(holdfast: Installation) -> None:
    files = [holdfast.workspace / f"long-{number}" for number in range(8)]
    runs = [
        holdfast.start("run", "rehearsal", "rehearse: say-bytes 1048576", "--output-file", str(file)) for file in files
    ]
    for run, file in zip(runs, files, strict=True):
        receipt, _ = run.communicate(timeout=PATIENCE)
        assert (run.returncode, receipt) == (0, f"OUTPUT_PATH={file}\nOUTPUT_BYTES=1048576\n".encode())
        assert file.stat().st_size == 1 << 20


def test_r03_a_task_is_one_process_unless_more_are_asked_for(holdfast: Installation) -> None:
    result = rehearse(holdfast, "fail rate_limit Too many requests.", exit_code=1)
    assert [attempt["reason"] for attempt in result["attempts"]] == ["first"]
    result = rehearse(holdfast, "fail rate_limit Too many requests.", options=("--retries", "1"), exit_code=1)
    assert [attempt["reason"] for attempt in result["attempts"]] == ["first", "retry"]
