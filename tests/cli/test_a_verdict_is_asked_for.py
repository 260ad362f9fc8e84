"""The options about verdicts and documents become the request, and a rejection can be an exit status."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from holdfast.tasks.request import VerdictRule
from holdfast.tasks.result import Verdict

from .fake_daemon import FakeDaemon, FakeTask

SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string"}}}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ([], None),
        (["--verdict"], VerdictRule()),
        (["--fail-on-reject"], VerdictRule()),
        (["--approve", "LGTM", "--approve", "OK"], VerdictRule(approve=["LGTM", "OK"])),
        (["--verdict-pattern", "R=(?P<verdict>.)"], VerdictRule(pattern="R=(?P<verdict>.)")),
    ],
)
def test_r36_what_is_asked_for_is_in_the_request(
    cli, daemon: FakeDaemon, options: list[str], rule: VerdictRule | None
) -> None:
    daemon.on_create = lambda task: _judged(task, "PASS", True)
    assert cli("run", "codex", *options, "go").status == 0
    assert daemon.next_task().request.verdict == rule


def test_a_schema_is_given_as_text_or_as_a_file(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = lambda task: task.finish(b"{}")
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for given in (json.dumps(SCHEMA), str(file)):
        assert cli("run", "codex", "--output-schema", given, "go").status == 0
        assert daemon.next_task().request.output_schema == SCHEMA


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output-schema", "/no/such/file"], "cannot be read"),
        (["--output-schema", "{"], "not JSON"),
        (["--output-schema", '{"type": "string"}'], "at its root"),
        (["--output-schema", '{"type": "object", "properties": {}}', "--verdict"], "no property 'verdict'"),
        (["--verdict-pattern", "("], "not a regular expression"),
        (["--approve", "a\nb"], "cannot be a verdict"),
    ],
)
def test_what_makes_no_sense_is_refused(cli, daemon: FakeDaemon, options: list[str], said: str) -> None:
    outcome = cli("run", "codex", *options, "go")
    assert (outcome.status, said in outcome.err) == (2, True), outcome.err
    assert not daemon.tasks


def _judged(task: FakeTask, value: str | None, approved: bool | None) -> None:
    task.finish(b"answer\n")
    assert task.result is not None
    verdict = Verdict(required=True, present=value is not None, value=value, approved=approved)
    task.result = msgspec.structs.replace(task.result, verdict=verdict, marker="FINDINGS_ONLY")


@pytest.mark.parametrize(("value", "approved", "status"), [("PASS", True, 0), ("NEEDS_FIX", False, 5), (None, None, 5)])
def test_r36_a_rejection_is_an_exit_status_on_request(
    cli, daemon: FakeDaemon, value: str | None, approved: bool | None, status: int
) -> None:
    daemon.on_create = lambda task: _judged(task, value, approved)
    assert cli("run", "codex", "go").status == 0
    task_id = daemon.next_task().id
    for words in (["result", task_id], ["wait", task_id], ["result", task_id, "--json"]):
        outcome = cli(*words, "--fail-on-reject")
        assert outcome.status == status
        assert ("--fail-on-reject" in outcome.err) is (status == 5)


def test_r21_the_marker_ends_a_text_on_request_and_once(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: _judged(task, "PASS", True)
    assert cli("run", "codex", "--append-marker", "go").out == b"answer\nFINDINGS_ONLY\n"
    task = daemon.next_task()
    assert task.request.append_marker is True
    assert cli("result", task.id).out == b"answer\n"
    assert cli("wait", task.id, "--append-marker").out == b"answer\nFINDINGS_ONLY\n"


def test_r21_what_did_not_complete_has_no_marker(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.fail(said=b"half")
    assert cli("run", "codex", "--append-marker", "go").out == b""


def test_r17_a_failure_begins_with_reason_exit_code_and_stderr(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.fail(stderr=["stream error"])
    lines = cli("run", "codex", "go").err.splitlines()
    assert lines[0].startswith("error: You have hit your usage limit.")
    assert lines[1:4] == ["exit_code: 1", "stderr:", "  | stream error"]


def test_r23_the_marker_of_the_prompt_chooses_the_file(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = lambda task: task.finish(b"done", output=True)
    file = tmp_path / "answer.txt"
    prompt = f"Review it.\n[output-file: {file}]\n".encode()
    outcome = cli("run", "codex", "--output-marker", "--prompt-file", "-", stdin=prompt)
    assert outcome.out == f"OUTPUT_PATH={file}\nOUTPUT_BYTES=4\n".encode()
    task = daemon.next_task()
    assert (task.request.output_file, task.prompt) == (str(file), prompt)


def test_r32_without_a_marker_or_without_the_option_nothing_changes(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = lambda task: task.finish(b"done")
    assert cli("run", "codex", "--output-marker", "--prompt-file", "-", stdin=b"Review it.").out == b"done"
    prompt = f"[output-file: {tmp_path}/a]".encode()
    assert cli("run", "codex", "--prompt-file", "-", stdin=prompt).out == b"done"
    assert [daemon.next_task().request.output_file for _ in range(2)] == [None, None]


def test_r23_a_malformed_marker_starts_nothing(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    for words in (["--output-marker"], ["--output-marker", "--output-file", str(tmp_path / "b")]):
        outcome = cli("run", "codex", *words, "--prompt-file", "-", stdin=b"[output-file: a]")
        assert outcome.status == 2
    assert not daemon.tasks
