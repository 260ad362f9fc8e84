"""What a program hands over it gets back: the result, the bytes, the reasons; and errors by their type."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import holdfast

from .conftest import PATIENCE, Installation


def test_a_result_has_what_the_agent_said_and_did(beside: Installation) -> None:
    prompt = "rehearse: edit notes.txt hello\\n\nrehearse: usage 10 5\nrehearse: say Written."
    result = holdfast.run("rehearsal", prompt, write=True, label="notes", timeout=PATIENCE)
    assert (result.status, result.ok) == (holdfast.Status.COMPLETED, True)
    assert result.message.text == "Written."
    assert [file.path for file in result.files.changed] == ["notes.txt"]
    assert (result.usage.input_tokens, result.label) == (10, "notes")
    assert result.limits.total_s == PATIENCE
    assert beside.json("result", result.task_id)["task_id"] == result.task_id


def test_a_prompt_is_bytes_and_so_is_the_answer(beside: Installation) -> None:
    result = holdfast.run("rehearsal", "--write 'ü' \\n\nrehearse: say-bytes 300000".encode())
    answer = holdfast.message(result.task_id)
    assert len(answer) == result.message.bytes == 300_000
    assert holdfast.message(result.task_id, offset=299_990, limit=100) == answer[-10:]
    assert holdfast.message(result.task_id, offset=5, limit=7) == answer[5:12]
    assert holdfast.message(result.task_id, offset=400_000) == b""


def test_read_only_unless_asked_otherwise(beside: Installation) -> None:
    result = holdfast.run("rehearsal", "rehearse: edit notes.txt hello")
    assert result.files.changed == []
    assert result.backend.sandbox is holdfast.Sandbox.READ_ONLY


def test_a_task_in_the_background(beside: Installation, gate: Callable[[], object]) -> None:
    task = holdfast.start("rehearsal", "rehearse: tools 2\nrehearse: wait-for gate\nrehearse: say Done.")
    assert task.status().id == task.id
    assert task.id in {view.id for view in holdfast.list(active=True)}
    with pytest.raises(holdfast.NotFinished):
        task.result()
    with pytest.raises(holdfast.StillRunning, match=task.id):
        task.wait(timeout=0.1)
    lines: list[holdfast.Progress] = []
    for line in task.progress():
        lines.append(line)
        if line.tool_uses == 2:
            gate()
    assert [line.kind for line in lines].count("tool") == 2
    assert lines[-1].kind == "finished"
    assert task.result() == task.wait() == holdfast.wait(task.id[:10])
    assert b"".join(entry.data for entry in task.log() if entry.kind == "stdout").count(b"\n") > 3
    behind = [line.text for line in lines[1:-1]]
    # Lines of one record have one cursor, so the first of them may come again; none is left out.
    assert [line.text for line in task.progress(after=lines[0].cursor, follow=False)][-len(behind) :] == behind


def test_the_first_of_several(beside: Installation, gate: Callable[[], object]) -> None:
    slow = holdfast.start("rehearsal", "rehearse: wait-for gate\nrehearse: say slow")
    fast = holdfast.start("rehearsal", "rehearse: say fast")
    assert holdfast.wait_any([slow, fast]).message.text == "fast"
    with pytest.raises(holdfast.StillRunning):
        holdfast.wait_all([fast, slow], timeout=0.1)
    with pytest.raises(holdfast.StillRunning):
        holdfast.wait_any([slow], timeout=0.1)
    gate()
    assert [result.message.text for result in holdfast.wait_all([slow, fast.id])] == ["slow", "fast"]


def test_cancelling_ends_it(beside: Installation) -> None:
    task = holdfast.start("rehearsal", "rehearse: hang")
    assert task.cancel().cancel_requested
    assert task.wait().status is holdfast.Status.CANCELLED
    assert task.cancel().status is holdfast.Status.CANCELLED


def test_a_failure_is_a_result_unless_checked(beside: Installation) -> None:
    result = holdfast.run("rehearsal", "rehearse: fail rate_limit Slow down.")
    assert result.status is holdfast.Status.FAILED
    assert result.error is not None
    assert result.error.retryable
    with pytest.raises(holdfast.TaskNotCompleted, match=r"failed: Slow down\.") as raised:
        holdfast.wait(result.task_id, check=True)
    assert raised.value.result == result
    assert isinstance(raised.value, holdfast.HoldfastError)


def test_the_same_task_twice_runs_once(installation: Installation) -> None:
    prompt = "rehearse: edit count.txt x\nrehearse: say once"
    first, second = (holdfast.run("rehearsal", prompt, write=True, task_id="only-once") for _ in range(2))
    assert first == second
    assert len(holdfast.list()) == 1


def test_variables_are_set_and_passed(beside: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "kept")
    prompt = 'rehearse: run sh -c "echo $EXTRA $SOME_TOKEN > seen.txt"\nrehearse: say ok'
    holdfast.run("rehearsal", prompt, write=True, env={"EXTRA": "given"}, pass_env=["SOME_*"])
    assert (beside.workspace / "seen.txt").read_text() == "given kept\n"


@pytest.mark.parametrize(
    ("options", "sentence", "hint"),
    [
        ({"cwd": "/nowhere"}, "The directory /nowhere does not exist.", "Check cwd."),
        ({"write": True, "sandbox": "read-only"}, "write and sandbox read-only contradict", "Leave one"),
        ({"sandbox": "none"}, "There is no sandbox 'none'.", "Give sandbox one of: read-only"),
        ({"env": {"a b": "c"}}, "'a b' cannot be a variable.", "env"),
        ({"pass_env": ["HOLDFAST_TEST_UNSET"]}, "HOLDFAST_TEST_UNSET is not set.", "env"),
        ({"timeout": -1.0}, "A timeout limit of -1 seconds", "positive"),
        ({"task_id": "UPPER"}, "'UPPER' cannot be a task id.", "8 to 64"),
    ],
)
def test_a_mistake_is_refused_before_anything_starts(
    installation: Installation, options: holdfast.WorkOptions, sentence: str, hint: str
) -> None:
    with pytest.raises(holdfast.InvalidRequest, match=sentence) as raised:
        holdfast.start("rehearsal", "Go.", **options)
    assert hint in (raised.value.hint or "")
    assert not installation.state.exists()


def test_errors_of_the_daemon_keep_their_type(installation: Installation) -> None:
    with pytest.raises(holdfast.NotFound) as missing:
        holdfast.status("nothere1")
    assert (missing.value.code, missing.value.exit_code) == ("not_found", 2)
    with pytest.raises(holdfast.InvalidRequest, match="no-such-agent"):
        holdfast.run("no-such-agent", "Go.")
    with pytest.raises(holdfast.InvalidRequest, match="empty"):
        holdfast.run("rehearsal", " \n")
    with pytest.raises(holdfast.InvalidRequest, match="no task to wait for"):
        holdfast.wait_any([])
    assert holdfast.list() == []
