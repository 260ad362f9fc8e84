"""Real Codex and real Claude Code, through the whole system, against a scripted model: the result says the truth."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents.prompts import MEGABYTE
from tests.model_server import Drop, Fail, Gate, Hang, ModelServer, Say, Shell, Tool, WriteFile
from tests.system.conftest import PATIENCE, Installation, programs

pytestmark = pytest.mark.real_agent

Run = Callable[..., Any]


@pytest.fixture(params=["codex", "codex one-shot", "claude"])
def way(request: pytest.FixtureRequest) -> str:
    """The agent, and how it is conversed with if not in the best way."""
    return str(request.param)


@pytest.fixture
def agent(way: str) -> str:
    return way.partition(" ")[0]


@pytest.fixture
def options(way: str) -> list[str]:
    drive = way.partition(" ")[2]
    return ["--drive", drive] if drive else []


@pytest.fixture
def servers(way: str) -> int:
    """How many processes of the agent are there for the next task, when a task has ended."""
    return 1 if way == "codex" else 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all tests, because its users share nothing else."""
    installation = Installation(tmp_path_factory.mktemp("shared"))
    installation.run("up")
    yield installation
    installation.down()


@pytest.fixture
def user(agent: str, shared: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A user who has the agent installed and configured, in a repository of one file."""
    user = Installation(tmp_path, beside=shared)
    environment: dict[str, str] = request.getfixturevalue(f"{agent}_environment")
    user.environment.update(environment)
    repository = user.workspace
    (repository / "notes.txt").write_text("first\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    yield user
    # The server of a Codex home that goes away with the test.
    for process in programs(user, agent):
        process.kill()


@pytest.fixture
def run(user: Installation, agent: str, options: list[str]) -> Run:
    def run(prompt: bytes, *more: str, exit_code: int) -> Any:
        return user.json("run", agent, "--prompt-file", "-", *options, *more, input=prompt, exit_code=exit_code)

    return run


def test_a_plain_answer(run: Run, model_server: ModelServer, user: Installation) -> None:
    model_server.script(Say("It is a list of notes.", input_tokens=1200, output_tokens=34))
    prompt = b'Explain "this" --write $(repository)\n'
    result = run(prompt, exit_code=0)
    assert result["status"] == "completed"
    assert result["message"]["text"] == "It is a list of notes."
    assert result["message"]["complete"] is True
    assert result["tool_uses"]["total"] == 0
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (1200, 34)
    assert result["usage"]["complete"] is True
    assert result["files"] == result["files"] | {"method": "git", "changed": [], "dirty_before": False}
    assert result["backend"]["sandbox"] == "read-only"
    assert result["backend"]["prompt_sha256"] == hashlib.sha256(prompt).hexdigest()
    assert result["backend"]["version"]
    assert len(result["thread"]["id"]) == 36
    assert result["unknowns"] == {}
    assert user.run("result", result["task_id"]).stdout == b"It is a list of notes."


def test_a_shell_command_is_counted_and_shown(run: Run, model_server: ModelServer, user: Installation) -> None:
    model_server.script(Shell("cat notes.txt"), Say("It says first."))
    result = run(b"Look.", exit_code=0)
    assert result["tool_uses"]["by_type"] == {"command": 1}
    assert result["message"]["text"] == "It says first."
    assert "cat notes.txt" in user.run("logs", result["task_id"]).stdout.decode()


def test_an_edit_is_observed_and_claimed(run: Run, model_server: ModelServer, user: Installation) -> None:
    model_server.script(WriteFile(str(user.workspace / "new.txt"), "hello\n"), Say("Written."))
    result = run(b"Write.", "--write", exit_code=0)
    assert [(file["path"], file["change"], file["claimed"]) for file in result["files"]["changed"]] == [
        ("new.txt", "added", True)
    ]
    assert result["tool_uses"]["by_type"] == {"file_change": 1}
    assert result["marker"] == "PATCH_APPLIED"
    assert (user.workspace / "new.txt").read_text() == "hello\n"


@pytest.mark.parametrize(("status", "error_class"), [(429, "rate_limit"), (500, "overloaded"), (401, "auth")])
def test_an_error_of_the_model_api_is_the_error_of_the_task(
    run: Run, model_server: ModelServer, status: int, error_class: str
) -> None:
    model_server.script(Fail(status, times=99))
    result = run(b"Fail.", exit_code=1)
    assert result["status"] == "failed"
    assert result["error"]["class"] == error_class
    assert result["error"]["message"]
    assert result["error"]["remedy"]
    assert result["thread"]["id"]


def test_a_stream_that_breaks_off_is_a_network_error(run: Run, model_server: ModelServer, agent: str) -> None:
    model_server.script(Drop(times=99))
    result = run(b"Drop.", exit_code=1)
    assert result["error"]["class"] == "network"
    assert result["error"]["retryable"] is True


def test_a_hanging_model_is_a_timeout_that_can_be_resumed(
    run: Run, model_server: ModelServer, user: Installation, agent: str, servers: int
) -> None:
    gate = Gate()
    model_server.script(Hang(gate=gate), Say("Here I am again."))
    result = run(b"Hang.", "--idle-timeout", "8", exit_code=124)
    assert (result["status"], result["limits"]["hit"]) == ("timeout", "idle")
    assert result["exit"]["leftover_pids"] == []
    assert len(programs(user, agent)) == servers
    gate.open()
    again = run(b"Go on.", "--resume", result["task_id"], exit_code=0)
    assert again["thread"]["id"] == again["thread"]["resumed_from"] == result["thread"]["id"]
    assert again["message"]["text"] == "Here I am again."


def test_an_answer_of_one_mebibyte_is_whole(run: Run, model_server: ModelServer, user: Installation) -> None:
    model_server.script(Say(MEGABYTE.decode()))
    result = run(b"Talk.", exit_code=0)
    assert result["message"]["bytes"] == len(MEGABYTE)
    assert result["message"]["sha256"] == hashlib.sha256(MEGABYTE).hexdigest()
    assert user.run("result", result["task_id"]).stdout == MEGABYTE


def test_an_answer_in_json_is_asked_for_and_checked(run: Run, model_server: ModelServer, agent: str) -> None:
    schema = {"type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"]}
    document = {"verdict": "approve"}
    good = Tool("StructuredOutput", document) if agent == "claude" else Say(json.dumps(document))
    model_server.script(good, Say("Done."))
    result = run(b"Judge.", "--verdict", "--output-schema", json.dumps(schema), exit_code=0)
    assert (result["verdict"]["structured"], result["verdict"]["approved"]) == (document, True)


def test_an_answer_that_the_agent_lets_pass_and_we_do_not(run: Run, model_server: ModelServer) -> None:
    schema = {"type": "object", "properties": {"verdict": {"type": "string"}}, "required": ["verdict"]}
    model_server.script(Say("Fine."), Say("Fine."))
    result = run(b"Judge.", "--output-schema", json.dumps(schema), exit_code=4)
    assert (result["error"]["class"], result["message"]["text"]) == ("schema_unmet", "Fine.")


def test_an_empty_answer_is_no_signal(run: Run, model_server: ModelServer) -> None:
    # Claude Code asks again when an answer is empty.
    model_server.script(*[Say("")] * 10)
    result = run(b"Say nothing.", exit_code=4)
    assert result["status"] == "no_signal"
    assert result["ok"] is False


def test_the_model_gets_the_prompt_byte_for_byte(run: Run, model_server: ModelServer) -> None:
    prompt = "'single' \"double\" `tick` $(id) \\n \\\\ --write\r\n- 🙂 no line feed at the end"
    model_server.script(Say("Received."))
    run(prompt.encode(), exit_code=0)
    assert any(prompt in text for text in model_server.main_requests[0].user_texts)


def test_a_task_killed_in_its_first_seconds_can_be_resumed(
    run: Run, model_server: ModelServer, user: Installation, agent: str, options: list[str], servers: int
) -> None:
    gate = Gate()
    model_server.script(Shell("true"), Hang(gate=gate), Say("I remember."))
    task = f"killed-early-{user.workspace.parent.name}".lower().replace("_", "-")
    process = user.start("run", agent, "Begin.", "--task-id", task, *options)
    assert gate.reached.wait(PATIENCE)
    for each in programs(user, agent):
        each.kill()
    process.communicate(timeout=PATIENCE)
    gate.open()
    killed = json.loads(user.run("result", "--json", task).stdout)
    assert killed["status"] == "failed"
    # Of a server in its middle it is the turn that failed; the process that followed it saw that and ended well.
    assert killed["exit"]["signal"] == (None if servers else "SIGKILL")
    assert killed["error"]["class"] == "backend_crash"
    again = run(b"Go on.", "--resume", task, exit_code=0)
    assert again["thread"]["id"] == killed["thread"]["id"]
    assert again["message"]["text"] == "I remember."


def test_the_doctor_finds_the_agent(user: Installation, agent: str) -> None:
    report = user.run("doctor", "--json")
    assert agent in report.stdout.decode()
    assert Path(user.environment["PATH"].split(":")[0]).exists()
