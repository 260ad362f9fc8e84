"""Standard output holds the answer, or the document that was asked for, and nothing else."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import msgspec
import pytest

from holdfast.tasks.result import Result, Status

from .fake_daemon import PATIENCE, FakeDaemon


@pytest.mark.parametrize("answer", [b"hello", b"hello\n", b"", b"\x00\xff\xfe\r\n", b"y\n" * 600_000])
def test_byte_for_byte(cli, daemon: FakeDaemon, answer: bytes) -> None:
    daemon.on_create = lambda task: task.finish(answer)
    outcome = cli("run", "codex", "go")
    assert outcome.status == 0
    assert outcome.out == answer
    assert outcome.err == ""


def test_a_terminal_gets_a_final_newline(spawn, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"hello")
    master, slave = pty.openpty()
    process = spawn("run", "codex", "go", stdout=slave)
    process.communicate(timeout=PATIENCE)
    os.close(slave)
    assert os.read(master, 100) == b"hello\r\n"
    os.close(master)


def test_json_is_the_document_on_one_line(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish("grüße\n".encode())
    outcome = cli("run", "codex", "go", "--json")
    assert outcome.out.count(b"\n") == 1
    result = msgspec.json.decode(outcome.out, type=Result)
    assert result == daemon.next_task().result


def test_json_is_printed_on_failure_too(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.fail()
    outcome = cli("run", "codex", "go", "--format", "json")
    assert outcome.status == 1
    assert msgspec.json.decode(outcome.out, type=Result).status is Status.FAILED
    assert outcome.err == ""


def test_jsonl_is_progress_and_then_the_result(cli, daemon: FakeDaemon) -> None:
    def work(task) -> None:
        task.say("thread", "thread-1")
        task.say("tool", "Bash: ls", tool_uses=1)
        task.finish(b"done")

    daemon.on_create = work
    *progress, result = map(json.loads, cli("run", "codex", "go", "--format", "jsonl").out.splitlines())
    assert [line["kind"] for line in progress] == ["thread", "tool", "finished"]
    assert result["schema"] == "holdfast.result/1"


def test_a_receipt_says_where_the_answer_lies(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.on_create = lambda task: task.finish(b"12345", output=True)
    target = tmp_path / "answer.md"
    outcome = cli("run", "codex", "go", "--output-file", str(target))
    assert outcome.out.decode() == f"OUTPUT_PATH={target}\nOUTPUT_BYTES=5\n"


def test_a_receipt_of_a_failure_carries_the_exit_code(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"", Status.TIMEOUT)
    outcome = cli("run", "codex", "go", "--format", "receipt")
    task = daemon.next_task()
    assert outcome.status == 124
    assert outcome.out.decode() == f"OUTPUT_PATH=/state/tasks/{task.id}/message\nOUTPUT_BYTES=0\nEXIT_CODE=124\n"


def test_an_extended_receipt_names_task_and_thread(cli, daemon: FakeDaemon) -> None:
    daemon.on_create = lambda task: task.finish(b"12345", thread_id="thread-7")
    lines = cli("run", "codex", "go", "--format", "receipt-extended").out.decode().splitlines()
    receipt = dict(line.split("=", 1) for line in lines)
    assert list(receipt) == ["OUTPUT_PATH", "OUTPUT_BYTES", "STATUS", "TASK", "THREAD", "SHA256"]
    assert receipt["STATUS"] == "completed"
    assert receipt["TASK"] == daemon.next_task().id
    assert receipt["THREAD"] == "thread-7"
    assert len(receipt["SHA256"]) == 64


def test_an_answer_that_arrives_damaged_is_not_taken_for_the_answer(cli, daemon: FakeDaemon) -> None:
    def work(task) -> None:
        task.finish(b"the answer")
        task.message = b"the answe"

    daemon.on_create = work
    outcome = cli("run", "codex", "go")
    assert outcome.status == 1
    assert "The 9 bytes that arrived are not the 10 bytes of the answer" in outcome.err


def test_result_pages_through_the_answer(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.finish(b"0123456789")
    assert cli("result", task.id).out == b"0123456789"
    assert cli("result", task.id, "--field", "message").out == b"0123456789"
    assert cli("result", task.id, "--offset", "3", "--limit", "4").out == b"3456"


@pytest.mark.parametrize(
    ("field", "printed"),
    [("status", "completed"), ("usage.output_tokens", "34"), ("thread.id", ""), ("exit.leftover_pids", "[]")],
)
def test_result_prints_one_field(cli, daemon: FakeDaemon, field: str, printed: str) -> None:
    task = daemon.add()
    task.finish(b"0123456789")
    assert cli("result", task.id, "--field", field).out.decode() == f"{printed}\n"


def test_result_explains_an_unknown_field(cli, daemon: FakeDaemon) -> None:
    task = daemon.add()
    task.finish(b"")
    outcome = cli("result", task.id, "--field", "usage.tokens")
    assert outcome.status == 2
    assert "no field 'usage.tokens'" in outcome.err
    assert "input_tokens" in outcome.err


def test_start_prints_the_id_alone(cli, daemon: FakeDaemon) -> None:
    outcome = cli("start", "codex", "go")
    assert outcome.status == 0
    assert outcome.out.decode() == f"{daemon.next_task().id}\n"
    assert outcome.err == ""


def test_start_prints_the_task_as_json(cli, daemon: FakeDaemon) -> None:
    view = json.loads(cli("start", "codex", "go", "--json", "--label", "one").out)
    assert view["id"] == daemon.next_task().id
    assert view["label"] == "one"
