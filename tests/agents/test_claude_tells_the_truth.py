"""What the real Claude Code reports is understood as what happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from holdfast.agents.adapter import Sandbox, Work
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.events import (
    FilesClaimed,
    Malformed,
    Message,
    Notice,
    ThreadStarted,
    TurnCompleted,
    TurnFailed,
    Unrecognized,
    Usage,
    UsageReported,
)
from holdfast.agents.failure import FailureClass
from tests.agents.prompts import MEGABYTE, PROMPTS
from tests.agents.running import PATIENCE, Run, run, start, workspace
from tests.model_server import Drop, EditFile, Fail, Gate, Hang, ModelServer, Say, Shell, Tool, WriteFile

pytestmark = pytest.mark.real_agent

agent = ClaudeAgent()


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return workspace(tmp_path)


def understood(done: Run) -> Run:
    """Nothing that it wrote was beyond us."""
    assert not done.of(Malformed)
    assert not done.of(Unrecognized)
    return done


def test_a_plain_answer(model_server: ModelServer, claude_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(Say("Forty-two.", input_tokens=700, output_tokens=30))
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"What is it?"))
    assert done.exit_code == 0
    assert done.answer == "Forty-two."
    assert [event.text for event in done.of(Message)] == ["Forty-two."]
    assert done.tools == []
    assert (done.usage.usage.input_tokens, done.usage.usage.output_tokens) == (700, 30)
    assert done.usage.usage.cost_usd
    assert done.one(ThreadStarted).thread_id == done.launch.thread_id


def test_a_shell_command_and_its_exit_code(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Shell("cat notes.txt"), Shell("exit 3"), Say("Done."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE)
    done = understood(run(agent, work, claude_environment, b"Look."))
    assert done.tools == [("command", "cat notes.txt", False), ("command", "exit 3", True)]
    assert model_server.main_requests[1].tool_results == ["first"]


def test_an_edit_is_claimed(model_server: ModelServer, claude_environment: dict[str, str], cwd: Path) -> None:
    new = str(cwd / "new.txt")
    model_server.script(WriteFile(new, "hello\n"), EditFile(new, "hello", "goodbye"), Say("Edited."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE)
    done = understood(run(agent, work, claude_environment, b"Edit."))
    assert [(tool, failed) for tool, _, failed in done.tools] == [("file_change", False)] * 2
    assert [event.paths for event in done.of(FilesClaimed)] == [[new], [new]]
    assert (cwd / "new.txt").read_text() == "goodbye\n"


def test_workspace_write_does_not_edit_elsewhere(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path, tmp_path: Path
) -> None:
    model_server.script(WriteFile(str(tmp_path / "outside.txt"), "x"), Say("Tried."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE)
    done = understood(run(agent, work, claude_environment, b"Edit."))
    assert [failed for _, _, failed in done.tools] == [True]
    assert not done.of(FilesClaimed)
    assert "1 tool use(s) were denied: Write" in [event.text for event in done.of(Notice)]
    assert not (tmp_path / "outside.txt").exists()


def test_workspace_write_edits_an_added_directory(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    model_server.script(WriteFile(str(more / "made.txt"), "x"), Say("Done."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE, add_dirs=[more])
    understood(run(agent, work, claude_environment, b"Edit."))
    assert (more / "made.txt").read_text() == "x"


READS = ["ls -la", "cat notes.txt", "git log --oneline", "git diff HEAD", "grep -rn first .", "find . -name notes.txt"]

WRITES = [
    "echo x > made.txt", "touch made.txt", "sed -i s/first/last/ notes.txt", "find . -name notes.txt -delete",
    "git log --output=made.txt", "git diff --output=made.txt HEAD", "git branch made", "git stash",
    "sort -o made.txt notes.txt", "tee made.txt < notes.txt", "cat <(touch made.txt)", "echo $(touch made.txt)",
    "ls | xargs touch made.txt", "awk 'BEGIN{print 1 > \"made.txt\"}'", "env touch made.txt",
    "bash -c 'touch made.txt'", "touch made.txt &",
    "git -c core.pager='touch made.txt' log", "uniq notes.txt made.txt", "rm notes.txt", "cp notes.txt made.txt",
    "python3 -c 'open(\"made.txt\",\"w\")'", "git grep -O'touch made.txt' first", "find . -fprintf made.txt x",
]  # fmt: skip


def test_read_only_can_look_around(model_server: ModelServer, claude_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(*(Shell(command) for command in READS), Say("Looked."))
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"Look."))
    assert done.tools == [("command", command, False) for command in READS]


def test_read_only_cannot_write_even_if_every_setting_allows_it(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    allow = json.dumps({"permissions": {"allow": ["Bash", "Write", "Edit"], "defaultMode": "bypassPermissions"}})
    home = Path(claude_environment["CLAUDE_CONFIG_DIR"])
    (home / "settings.json").write_text(allow)
    (home / ".claude.json").write_text(json.dumps({"projects": {str(cwd): {"hasTrustDialogAccepted": True}}}))
    (cwd / ".claude").mkdir()
    (cwd / ".claude" / "settings.json").write_text(allow)
    before = {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}
    tools = [
        WriteFile(str(cwd / "made.txt"), "x"),
        EditFile(str(cwd / "notes.txt"), "first", "last"),
        Tool("NotebookEdit", {"notebook_path": str(cwd / "made.ipynb"), "new_source": "x"}),
    ]
    model_server.script(*tools, *(Shell(command) for command in WRITES), Say("Tried."))
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"Write."))
    assert [title for _, title, failed in done.tools if not failed] == []
    assert len(done.tools) == len(WRITES) + 3
    assert {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("step", "expected", "status"),
    [
        (Fail(401, times=99), FailureClass.AUTH, 401),
        (Fail(403, times=99), FailureClass.AUTH, 403),
        (Fail(404, times=99), FailureClass.MODEL, 404),
        (Fail(429, times=99), FailureClass.RATE_LIMIT, 429),
        (Fail(500, times=99), FailureClass.OVERLOADED, 500),
        (Fail(529, times=99), FailureClass.OVERLOADED, 529),
        (Fail(400, "No such thing", times=99), FailureClass.BAD_REQUEST, 400),
        (Drop(times=99), FailureClass.NETWORK, None),
        (Drop(times=99, in_the_middle=False), FailureClass.NETWORK, None),
    ],
    ids=["401", "403", "404", "429", "500", "529", "400", "dropped in the middle", "dropped at once"],
)
def test_a_failed_turn_is_classified(
    model_server: ModelServer,
    claude_environment: dict[str, str],
    cwd: Path,
    step: Fail | Drop,
    expected: FailureClass,
    status: int | None,
) -> None:
    model_server.script(step)
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"Fail."))
    assert done.exit_code == 1
    assert done.failure.failure_class is expected
    assert done.failure.http_status == status
    assert done.terminal.message is None


def test_a_passing_error_costs_nothing(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Fail(500), Say("Second time."))
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"Go."))
    assert done.answer == "Second time."
    assert any("HTTP 500" in event.text for event in done.of(Notice))


def test_no_login_is_a_matter_of_authentication(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    del claude_environment["ANTHROPIC_AUTH_TOKEN"]
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"x"))
    assert done.failure.failure_class is FailureClass.AUTH
    assert done.failure.remedy[0].argv == ["claude", "auth", "login"]
    assert model_server.main_requests == []


def test_a_refusal_of_the_model_is_no_success(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(*[Say("", stop_reason="refusal")] * 10)
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"x"))
    assert done.failure.failure_class is FailureClass.POLICY


def test_an_answer_beyond_the_limit_is_no_success(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(*[Say("and so on", stop_reason="max_tokens")] * 10)
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"x"))
    assert done.failure.failure_class is FailureClass.CONTEXT_EXCEEDED


def test_a_prompt_that_no_model_saw_is_no_success(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    done = understood(run(agent, Work(cwd=cwd), claude_environment, b"/help"))
    assert done.failure.failure_class is FailureClass.BAD_REQUEST
    assert model_server.main_requests == []


def test_a_hanging_model_can_be_ended_and_the_session_resumed(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    gate = Gate()
    model_server.script(Shell("ls"), Hang(gate=gate))
    process = start(agent, Work(cwd=cwd), claude_environment, b"Hang.")
    try:
        assert gate.reached.wait(PATIENCE)
        process.terminate()
        written, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        gate.open()
    events = [event for line in written.split(b"\n") for event in agent.interpret(line)]
    thread = next(event for event in events if isinstance(event, ThreadStarted))
    recorded = agent.post_mortem(thread.thread_id, claude_environment)
    assert recorded == [
        UsageReported(
            usage=Usage(input_tokens=1000, cached_input_tokens=0, output_tokens=10), of_thread=True, source="transcript"
        )
    ]
    assert not [event for event in events if isinstance(event, TurnFailed)]
    model_server.script(*[Say("Back again.")] * 3)
    done = understood(run(agent, Work(cwd=cwd, resume=thread.thread_id), claude_environment, b"Go on."))
    assert done.answer == "Back again."
    assert done.one(ThreadStarted).thread_id == thread.thread_id


def test_an_interrupted_run_is_no_success_although_it_exits_with_0(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    gate = Gate()
    model_server.script(Hang(gate=gate))
    process = start(agent, Work(cwd=cwd), claude_environment, b"Hang.")
    try:
        assert gate.reached.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        written, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        gate.open()
    events = [event for line in written.split(b"\n") for event in agent.interpret(line)]
    failures = [event.failure for event in events if isinstance(event, TurnFailed)]
    assert [failure.failure_class for failure in failures] == [FailureClass.CANCELLED]
    assert not [event for event in events if isinstance(event, TurnCompleted)]


def test_usage_of_a_resumed_session_is_not_taken_for_that_of_the_run(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Say("One."), Say("Two."))
    first = understood(run(agent, Work(cwd=cwd), claude_environment, b"1"))
    work = Work(cwd=cwd, resume=first.launch.thread_id)
    second = understood(run(agent, work, claude_environment, b"2"))
    assert first.usage.usage.input_tokens == 1000
    assert second.usage.usage.input_tokens == (2000 if second.usage.of_thread else 1000)
    assert second.usage.usage.cost_usd in (None, pytest.approx(first.usage.usage.cost_usd))


def test_the_usage_of_subagents_is_counted(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    look = {"description": "look", "prompt": "Look around.", "subagent_type": "Explore", "run_in_background": False}
    model_server.script(Tool("Task", look), Shell("ls"), Say("Seen."), Say("Done."))
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE)
    done = understood(run(agent, work, claude_environment, b"Delegate."))
    assert done.answer == "Done."
    assert [event.text for event in done.of(Message)] == ["Done."]
    assert [tool for tool, _, _ in done.tools] == ["command", "subagent"]
    assert done.usage.usage.input_tokens == 4000
    recorded = agent.post_mortem(done.one(ThreadStarted).thread_id, claude_environment)
    assert [event.usage.input_tokens for event in recorded if isinstance(event, UsageReported)] == [4000]


def test_an_unknown_session_is_named_as_such(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    work = Work(cwd=cwd, resume="00000000-0000-4000-8000-000000000000")
    done = understood(run(agent, work, claude_environment, b"x"))
    assert done.failure.failure_class is FailureClass.THREAD_UNKNOWN


def test_an_option_that_claude_does_not_know_means_an_incompatible_version(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    class Newer(ClaudeAgent):
        def launch(self, *args, **options):
            launch = super().launch(*args, **options)
            launch.argv.insert(2, "--from-the-future")
            return launch

    done = run(Newer(), Work(cwd=cwd), claude_environment, b"x")
    found = agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)
    assert [event.failure.failure_class for event in found if isinstance(event, TurnFailed)] == [
        FailureClass.BACKEND_INCOMPATIBLE
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_full_access_is_refused_to_root_and_said_so(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    work = Work(cwd=cwd, sandbox=Sandbox.DANGER_FULL_ACCESS)
    done = understood(run(agent, work, claude_environment, b"x"))
    assert done.exit_code == 1
    found = [*done.events, *agent.diagnose(stderr_tail=done.stderr, exit_code=done.exit_code)]
    classes = {event.failure.failure_class for event in found if isinstance(event, TurnFailed)}
    assert classes == {FailureClass.SANDBOX}


def test_full_access_writes_anywhere(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path, tmp_path: Path
) -> None:
    model_server.script(WriteFile(str(tmp_path / "outside.txt"), "x"), Say("Done."))
    work = Work(cwd=cwd, sandbox=Sandbox.DANGER_FULL_ACCESS)
    environment = {**claude_environment, "IS_SANDBOX": "1"}
    assert understood(run(agent, work, environment, b"x")).answer == "Done."
    assert (tmp_path / "outside.txt").read_text() == "x"


def test_a_megabyte_answer_arrives_whole(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    text = "0123456789abcdef" * 65536
    model_server.script(Say(text))
    assert understood(run(agent, Work(cwd=cwd), claude_environment, b"Long.")).answer == text


def test_an_empty_answer_is_empty(model_server: ModelServer, claude_environment: dict[str, str], cwd: Path) -> None:
    model_server.script(*[Say("")] * 10)
    assert understood(run(agent, Work(cwd=cwd), claude_environment, b"Nothing.")).answer == ""


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_prompt_reaches_the_model_byte_for_byte(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path, prompt: str
) -> None:
    model_server.script(Say("Read."))
    understood(run(agent, Work(cwd=cwd), claude_environment, prompt.encode()))
    assert model_server.main_requests[0].has_prompt(prompt), model_server.main_requests[0].user_texts


def test_a_megabyte_prompt_reaches_the_model_byte_for_byte(
    model_server: ModelServer, claude_environment: dict[str, str], cwd: Path
) -> None:
    model_server.script(Say("Read."))
    understood(run(agent, Work(cwd=cwd), claude_environment, MEGABYTE))
    assert hashlib.sha256(MEGABYTE).hexdigest() in model_server.main_requests[0].prompt_hashes()
