"""The rehearsal agent behaves well by default and misbehaves exactly as directed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from holdfast.agents.adapter import Sandbox, UnsupportedOption, Work
from holdfast.agents.events import (
    FilesClaimed,
    Malformed,
    Message,
    Notice,
    ThreadStarted,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unrecognized,
    UsageReported,
)
from holdfast.agents.failure import FailureClass
from holdfast.agents.rehearsal import RehearsalAgent
from tests.agents.prompts import MEGABYTE, PROMPTS
from tests.agents.running import PATIENCE, Run, run, start, workspace

agent = RehearsalAgent()


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return workspace(tmp_path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOLDFAST_REHEARSAL_HOME": str(tmp_path / "rehearsal"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.fixture
def perform(cwd: Path, environment: dict[str, str]):
    """Run with directions, one per line."""

    def perform(*directions: str, sandbox: Sandbox = Sandbox.READ_ONLY, resume: str | None = None) -> Run:
        prompt = "".join(f"rehearse: {direction}\n" for direction in directions).encode()
        return run(agent, Work(cwd=cwd, sandbox=sandbox, resume=resume), environment, prompt)

    return perform


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_without_directions_it_looks_around_and_says_what_it_is(cwd: Path, environment: dict[str, str]) -> None:
    (cwd / "README.md").write_text("# The example\n\nText.\n")
    before = files(cwd)
    done = run(agent, Work(cwd=cwd, sandbox=Sandbox.DANGER_FULL_ACCESS), environment, b"Please fix everything.")
    assert "rehearsal agent" in done.answer
    assert "No model was asked" in done.answer
    assert "The example" in done.answer
    assert "Files: 2" in done.answer
    assert [tool for tool, _, _ in done.tools] == ["search", "file_read"]
    assert files(cwd) == before
    assert done.exit_code == 0


def test_events_come_in_the_order_of_a_run(perform) -> None:
    done = perform("say one", "say two")
    assert [type(event) for event in done.events] == [
        ThreadStarted, TurnStarted, Message, Message, UsageReported, TurnCompleted,
    ]  # fmt: skip
    assert done.answer == "two"


@pytest.mark.parametrize("prompt", [*PROMPTS.values(), MEGABYTE.decode()], ids=[*PROMPTS, "megabyte"])
def test_prose_is_never_a_direction_and_arrives_byte_for_byte(
    cwd: Path, environment: dict[str, str], prompt: str
) -> None:
    text = "\n".join(line for line in prompt.split("\n") if not line.startswith("rehearse:")).encode()
    text += b"\n no rehearse: exit 9\nrehearse: hash-prompt"
    done = run(agent, Work(cwd=cwd), environment, text)
    assert done.answer == f"sha256={hashlib.sha256(text).hexdigest()} bytes={len(text)}"


def test_it_edits_only_where_the_sandbox_lets_it(perform, cwd: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    (cwd / "link.txt").symlink_to(outside)
    directions = ("edit made.txt one\\ntwo\\\\n", f"edit {outside} x", "edit ../outside.txt x", "edit link.txt x")
    denied = perform(*directions)
    assert [failed for _, _, failed in denied.tools] == [True] * 4
    assert sum("Permission denied" in event.text for event in denied.of(Notice)) == 4
    done = perform(*directions, sandbox=Sandbox.WORKSPACE_WRITE)
    assert [failed for _, _, failed in done.tools] == [False, True, True, True]
    assert done.one(FilesClaimed).paths == ["made.txt"]
    assert (cwd / "made.txt").read_text() == "one\ntwo\\n"
    assert not outside.exists()
    everywhere = perform(directions[1], sandbox=Sandbox.DANGER_FULL_ACCESS)
    assert [failed for _, _, failed in everywhere.tools] == [False]
    assert outside.read_text() == "x"


def test_it_edits_added_directories(cwd: Path, environment: dict[str, str], tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE, add_dirs=[more])
    run(agent, work, environment, f"rehearse: edit {more}/x y".encode())
    assert (more / "x").read_text() == "y"
    with pytest.raises(UnsupportedOption):
        run(agent, Work(cwd=cwd, add_dirs=[more]), environment, b"x")


def test_tools_succeed_and_fail_as_they_really_do(perform) -> None:
    done = perform(
        "run cat notes.txt", "run false", "run no-such-program", "read notes.txt", "read none.txt",
        "delete notes.txt", "tools 30", sandbox=Sandbox.WORKSPACE_WRITE,
    )  # fmt: skip
    assert [failed for _, _, failed in done.tools[:6]] == [False, True, True, False, True, False]
    assert len(done.tools) == 36
    assert done.one(FilesClaimed).paths == ["notes.txt"]


def test_a_read_only_run_runs_nothing(perform) -> None:
    assert perform("run touch made.txt").tools == [("command", "run touch made.txt".removeprefix("run "), True)]


def test_a_thread_is_resumed_by_its_id(perform, environment: dict[str, str]) -> None:
    first = perform("recall")
    assert first.answer == "turn=1 previous=none"
    thread_id = first.one(ThreadStarted).thread_id
    second = perform("recall", resume=thread_id)
    assert second.answer == f"turn=2 previous={hashlib.sha256(b'rehearse: recall' + bytes([10])).hexdigest()}"
    assert second.one(ThreadStarted).thread_id == thread_id
    home = Path(environment["HOLDFAST_REHEARSAL_HOME"])
    assert (home / "threads" / thread_id).stat().st_mode & 0o077 == 0


def test_an_unknown_thread_is_a_failure(perform) -> None:
    done = perform("say x", resume="00000000-0000-4000-8000-000000000000")
    assert done.failure.failure_class is FailureClass.THREAD_UNKNOWN
    assert done.exit_code == 1


def test_a_thread_in_use_is_a_failure(perform, cwd: Path, environment: dict[str, str]) -> None:
    thread_id = perform("say x").one(ThreadStarted).thread_id
    busy = start(agent, Work(cwd=cwd, resume=thread_id), environment, b"rehearse: hang")
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        assert perform("say y", resume=thread_id).failure.failure_class is FailureClass.THREAD_BUSY
    finally:
        busy.kill()
        busy.communicate()
    assert perform("say z", resume=thread_id).answer == "z"


@pytest.mark.parametrize(
    ("directions", "text"),
    [
        (["say without end of line"], "without end of line"),
        (["say two\\nlines"], "two\nlines"),
        (["say-nothing"], ""),
        (["say-parts a | b | c"], "c"),
        (["say Requests are queued in the background."], "Requests are queued in the background."),
        (["say I will fix it next."], "I will fix it next."),
    ],
    ids=str,
)
def test_what_it_is_told_to_say_is_its_answer(perform, directions: list[str], text: str) -> None:
    assert perform(*directions).answer == text


@pytest.mark.parametrize("size", [1, 65536, 2**20, 10 * 2**20])
def test_an_answer_has_the_size_asked_for(perform, size: int) -> None:
    assert len(perform(f"say-bytes {size}").answer) == size


@pytest.mark.parametrize(
    ("direction", "expected", "status"),
    [
        ("usage-limit 3600", FailureClass.USAGE_LIMIT, None),
        ("http 401", FailureClass.AUTH, 401),
        ("http 429", FailureClass.RATE_LIMIT, 429),
        ("http 500", FailureClass.OVERLOADED, 500),
        ("fail context_exceeded Too much.", FailureClass.CONTEXT_EXCEEDED, None),
        ("fail no_such_class x", FailureClass.UNKNOWN, None),
        ("dance", FailureClass.BAD_REQUEST, None),
        ("sleep soundly", FailureClass.BAD_REQUEST, None),
    ],
)
def test_it_fails_with_the_cause_asked_for(perform, direction: str, expected: FailureClass, status: int | None) -> None:
    done = perform("say An answer before the failure.", direction)
    assert done.failure.failure_class is expected
    assert done.failure.http_status == status
    assert done.one(Message).text == "An answer before the failure."
    assert done.exit_code == 1


def test_usage_is_what_it_is_told_to_report(perform) -> None:
    assert perform("say x").usage.usage.cost_usd == 0.0
    reported = perform("usage 100 20 30 4 of-thread").usage
    assert reported.of_thread
    usage = reported.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_output_tokens) == (
        100, 20, 30, 4,
    )  # fmt: skip
    assert perform("usage none").of(UsageReported) == []


def test_it_ends_in_every_wrong_way(perform) -> None:
    silent = perform("silent-exit 1")
    assert (silent.events, silent.exit_code) == ([], 1)
    killed = perform("say x", "die")
    assert killed.exit_code == -signal.SIGKILL
    assert not killed.of(TurnCompleted)
    assert perform("exit 7").exit_code == 7
    after = perform("say x", "exit-code 3")
    assert (after.answer, after.exit_code) == ("x", 3)
    endless = perform("say x", "no-end")
    assert (endless.exit_code, endless.of(TurnCompleted)) == (0, [])
    assert len(perform("complete first", "say second").of(TurnCompleted)) == 2


def test_it_writes_and_claims_against_the_truth(perform, cwd: Path) -> None:
    sneaky = perform("sneak made.txt x")
    assert (cwd / "made.txt").read_text() == "x"
    assert not sneaky.of(FilesClaimed)
    boastful = perform("claim a.txt b.txt", sandbox=Sandbox.WORKSPACE_WRITE)
    assert boastful.one(FilesClaimed).paths == ["a.txt", "b.txt"]
    assert not (cwd / "a.txt").exists()


def test_it_speaks_nonsense_between_its_lines(perform) -> None:
    done = perform(
        "raw-line this is no JSON", 'raw-line {"event":"message"}', 'raw-line ["event"]', "invalid-utf8",
        "garbage-bytes 10485760", "unknown-event applause", "say still here", 'raw {"event":"mess',
    )  # fmt: skip
    # The half line swallows the one that is written after it.
    assert len(done.of(Malformed)) == 6
    assert done.one(Unrecognized).name == "applause"
    assert done.one(Message).text == "still here"
    assert done.of(TurnCompleted)
    assert all(len(event.excerpt) <= 201 for event in done.of(Malformed))


def test_standard_error_is_kept_apart(perform) -> None:
    done = perform("stderr complaint", "stderr-flood 1000000", "say x")
    assert done.stderr.startswith("complaint\n")
    assert len(done.stderr) == 1_000_000 + len("complaint\n")
    assert done.answer == "x"


@contextlib.contextmanager
def started(cwd: Path, environment: dict[str, str], *directions: str) -> Iterator[subprocess.Popen[bytes]]:
    prompt = "".join(f"rehearse: {direction}\n" for direction in directions).encode()
    process = start(agent, Work(cwd=cwd), environment, prompt)
    try:
        yield process
    finally:
        for descendant in descendants(environment):
            descendant.kill()
        process.kill()
        process.communicate()


def descendants(environment: dict[str, str]) -> list[psutil.Process]:
    """Processes of this rehearsal, wherever they went."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOLDFAST_REHEARSAL_HOME") == environment["HOLDFAST_REHEARSAL_HOME"]:
                found.append(process)
    return found


