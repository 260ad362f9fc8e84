"""Real Codex through its shared server, with anybody dying at any point: the task ends in the truth, and runs once."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import psutil
import pytest

from tests.model_server import Gate, Hang, ModelServer, Say, Shell, Tool
from tests.system.conftest import PATIENCE, Installation, command_line, programs

pytestmark = pytest.mark.real_agent


@pytest.fixture
def user(installation: Installation, codex_environment: dict[str, str]) -> Installation:
    installation.environment.update(codex_environment)
    return installation


class Midway:
    """A task whose model has been asked and does not answer yet."""

    def __init__(self, user: Installation, model_server: ModelServer, task_id: str, *options: str) -> None:
        self.user = user
        self.id = task_id
        self.gate = Gate()
        self._model_server = model_server
        model_server.script(Hang(gate=self.gate), Say("The answer."))
        user.run("start", "codex", "Think.", "--task-id", task_id, *options)
        assert self.gate.reached.wait(PATIENCE)
        self.asked = len(model_server.main_requests)

    def result(self) -> Any:
        """How it ends once the model goes on."""
        self.gate.open()
        self.user.run("wait", self.id)
        return json.loads(self.user.run("result", "--json", self.id).stdout)


def turn_programs(user: Installation) -> list[psutil.Process]:
    return [
        process
        for process in user.processes()
        if any("app_server/program.py" in word for word in command_line(process))
    ]


def server(user: Installation) -> psutil.Process:
    (found,) = programs(user, "codex")
    return found


@pytest.mark.parametrize("between", ["nothing", "SIGTERM", "SIGKILL", "SIGSTOP"])
def test_six_calls_in_a_row_all_succeed(user: Installation, model_server: ModelServer, between: str) -> None:
    for number in range(6):
        model_server.script(Say(f"Answer {number}."))
        completed = user.run("run", "codex", f"Question {number}")
        assert (completed.returncode, completed.stdout) == (0, f"Answer {number}.".encode()), completed.stderr
        match between:
            case "SIGTERM":
                server(user).terminate()
            case "SIGKILL":
                server(user).kill()
            case "SIGSTOP" if number == 2:
                server(user).suspend()
            case _:
                assert len(programs(user, "codex")) == 1
    assert len(model_server.main_requests) == 6


def test_eight_at_once_share_one_server(user: Installation, model_server: ModelServer) -> None:
    model_server.script(*[Say("Here.")] * 8)
    running = [user.start("run", "codex", "Hello", "--task-id", f"at-once-{number}") for number in range(8)]
    answers = [process.communicate(timeout=PATIENCE)[0] for process in running]
    assert answers == [b"Here."] * 8
    assert [process.returncode for process in running] == [0] * 8
    assert len(programs(user, "codex")) == 1


def test_a_killed_turn_program_is_replaced_and_the_turn_is_collected(
    user: Installation, model_server: ModelServer
) -> None:
    task = Midway(user, model_server, "replaced")
    for process in turn_programs(user):
        process.kill()
    user.run("wait", task.id, "--timeout", "1")
    result = task.result()
    assert (result["status"], result["message"]["text"]) == ("completed", "The answer.")
    assert [attempt["reason"] for attempt in result["attempts"]] == ["first", "reattach"]
    assert len(model_server.main_requests) == task.asked + 1


def test_everybody_else_may_die_in_the_middle(user: Installation, model_server: ModelServer) -> None:
    task = Midway(user, model_server, "all-others")
    assert user.kill_daemon()
    result = task.result()
    assert (result["status"], result["message"]["text"]) == ("completed", "The answer.")
    assert len(model_server.main_requests) == task.asked + 1


def test_a_server_killed_in_the_middle_is_a_typed_failure_to_go_on_from(
    user: Installation, model_server: ModelServer
) -> None:
    task = Midway(user, model_server, "server-died")
    server(user).kill()
    result = task.result()
    assert (result["status"], result["error"]["class"]) == ("failed", "backend_crash")
    assert len(model_server.main_requests) == task.asked
    again = user.json("resume", task.id, "Go on.")
    assert again["thread"]["id"] == result["thread"]["id"]


def test_a_cancelled_turn_goes_on_nowhere(user: Installation, model_server: ModelServer) -> None:
    task = Midway(user, model_server, "cancelled-turn")
    user.run("cancel", "--wait", task.id)
    result = task.result()
    assert result["status"] == "cancelled"
    # The thread is free: nothing of the turn holds it any more.
    again = user.json("run", "codex", "Something else.", "--resume", task.id)
    assert again["message"]["text"] == "The answer."


def test_what_is_said_to_a_turn_arrives(user: Installation, model_server: ModelServer) -> None:
    task = Midway(user, model_server, "steered-turn")
    steered = user.run("steer", task.id, "And be brief.")
    assert steered.returncode == 0, steered.stderr
    result = task.result()
    assert result["status"] == "completed"
    assert any("And be brief." in text for request in model_server.main_requests for text in request.user_texts)
    late = user.run("steer", task.id, "Too late.")
    assert late.returncode == 2
    assert b"is finished" in late.stderr


@pytest.mark.parametrize(("answer", "text"), [([], "made"), (["--decline"], "")])
def test_a_question_waits_for_its_answer(
    user: Installation, model_server: ModelServer, answer: list[str], text: str
) -> None:
    made = user.workspace / "made"
    command = {"cmd": f"echo made > {made}", "sandbox_permissions": "require_escalated", "justification": "It must be."}
    model_server.script(Tool("exec_command", command), Say("Done."))
    user.run("start", "codex", "Make it.", "--approvals", "ask", "--task-id", "asks-first")
    view: Any = {}
    with user.start("logs", "-f", "asks-first") as logs:
        assert logs.stdout is not None
        for line in logs.stdout:
            if b"asks to be allowed" in line:
                break
        view = json.loads(user.run("status", "--json", "asks-first").stdout)
        logs.kill()
    (question,) = view["approvals"]
    assert "echo made" in question["title"]
    assert user.run("approve", "asks-first", *answer).returncode == 0
    user.run("wait", "asks-first")
    assert (made.read_text().strip() if made.exists() else "") == text


def test_a_fork_leaves_the_thread_as_it_is(user: Installation, model_server: ModelServer) -> None:
    model_server.script(Say("One."), Say("Two."))
    first = user.json("run", "codex", "First.")
    fork = user.json("fork", first["task_id"], "Second.")
    assert fork["thread"]["id"] not in (None, first["thread"]["id"])
    assert any("First." in text for text in model_server.main_requests[-1].user_texts)


def test_a_budget_that_is_nearly_spent_is_told_and_concluded(user: Installation, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Shell("true"), Shell("true"), Hang(gate=gate), Say("What I found."))
    process = user.start("run", "codex", "Look.", "--soft-tool-uses", "2", "--json")
    assert gate.reached.wait(PATIENCE)
    gate.open()
    result = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert result["status"] == "completed"
    assert any("Finish now" in text for request in model_server.main_requests for text in request.user_texts)


def test_down_ends_the_servers(user: Installation, model_server: ModelServer) -> None:
    model_server.script(Say("Yes."))
    user.run("run", "codex", "Yes?")
    subprocess.run(user.command("down"), env=user.environment, check=True, capture_output=True)
    assert programs(user, "codex") == []


def test_down_leaves_a_server_in_which_a_turn_is_about_to_begin(user: Installation, model_server: ModelServer) -> None:
    model_server.script(Say("The answer."))
    user.run("start", "codex", "Think.", "--task-id", "about-to-begin")
    deadline = time.monotonic() + PATIENCE
    while not (begun := turn_programs(user)):
        assert time.monotonic() < deadline
    begun[0].suspend()
    found = server(user)
    assert user.run("down").returncode == 0
    assert found.is_running()
    begun[0].resume()
    assert user.run("wait", "about-to-begin").returncode == 0
    assert user.run("result", "about-to-begin").stdout == b"The answer."
    assert len(model_server.main_requests) == 1


def test_down_ends_the_servers_that_no_unfinished_task_needs(user: Installation, model_server: ModelServer) -> None:
    model_server.script(Say("Yes."))
    user.environment["LC_TIME"] = "C"
    user.run("run", "codex", "Yes?")
    idle = server(user)
    del user.environment["LC_TIME"]
    midway = Midway(user, model_server, "it-goes-on")
    (busy,) = [found for found in programs(user, "codex") if found != idle]
    down = user.run("down")
    assert (down.returncode, b"1 task goes on" in down.stdout) == (0, True)
    assert programs(user, "codex") == [busy]
    result = midway.result()
    assert (result["status"], result["message"]["text"]) == ("completed", "The answer.")
