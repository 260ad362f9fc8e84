"""Who called a task that did not succeed learns what happened, why, and what to do; the exit status says the same."""

from __future__ import annotations

import json

import pytest

from holdfast.tasks.result import EXIT_CODES, Status

from .fake_daemon import FakeDaemon


@pytest.mark.parametrize("status", list(Status))
def test_the_exit_status_says_how_it_ended(cli, daemon: FakeDaemon, status: Status) -> None:
    daemon.on_create = lambda task: task.finish(b"something", status)
    for arguments in (["run", "codex", "go"], ["wait", "task"], ["result", "task"], ["result", "task", "--json"]):
        if arguments[1] == "task":
            arguments[1] = daemon.next_task().id
        assert cli(*arguments).status == EXIT_CODES[status]


def test_reason_remedy_tail_and_ids(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.fail(stderr=["warning: cache is cold", "stream error"], said=b"half an answer")
    outcome = cli("run", "codex", "go")
    task = daemon.next_task()
    assert outcome.status == 1
    assert outcome.out == b""
    assert outcome.err.splitlines() == [
        "error: You have hit your usage limit. (failed, usage_limit, HTTP 429)",
        "exit_code: 1",
        "stderr:",
        "  | warning: cache is cold",
        "  | stream error",
        "hint: Use another account.",
        "      $ codex login",
        f"said:   14 bytes until then; read them with: holdfast result {task.id} --field message",
        f"task:   {task.id}; everything about it: holdfast result {task.id} --json",
        f'resume: holdfast run codex --resume {task.id} "..."',
    ]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.NO_SIGNAL, "said nothing"),
        (Status.PARTIAL, "not the whole"),
        (Status.OUTCOME_UNKNOWN, "may still be running"),
    ],
)
def test_what_is_no_success_is_never_silent(cli, daemon: FakeDaemon, status: Status, sentence: str) -> None:
    daemon.on_create = lambda task: task.finish(b"", status)
    outcome = cli("run", "codex", "go", "--quiet")
    assert outcome.status == EXIT_CODES[status]
    assert sentence in outcome.err


def test_a_partial_answer_is_printed_and_marked(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"the first half", Status.PARTIAL)
    outcome = cli("run", "codex", "go")
    assert outcome.status == 3
    assert outcome.out == b"the first half"
    assert outcome.err.startswith("error: ")


def test_what_the_agent_wrote_cannot_move_the_cursor(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.fail("bad\x1b]0;title\x07\nsecond \x1b[2Jline", stderr=["\x1b[1A\u202eevil"])
    outcome = cli("run", "codex", "go")
    assert not any(ord(character) < 32 and character != "\n" for character in outcome.err)
    assert "\u202e" not in outcome.err
    assert "second" in outcome.err


def test_warnings_of_a_success_are_told(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"done", warnings=["one tool use failed"])
    assert cli("run", "codex", "go").err == "warning: one tool use failed\n"
    assert cli("run", "codex", "go", "--quiet").err == ""


def test_a_refusal_of_the_daemon_is_told_as_it_stands(cli, daemon: FakeDaemon) -> None:
    error = {"code": "unknown_agent", "message": "No agent is called 'codx'.", "hint": "Did you mean codex?"}
    daemon.refuse = (400, error)
    outcome = cli("run", "codx", "go", "--json")
    assert outcome.status == 2
    assert outcome.err == "error: No agent is called 'codx'.\nhint: Did you mean codex?\n"
    assert json.loads(outcome.out) == {"error": {**error, "exit_code": 2}}


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [(503, "backend_missing", 127), (503, "never_heard_of", 127), (409, "thread_busy", 2), (500, "internal", 1)],
)
def test_every_error_has_an_exit_status(cli, daemon: FakeDaemon, status: int, code: str, exit_status: int) -> None:
    daemon.refuse = (status, {"code": code, "message": "It cannot be done.", "hint": None})
    outcome = cli("start", "codex", "go", "--json")
    assert outcome.status == exit_status
    assert json.loads(outcome.out)["error"]["code"] == code


def test_a_result_that_is_not_there_yet_is_no_failure(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    outcome = cli("result", task.id)
    assert outcome.status == 75
    assert "is not finished" in outcome.err