def read_until(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never written")


@pytest.mark.parametrize("direction", ["hang", "linger", "flood"])
def test_it_lives_on_until_it_is_ended(cwd: Path, environment: dict[str, str], direction: str) -> None:
    with started(cwd, environment, "say x", direction) as process:
        read_until(process, b'"text":"x"')
        if direction == "linger":
            read_until(process, b"turn_completed")
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGTERM


def test_it_ignores_sigterm_when_told_to(cwd: Path, environment: dict[str, str]) -> None:
    with started(cwd, environment, "ignore-term", "say x", f"wait-for {cwd / 'go'}", "say y") as process:
        read_until(process, b'"text":"x"')
        process.terminate()
        (cwd / "go").touch()
        read_until(process, b'"text":"y"')
        assert process.wait(PATIENCE) == 0


def test_it_starts_late_when_told_to(cwd: Path, environment: dict[str, str]) -> None:
    began = time.monotonic()
    assert run(agent, Work(cwd=cwd), environment, b"rehearse: late 0.3\nrehearse: say x").answer == "x"
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("direction", ["escape-holding", "escape-writing"])
def test_a_descendant_escapes_into_its_own_session(cwd: Path, environment: dict[str, str], direction: str) -> None:
    with started(cwd, environment, direction, "say x") as process:
        assert process.wait(PATIENCE) == 0
        left = descendants(environment)
        assert [os.getsid(escaped.pid) == escaped.pid for escaped in left] == [True]
        if direction == "escape-writing":
            read_until(process, b"written after the end, 2")
        left[0].kill()
        # Only now does the pipe come to its end.
        process.communicate(timeout=PATIENCE)


def test_a_descendant_that_was_given_an_end_ends(perform) -> None:
    done = perform("escape-writing 3", "say x")
    assert [event.text for event in done.of(Notice)] == [f"written after the end, {number}" for number in (1, 2, 3)]
    assert isinstance(done.terminal, TurnCompleted | TurnFailed)
