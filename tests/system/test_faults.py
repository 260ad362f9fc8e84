"""Every fault of an agent that runs once ends in the truth (the numbers are those of docs/tasks.md's fault list)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.conftest import PATIENCE, Installation, command_line


@pytest.fixture(scope="module")
def holdfast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all faults: none of them may spoil it for the next."""
    installation = Installation(tmp_path_factory.mktemp("faults"))
    yield installation
    installation.down()


def rehearse(holdfast: Installation, *directions: str, options: tuple[str, ...] = (), exit_code: int) -> Any:
    """The result of a run with these stage directions, which must end with *exit_code*."""
    prompt = "".join(f"rehearse: {direction}\n" for direction in directions).encode()
    result = holdfast.json("run", "rehearsal", "--prompt-file", "-", *options, input=prompt, exit_code=exit_code)
    assert result["exit"]["wrapper_code"] == exit_code
    assert result["ok"] is (exit_code == 0)
    assert (result["error"] is None) is (exit_code == 0)
    return result


def test_01_a_normal_answer_is_returned_byte_for_byte(holdfast: Installation) -> None:
    completed = holdfast.run("run", "rehearsal", "rehearse: say two words\\n")
    assert (completed.returncode, completed.stdout) == (0, b"two words\n")


def test_02_an_answer_without_a_final_newline_gets_none(holdfast: Installation) -> None:
    completed = holdfast.run("run", "rehearsal", "rehearse: say two words")
    assert (completed.returncode, completed.stdout) == (0, b"two words")


