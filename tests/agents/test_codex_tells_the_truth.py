"""What the real Codex reports is understood as what happened."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from holdfast.agents.adapter import Installation, Sandbox, UnsupportedOption, Work
from holdfast.agents.codex import CodexAgent
from holdfast.agents.events import FilesClaimed, Malformed, ThreadStarted, TurnFailed, Unrecognized, UsageReported
from holdfast.agents.failure import FailureClass
from tests.agents.prompts import MEGABYTE, PROMPTS
from tests.agents.running import PATIENCE, Run, run, start, workspace
from tests.conftest import locate_agent
from tests.model_server import Drop, EditFile, Fail, Gate, Hang, ModelServer, Say, Shell, WriteFile

pytestmark = pytest.mark.real_agent

agent = CodexAgent()


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return workspace(tmp_path)


def understood(done: Run) -> Run:
    """Nothing that it wrote was beyond us."""
    assert not done.of(Malformed)
    assert not done.of(Unrecognized)
    return done


def test_a_plain_answer(model_server: ModelServer, codex_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(Say("Forty-two.", input_tokens=700, output_tokens=30))
    done = understood(run(agent, Work(cwd=cwd), codex_environment, b"What is it?"))
    assert done.exit_code == 0
    assert done.answer == "Forty-two."
    assert done.tools == []
    assert (done.usage.usage.input_tokens, done.usage.usage.output_tokens) == (700, 30)
    assert done.usage.of_thread
    assert len(done.one(ThreadStarted).thread_id) == 36


def test_a_shell_command_and_its_exit_code(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Shell("cat notes.txt"), Shell("exit 3"), Say("Done."))
    done = understood(run(agent, Work(cwd=cwd), codex_environment, b"Look."))
    assert [(tool, failed) for tool, _, failed in done.tools] == [("command", False), ("command", True)]
    assert "cat notes.txt" in done.tools[0][1]
    assert "first" in model_server.main_requests[1].tool_results[0]


def test_read_only_cannot_write(model_server: ModelServer, codex_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(Shell("echo x > made.txt"), WriteFile("patched.txt", "x\n"), Say("Tried."))
    done = understood(run(agent, Work(cwd=cwd), codex_environment, b"Write --sandbox danger-full-access"))
    assert all(failed for _, _, failed in done.tools)
    assert not done.of(FilesClaimed)
    assert sorted(path.name for path in cwd.iterdir()) == [".git", "notes.txt"]


def test_an_edit_is_claimed(model_server: ModelServer, codex_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(WriteFile("new.txt", "hello\n"), EditFile("notes.txt", "first", "second"), Say("Edited."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE)
    done = understood(run(agent, work, codex_environment, b"Edit."))
    assert [(tool, failed) for tool, _, failed in done.tools] == [("file_change", False)] * 2
    claimed = [Path(path).name for event in done.of(FilesClaimed) for path in event.paths]
    assert claimed == ["new.txt", "notes.txt"]
    assert (cwd / "new.txt").read_text() == "hello\n"
    assert (cwd / "notes.txt").read_text() == "second\n"


@pytest.mark.parametrize(
    ("step", "expected", "status"),
    [
        (Fail(401, times=99), FailureClass.AUTH, 401),
        (Fail(429, times=99), FailureClass.RATE_LIMIT, 429),
        (Fail(500, times=99), FailureClass.OVERLOADED, None),
        (Fail(400, "No such thing", times=99), FailureClass.BAD_REQUEST, None),
        (Fail(404, "No such model", times=99), FailureClass.MODEL, 404),
        (Drop(times=99), FailureClass.NETWORK, None),
        (Drop(times=99, in_the_middle=False), FailureClass.NETWORK, None),
        (
            Fail(429, times=99, error={"type": "usage_limit_reached", "message": "x", "resets_in_seconds": 60}),
            FailureClass.USAGE_LIMIT,
            None,
        ),
        (
            Fail(400, times=99, error={"code": "context_length_exceeded", "message": "too long"}),
            FailureClass.CONTEXT_EXCEEDED,
            None,
        ),
    ],
    ids=lambda value: (
        str(value.status if isinstance(value, Fail) else type(value).__name__)
        if isinstance(value, Fail | Drop)
        else str(value)
    ),
)
def test_a_failed_turn_is_classified_as_it_ends_and_from_the_record(
    model_server: ModelServer,
    codex_environment: dict[str, str],
    cwd: Path,
    step: Fail | Drop,
    expected: FailureClass,
    status: int | None,
) -> None:
    model_server.script(step)
    done = understood(run(agent, Work(cwd=cwd), codex_environment, b"Fail."))
    assert done.exit_code == 1
    assert done.failure.failure_class is expected
    assert done.failure.http_status == status
    recorded = agent.post_mortem(done.one(ThreadStarted).thread_id, codex_environment)
    failures = [event.failure for event in recorded if isinstance(event, TurnFailed)]
    assert [failure.failure_class for failure in failures] == [expected]
    assert failures[0].upstream_code


def test_a_passing_error_costs_nothing(model_server: ModelServer, codex_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(Fail(500), Say("Second time."))
    assert understood(run(agent, Work(cwd=cwd), codex_environment, b"Go.")).answer == "Second time."


def test_the_record_knows_what_a_failed_turn_used(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Shell("true"), Fail(401, times=99))
    done = understood(run(agent, Work(cwd=cwd), codex_environment, b"Work, then fail."))
    assert not done.of(UsageReported)
    recorded = agent.post_mortem(done.one(ThreadStarted).thread_id, codex_environment)
    usage = [event for event in recorded if isinstance(event, UsageReported)]
    assert [(event.usage.input_tokens, event.source, event.of_thread) for event in usage] == [
        (1000, "rollout_file", True)
    ]


def test_a_hanging_model_can_be_ended_and_the_thread_resumed(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    gate = Gate()
    model_server.script(Shell("true"), Hang(gate=gate))
    process = start(agent, Work(cwd=cwd), codex_environment, b"Hang.")
    try:
        assert process.stdout is not None
        thread = agent.interpret(process.stdout.readline())[0]
        assert isinstance(thread, ThreadStarted)
        assert gate.reached.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        gate.open()
    assert not [e for line in rest.split(b"\n") for e in agent.interpret(line) if isinstance(e, TurnFailed)]
    model_server.script(Say("Back again."))
    done = understood(run(agent, Work(cwd=cwd, resume=thread.thread_id), codex_environment, b"Go on."))
    assert done.answer == "Back again."
    assert done.one(ThreadStarted).thread_id == thread.thread_id


def test_usage_of_a_resumed_thread_counts_the_whole_thread(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Say("One."), Say("Two."))
    first = understood(run(agent, Work(cwd=cwd), codex_environment, b"1"))
    thread_id = first.one(ThreadStarted).thread_id
    second = understood(run(agent, Work(cwd=cwd, resume=thread_id), codex_environment, b"2"))
    assert (first.usage.usage.input_tokens, second.usage.usage.input_tokens) == (1000, 2000)


def test_an_unknown_thread_is_named_as_such(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    work = Work(cwd=cwd, resume="00000000-0000-4000-8000-000000000000")
    done = run(agent, work, codex_environment, b"x")
    assert done.events == []
    found = agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)
    assert [event.failure.failure_class for event in found if isinstance(event, TurnFailed)] == [
        FailureClass.THREAD_UNKNOWN
    ]


def test_a_thread_in_use_is_named_as_such(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Say("One."))
    first = run(agent, Work(cwd=cwd), codex_environment, b"1")
    work = Work(cwd=cwd, resume=first.one(ThreadStarted).thread_id)
    gate = Gate()
    model_server.script(Say("Two.", gate=gate))
    busy = start(agent, work, codex_environment, b"2")
    try:
        assert gate.reached.wait(PATIENCE)
        done = run(agent, work, codex_environment, b"3")
    finally:
        gate.open()
        busy.communicate(timeout=PATIENCE)
    found = agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)
    assert [event.failure.failure_class for event in found if isinstance(event, TurnFailed)] == [
        FailureClass.THREAD_BUSY
    ]
    assert busy.returncode == 0


def test_an_option_that_codex_does_not_know_means_an_incompatible_version(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    class Newer(CodexAgent):
        def launch(self, *args, **options):
            launch = super().launch(*args, **options)
            launch.argv.insert(2, "--from-the-future")
            return launch

    done = run(Newer(), Work(cwd=cwd), codex_environment, b"x")
    found = agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)
    assert [event.failure.failure_class for event in found if isinstance(event, TurnFailed)] == [
        FailureClass.BACKEND_INCOMPATIBLE
    ]


def test_a_thread_name_is_refused_before_codex_would_start_a_fresh_thread(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    with pytest.raises(UnsupportedOption):
        run(agent, Work(cwd=cwd, resume="my-thread"), codex_environment, b"x")
    assert model_server.journal == []


def test_a_megabyte_answer_arrives_whole(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    text = "0123456789abcdef" * 65536
    model_server.script(Say(text))
    assert understood(run(agent, Work(cwd=cwd), codex_environment, b"Long.")).answer == text


def test_an_empty_answer_is_empty(model_server: ModelServer, codex_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(Say(""))
    assert understood(run(agent, Work(cwd=cwd), codex_environment, b"Nothing.")).answer == ""


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_prompt_reaches_the_model_byte_for_byte(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path, prompt: str
) -> None:
    model_server.script(Say("Read."))
    understood(run(agent, Work(cwd=cwd), codex_environment, prompt.encode()))
    assert model_server.main_requests[0].has_prompt(prompt), model_server.main_requests[0].user_texts


def test_a_megabyte_prompt_reaches_the_model_byte_for_byte(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Say("Read."))
    understood(run(agent, Work(cwd=cwd), codex_environment, MEGABYTE))
    assert hashlib.sha256(MEGABYTE).hexdigest() in model_server.main_requests[0].prompt_hashes()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (b"", FailureClass.BAD_REQUEST),
        (b"not \xff UTF-8", FailureClass.BAD_REQUEST),
        (b"x" * (2**20 + 1), FailureClass.CONTEXT_EXCEEDED),
    ],
    ids=["empty", "not UTF-8", "too long"],
)
def test_a_prompt_that_codex_refuses_is_a_failure_with_its_reason(
    model_server: ModelServer,
    codex_environment: dict[str, str],
    cwd: Path,
    prompt: bytes,
    expected: FailureClass,
) -> None:
    done = run(agent, Work(cwd=cwd), codex_environment, prompt)
    found = agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)
    assert [event.failure.failure_class for event in found if isinstance(event, TurnFailed)] == [expected]
    assert model_server.journal == []


def test_the_native_program_gets_what_its_launcher_would_give_it(
    model_server: ModelServer, codex_environment: dict[str, str], cwd: Path
) -> None:
    class Launched(CodexAgent):
        def find(self, environment):
            return Installation(command=[str(locate_agent("codex"))])

    look = Shell("tr '\\0' '\\n' < /proc/$PPID/environ | grep ^CODEX_MANAGED | sort")
    model_server.script(look, Say("Native."), look, Say("Launched."))
    work = Work(cwd=cwd, sandbox=Sandbox.DANGER_FULL_ACCESS)
    for each in (agent, Launched()):
        understood(run(each, work, codex_environment, b"Look."))
    native, launched = (
        [line for line in request.tool_results[-1].splitlines() if line.startswith("CODEX_")]
        for request in (model_server.main_requests[1], model_server.main_requests[3])
    )
    assert native == launched
    assert len(native) == 2


def test_the_native_program_is_started_without_its_launcher(codex_environment: dict[str, str]) -> None:
    command = agent.find(codex_environment).command
    assert len(command) == 1
    assert Path(command[0]).read_bytes()[:4] in (b"\x7fELF", b"\xcf\xfa\xed\xfe")
    assert os.access(command[0], os.X_OK)