def test_03_an_answer_of_one_mebibyte_is_whole(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say-bytes 1048576", exit_code=0)
    text = result["message"]["text"].encode()
    assert len(text) == result["message"]["bytes"] == 1 << 20
    assert hashlib.sha256(text).hexdigest() == result["message"]["sha256"]
    assert Path(result["message"]["path"]).read_bytes() == text


def test_03_a_longer_answer_is_cut_in_the_document_and_whole_in_its_file(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say-bytes 3000000", exit_code=0)
    assert result["message"]["inline_truncated"] is True
    assert len(result["message"]["text"]) == 1 << 20
    whole = holdfast.run("result", result["task_id"]).stdout
    assert len(whole) == 3_000_000
    assert hashlib.sha256(whole).hexdigest() == result["message"]["sha256"]
    part = holdfast.run("result", result["task_id"], "--offset", "2999990", "--limit", "100").stdout
    assert part == whole[2_999_990:]


def test_04_an_empty_answer_is_no_signal(holdfast: Installation) -> None:
    assert rehearse(holdfast, "say-nothing", exit_code=4)["status"] == "no_signal"


def test_05_a_failure_after_an_answer_keeps_the_answer(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say half of it", "fail context_exceeded too long", exit_code=1)
    assert result["message"]["text"] == "half of it"
    assert result["message"]["complete"] is False
    assert result["error"]["class"] == "context_exceeded"
    assert result["error"]["message"] == "too long"


def test_06_a_usage_limit_names_itself_and_its_time(holdfast: Installation) -> None:
    error = rehearse(holdfast, "usage-limit 3600", exit_code=1)["error"]
    assert (error["class"], error["retryable"], error["retry_after_s"]) == ("usage_limit", True, 3600)


@pytest.mark.parametrize(
    ("status", "error_class", "retryable"), [(429, "rate_limit", True), (401, "auth", False), (500, "overloaded", True)]
)
def test_07_an_http_error_is_classified(holdfast: Installation, status: int, error_class: str, retryable: bool) -> None:
    error = rehearse(holdfast, f"http {status}", exit_code=1)["error"]
    assert (error["class"], error["http_status"], error["retryable"]) == (error_class, status, retryable)


def test_08_an_exit_without_an_event_shows_what_was_on_stderr(holdfast: Installation) -> None:
    result = rehearse(holdfast, "stderr out of cheese", "exit 1", exit_code=1)
    assert result["error"]["class"] == "backend_crash"
    assert result["error"]["stderr_tail"] == ["out of cheese"]
    assert result["exit"]["code"] == 1


def test_09_a_death_by_sigkill_is_a_crash_that_can_be_resumed(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say so far", "die 9", exit_code=1)
    assert result["exit"]["signal"] == "SIGKILL"
    assert result["message"]["text"] == "so far"
    again = holdfast.json("run", "rehearsal", "rehearse: recall", "--resume", result["task_id"])
    assert again["thread"]["id"] == again["thread"]["resumed_from"] == result["thread"]["id"]
    assert again["message"]["text"].startswith("turn=2 ")


def test_10_a_stream_that_stops_is_an_idle_timeout(holdfast: Installation) -> None:
    # Long enough for a busy machine to start the agent.
    result = rehearse(holdfast, "say so far", "hang", options=("--idle-timeout", "3"), exit_code=124)
    assert (result["status"], result["limits"]["hit"]) == ("timeout", "idle")
    assert result["message"]["text"] == "so far"
    assert result["thread"]["id"] is not None


def test_10_the_total_limit_ends_an_agent_that_never_stops_talking(holdfast: Installation) -> None:
    result = rehearse(holdfast, "flood", options=("--timeout", "1"), exit_code=124)
    assert result["limits"]["hit"] == "total"


def test_11_an_agent_that_cannot_be_started_is_unavailable(holdfast: Installation, tmp_path: Path) -> None:
    program = tmp_path / "broken-agent"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    _declare(holdfast, "broken", [str(program)], "text")
    result = holdfast.json("run", "broken", "hello", exit_code=127)
    assert result["status"] == "unavailable"
    assert "could not be started" in result["error"]["message"]


def test_12_an_agent_that_starts_too_late_is_a_start_timeout(holdfast: Installation, tmp_path: Path) -> None:
    _declare(holdfast, "slow", ["sleep", "600"], "events")
    result = holdfast.json("run", "slow", "hello", "--start-timeout", "0.5", exit_code=124)
    assert result["limits"]["hit"] == "start"
    assert result["error"]["class"] == "timeout_start"


def test_13_an_agent_that_ignores_sigterm_is_ended_all_the_same(holdfast: Installation) -> None:
    # Long enough for a busy machine to come to the agent's first direction.
    result = rehearse(holdfast, "ignore-term", "hang", options=("--timeout", "3"), exit_code=124)
    assert result["exit"] == {"code": None, "signal": "SIGKILL", "wrapper_code": 124, "leftover_pids": []}


def test_14_a_descendant_in_a_session_of_its_own_is_found_ended_and_reported(holdfast: Installation) -> None:
    result = rehearse(holdfast, "escape-writing", "say done", exit_code=0)
    assert [warning for warning in result["warnings"] if "outlived the agent" in warning]
    assert result["exit"]["leftover_pids"] == []
    held = rehearse(holdfast, "escape-holding", "say done", exit_code=0)
    assert [warning for warning in held["warnings"] if "outlived the agent" in warning]
    _nothing_runs_but_ours(holdfast)


def test_15_a_file_written_in_a_read_only_task_is_seen(holdfast: Installation) -> None:
    result = rehearse(holdfast, "sneak sneaked.txt hello", "say I only looked", exit_code=0)
    assert [(file["path"], file["claimed"]) for file in result["files"]["changed"]] == [("sneaked.txt", False)]
    assert "1 files changed although the task was read-only" in result["warnings"]
    assert result["marker"] == "FINDINGS_ONLY"


def test_15_a_file_that_is_only_claimed_is_not_believed(holdfast: Installation) -> None:
    result = rehearse(holdfast, "claim invented.py", "say done", exit_code=0)
    assert result["files"]["claimed_not_observed"] == ["invented.py"]
    assert result["files"]["changed"] == []


def test_16_a_change_that_is_not_claimed_is_observed(holdfast: Installation) -> None:
    result = rehearse(holdfast, "sneak quiet.txt a", "edit loud.txt b", "say done", options=("--write",), exit_code=0)
    observed = {file["path"]: file["claimed"] for file in result["files"]["changed"]}
    assert observed == {"quiet.txt": False, "loud.txt": True}
    assert result["marker"] == "PATCH_APPLIED"


def test_17_a_tree_that_was_dirty_before_is_told_apart(holdfast: Installation, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for words in (["init", "-q"], ["config", "user.email", "t@t"], ["config", "user.name", "t"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    (repository / "clean.txt").write_text("clean")
    (repository / "dirty.txt").write_text("as committed")
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    subprocess.run(["git", "commit", "-qm", "begin"], cwd=repository, check=True)
    (repository / "dirty.txt").write_text("changed by a person")
    (repository / "left-alone.txt").write_text("untracked")
    result = rehearse(
        holdfast,
        "edit dirty.txt changed by the agent",
        "edit clean.txt changed",
        "say done",
        options=("--write", "--cwd", str(repository)),
        exit_code=0,
    )
    assert result["files"]["method"] == "git"
    assert result["files"]["dirty_before"] is True
    seen = {file["path"]: (file["change"], file["was_dirty_before"]) for file in result["files"]["changed"]}
    assert seen == {"clean.txt": ("modified", False), "dirty.txt": ("modified", True)}


@pytest.mark.parametrize(
    "damage", ["raw-line {not json", 'raw-line {"event":"mess', "invalid-utf8", "garbage-bytes 10485760"]
)
def test_18_a_damaged_line_spoils_nothing_else(holdfast: Installation, damage: str) -> None:
    result = rehearse(holdfast, damage, "say intact", exit_code=0)
    assert result["message"]["text"] == "intact"
    assert "1 lines of the agent's output were unreadable" in result["warnings"]


def test_18_half_a_line_at_the_end_is_not_an_end(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say half", 'raw {"event":"turn_comp', "exit 0", exit_code=1)
    assert result["error"]["class"] == "backend_crash"


def test_19_an_unknown_event_is_passed_over(holdfast: Installation) -> None:
    assert rehearse(holdfast, "unknown-event applause", "say done", exit_code=0)["warnings"] == []


def test_20_two_reported_ends_are_one_with_a_warning(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say done", "complete", exit_code=0)
    assert "the agent reported success 2 times" in result["warnings"]


def test_21_the_last_of_three_messages_is_the_answer(holdfast: Installation) -> None:
    result = rehearse(holdfast, "say-parts one | two | three", exit_code=0)
    assert (result["message"]["text"], result["message"]["segments"]) == ("three", 3)


def test_22_thirty_tool_uses_are_counted_and_can_be_bounded(holdfast: Installation) -> None:
    result = rehearse(holdfast, "tools 30", "say done", exit_code=0)
    assert (result["tool_uses"]["total"], result["tool_uses"]["by_type"]) == (30, {"search": 30})
    bounded = rehearse(holdfast, "tools 30", "hang", options=("--max-tool-uses", "5"), exit_code=3)
    assert (bounded["status"], bounded["limits"]["hit"], bounded["error"]["class"]) == (
        "partial",
        "tool_uses",
        "budget",
    )


def test_23_prose_about_queues_and_background_work_is_prose(holdfast: Installation) -> None:
    text = "Codex task started in the background; requests are queued"
    assert rehearse(holdfast, f"say {text}", exit_code=0)["message"]["text"] == text


PROMPTS = [
    b"plain",
    b"\"double\" 'single' `tick` $(id) \\back\\slash\\",
    b"--write --background --resume last\n-m gpt\n",
    b"--",
    b"-",
    b"  blanks around  \n\n",
    b"carriage\r\nreturns\r\n",
    b"EOF\nHEREDOC\nEOF\n",
    "Grüße, 世界 🌍".encode(),
    bytes(range(1, 256)),
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_25_the_agent_receives_every_byte_and_prose_is_never_an_option(holdfast: Installation, prompt: bytes) -> None:
    _hash_comes_back(holdfast, prompt)


def test_25_a_prompt_of_one_mebibyte_arrives_whole(holdfast: Installation) -> None:
    _hash_comes_back(holdfast, os.urandom(1 << 20).replace(b"\0", b"\1"))


def _hash_comes_back(holdfast: Installation, prose: bytes) -> None:
    prompt = prose + b"\nrehearse: hash-prompt"
    completed = holdfast.run("run", "rehearsal", "--prompt-file", "-", input=prompt)
    assert completed.returncode == 0, completed.stderr.decode()
    assert completed.stdout.decode() == f"sha256={hashlib.sha256(prompt).hexdigest()} bytes={len(prompt)}"


def test_25_a_prompt_that_looks_like_an_option_needs_two_dashes_and_stays_read_only(holdfast: Installation) -> None:
    refused = holdfast.run("run", "rehearsal", "--write-a-poem about --write")
    assert refused.returncode == 2
    assert b"hint:" in refused.stderr
    result = holdfast.json("run", "rehearsal", "--", "--write a poem about --write\nrehearse: edit poem.txt roses")
    assert result["backend"]["sandbox"] == "read-only"
    assert result["files"]["changed"] == []


def test_26_the_output_file_appears_whole_with_a_receipt(holdfast: Installation) -> None:
    path = holdfast.workspace / "answer.md"
    completed = holdfast.run(
        "run", "rehearsal", "rehearse: say-bytes 100000", "--output-file", str(path), "--format", "receipt"
    )
    assert completed.returncode == 0, completed.stderr.decode()
    assert completed.stdout.decode().splitlines()[:2] == [f"OUTPUT_PATH={path}", "OUTPUT_BYTES=100000"]
    assert path.stat().st_size == 100_000
    again = holdfast.run("run", "rehearsal", "hello", "--output-file", str(path))
    assert again.returncode == 2
    assert path.stat().st_size == 100_000


def test_26_a_task_that_fails_leaves_no_output_file(holdfast: Installation) -> None:
    path = holdfast.workspace / "never.md"
    rehearse(holdfast, "say half", "exit 1", options=("--output-file", str(path)), exit_code=1)
    assert list(holdfast.workspace.glob("*never*")) == []


def test_30_twelve_tasks_at_once_are_twelve_results(holdfast: Installation) -> None:
    started = [holdfast.start("start", "rehearsal", f"rehearse: say number {n}") for n in range(12)]
    ids = [process.communicate(timeout=PATIENCE)[0].decode().strip() for process in started]
    assert len(set(ids)) == 12
    assert holdfast.run("wait", *ids).returncode == 0
    assert [holdfast.run("result", task).stdout.decode() for task in ids] == [f"number {n}" for n in range(12)]


def test_33_a_caller_that_goes_away_costs_nothing(holdfast: Installation) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = holdfast.start("run", "rehearsal", "rehearse: say still here", "--task-id", "closed-pipe", stdout=writer)
    os.close(writer)
    process.communicate(timeout=PATIENCE)
    assert holdfast.run("result", "closed-pipe").stdout == b"still here"


def test_34_an_unknown_thread_fails_with_its_class(holdfast: Installation) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    result = holdfast.json("run", "rehearsal", "hello", "--resume", unknown, exit_code=1)
    assert result["error"]["class"] == "thread_unknown"


def test_36_standard_input_that_is_closed_is_no_prompt_and_no_crash(holdfast: Installation) -> None:
    completed = holdfast.run("run", "rehearsal")
    assert completed.returncode == 2
    assert completed.stderr.decode().startswith("error: ")


def test_an_agent_that_finished_but_does_not_exit_is_ended_and_completed(
    holdfast: Installation,
) -> None:
    result = rehearse(holdfast, "linger", "say done", exit_code=0)
    assert "the agent did not exit after it had finished, and was ended" in result["warnings"]


def test_success_with_another_exit_status_than_0_is_failed(holdfast: Installation) -> None:
    result = rehearse(holdfast, "exit-code 3", "say done", exit_code=1)
    assert result["error"]["class"] == "backend_crash"
    assert result["message"]["text"] == "done"


def test_an_end_that_was_never_reported_is_failed(holdfast: Installation) -> None:
    assert rehearse(holdfast, "say done", "no-end", exit_code=1)["error"]["class"] == "backend_crash"


def test_a_flood_on_stderr_costs_neither_the_answer_nor_memory(holdfast: Installation) -> None:
    result = rehearse(holdfast, "stderr-flood 50000000", "say done", exit_code=0)
    assert result["message"]["text"] == "done"


def test_usage_of_a_thread_is_reduced_to_this_task(holdfast: Installation) -> None:
    first = rehearse(holdfast, "usage 100 10 of-thread", "say one", exit_code=0)
    assert (first["usage"]["input_tokens"], first["usage"]["output_tokens"]) == (100, 10)
    again = rehearse(holdfast, "usage 250 30 of-thread", "say two", options=("--resume", first["task_id"]), exit_code=0)
    assert (again["usage"]["input_tokens"], again["usage"]["output_tokens"]) == (150, 20)
    assert again["usage"]["thread_total_tokens"] == 280


def test_only_what_provably_did_nothing_is_tried_again(holdfast: Installation) -> None:
    idle = rehearse(holdfast, "http 503", options=("--retries", "1"), exit_code=1)
    assert [attempt["reason"] for attempt in idle["attempts"]] == ["first", "retry"]
    spoke = rehearse(holdfast, "say I began", "http 503", options=("--retries", "1"), exit_code=1)
    assert [attempt["reason"] for attempt in spoke["attempts"]] == ["first"]


def test_a_cancel_ends_the_tree_and_is_said_to_have(holdfast: Installation) -> None:
    process = holdfast.start(
        "run",
        "rehearsal",
        "rehearse: escape-holding\nrehearse: touch at-work\nrehearse: hang",
        "--task-id",
        "to-cancel",
    )
    _until((holdfast.workspace / "at-work").exists)
    assert holdfast.run("cancel", "to-cancel").returncode == 0
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr.decode()
    assert json.loads(holdfast.run("result", "to-cancel", "--json").stdout)["status"] == "cancelled"
    _nothing_runs_but_ours(holdfast)


def _declare(holdfast: Installation, name: str, command: list[str], dialect: str) -> None:
    lines = [f"[agents.{name}]", f"command = {json.dumps(command)}", f'dialect = "{dialect}"']
    configuration = Path(holdfast.environment["HOLDFAST_CONFIG"])
    configuration.write_text("\n".join([*lines, "sandbox = { read-only = [] }", ""]))


def _until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def _nothing_runs_but_ours(holdfast: Installation) -> None:
    def agents() -> list[psutil.Process]:
        return [
            process for process in holdfast.processes() if "rehearsal_program.py" in " ".join(command_line(process))
        ]

    _until(lambda: not agents())


def test_the_state_directory_is_no_change_of_the_agent(tmp_path: Path) -> None:
    """Also where it lies in the middle of the working directory."""
    inside = Installation(tmp_path)
    inside.state = inside.workspace / "state"
    inside.environment["HOLDFAST_STATE_DIR"] = str(inside.state)
    try:
        result = inside.json("run", "rehearsal", "rehearse: sneak seen.txt x\nrehearse: say done")
        assert [file["path"] for file in result["files"]["changed"]] == ["seen.txt"]
    finally:
        inside.down()
