"""Whatever dies, stalls or leaves: a job comes to a true end, which can be seen and fetched, with each real Codex."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from holdfast.companion.view import GATE, View
from holdfast.companion.workspace import Workspace
from tests.conftest import locate_agent
from tests.drivers.app_server.conftest import OLD, locate_old_codex
from tests.model_server import Echo, Gate, Hang, ModelServer, Say
from tests.system.conftest import command_line

from .conftest import PATIENCE, Installation, User

pytestmark = pytest.mark.real_agent


@pytest.fixture(params=["codex", f"codex-{OLD}"])
def user(
    request: pytest.FixtureRequest, installation: Installation, tmp_path: Path, codex_environment: dict[str, str]
) -> Iterator[User]:
    """A user with the real Codex, each version in turn."""
    command = locate_agent("codex") if request.param == "codex" else locate_old_codex()
    user = User(installation, tmp_path, command.parent)
    user.environment["CODEX_HOME"] = codex_environment["CODEX_HOME"]
    yield user
    for process in servers(user):
        process.kill()


def servers(user: User) -> list[psutil.Process]:
    """The servers of Codex that work for *user*."""
    return [
        process
        for process in user.installation.processes()
        if {"app-server", "--listen"} <= set(command_line(process))
        and process.environ().get("CODEX_HOME") == user.environment["CODEX_HOME"]
    ]


def background(user: User, prompt: str, **options: Any) -> str:
    """Begin a background job."""
    return user.run("task", "--background", "--json", prompt, **options).json["jobId"]


def waited_for(user: User, name: str) -> Any:
    """A job, when it has ended."""
    return user.run("status", name, "--wait", "--json").json["job"]


def test_a_server_that_dies_fails_the_turn_in_it_and_nothing_else(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Hang(gate=gate), Say("One."), Say("Two."))
    process = user.start("task", "--json", "first")
    assert gate.reached.wait(PATIENCE)
    [server] = servers(user)
    server.kill()
    told = json.loads(process.communicate(timeout=PATIENCE)[0])
    gate.open()
    assert (process.returncode, told["status"], told["rawOutput"]) == (1, 1, "")
    assert told["error"]["code"] == "backend_crash"
    [job] = user.state["jobs"]
    assert (job["status"], job["pid"]) == ("failed", None)
    assert told["error"]["message"] in user.run("result", job["id"]).out
    assert user.run("task", "one").out == "One.\n"
    [server] = servers(user)
    server.kill()
    assert user.run("task", "two").out == "Two.\n"
    assert len(model_server.main_requests) == 3


def test_a_daemon_that_dies_in_a_turn_costs_nothing(user: User, model_server: ModelServer) -> None:
    gates = [Gate(), Gate()]
    model_server.script(*(Say("I went on.", gate=gate) for gate in gates))
    name = background(user, "first")
    assert gates[0].reached.wait(PATIENCE)
    process = user.start("task", "second")
    assert gates[1].reached.wait(PATIENCE)
    assert user.installation.kill_daemon()
    for gate in gates:
        gate.open()
    assert (process.communicate(timeout=PATIENCE)[0], process.returncode) == ("I went on.\n", 0)
    assert waited_for(user, name)["status"] == "completed"
    assert user.run("result", name).out.startswith("I went on.\n")
    assert [job["status"] for job in user.state["jobs"]] == ["completed"] * 2
    assert len(model_server.main_requests) == 2


def test_a_command_that_is_killed_leaves_its_job_alone(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Say("I went on.", gate=gate))
    process = user.start("task", "take your time")
    assert gate.reached.wait(PATIENCE)
    process.kill()
    process.communicate(timeout=PATIENCE)
    [job] = user.state["jobs"]
    assert f"| {job['id']} | rescue | running |" in user.run("status").out
    assert user.run("result", job["id"]).status == 3
    gate.open()
    assert waited_for(user, job["id"])["status"] == "completed"
    assert user.run("result").out.startswith("I went on.\n")


@pytest.mark.parametrize("user", ["codex"], indirect=True)
def test_eight_at_once_from_nothing_and_eight_more(user: User, model_server: ModelServer) -> None:
    assert user.installation.run("down").returncode == 0
    model_server.script(*[Echo()] * 16)
    prompts = [f"This is number {number}." for number in range(16)]
    foreground = [user.start("task", prompt) for prompt in prompts[:8]]
    answers = [process.communicate(timeout=PATIENCE) for process in foreground]
    assert [out for out, _ in answers] == [f"{prompt}\n" for prompt in prompts[:8]], answers
    started = [user.start("task", "--background", "--json", prompt) for prompt in prompts[8:]]
    for process in started:
        process.communicate(timeout=PATIENCE)
    user.until(lambda: not any(job["status"] in ("queued", "running") for job in user.state["jobs"]))
    jobs = user.state["jobs"]
    assert [job["status"] for job in jobs] == ["completed"] * 16
    stored = [json.loads((user.directory / "jobs" / f"{job['id']}.json").read_text()) for job in jobs]
    assert sorted(each["rendered"] for each in stored) == sorted(f"{prompt}\n" for prompt in prompts)
    assert len(servers(user)) == 1


def test_a_thread_is_gone_on_with_from_anywhere_as_soon_as_its_job_has_ended(
    user: User, model_server: ModelServer
) -> None:
    model_server.script(*[Say(f"Answer {number}.") for number in range(4)])
    thread = user.run("task", "--json", "begin", session="s").json["threadId"]
    by_itself = subprocess.run(
        [user.codex / "codex", "exec", "resume", "--skip-git-repo-check", thread, "again"],
        env=user.environment,
        cwd=user.repository,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (by_itself.returncode, b"Answer 1." in by_itself.stdout) == (0, True), by_itself.stderr
    for number, session in ((2, "s"), (3, None)):
        resumed = user.run("task", "--resume-last", "--json", "go on", session=session).json
        assert (resumed["rawOutput"], resumed["threadId"]) == (f"Answer {number}.", thread)
    assert "begin" in model_server.main_requests[-1].user_texts
    other = user.run("task", "--resume-last", "go on", session="other")
    assert "No previous Codex task thread was found" in other.err


def test_the_end_of_a_session_is_the_end_of_no_other(user: User, model_server: ModelServer) -> None:
    gates = [Gate(), Gate()]
    model_server.script(*(Say("Done.", gate=gate) for gate in gates))
    mine = background(user, "mine", session="a")
    assert gates[0].reached.wait(PATIENCE)
    other = background(user, "other", session="b")
    assert gates[1].reached.wait(PATIENCE)
    told = json.dumps({"hook_event_name": "SessionEnd", "session_id": "a", "cwd": str(user.repository)})
    assert user.run("session-hook", stdin=told).status == 0
    assert waited_for(user, mine)["status"] == "cancelled"
    for gate in gates:
        gate.open()
    assert waited_for(user, other)["status"] == "completed"
    assert user.run("result", other).out.startswith("Done.\n")
    assert "Cancelled by user." in user.run("result", mine).out
    assert [job["id"] for job in user.state["jobs"]] == [other]


def test_a_job_is_cancelled_at_once(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(*[Say("Here.", gate=gate)] * 2)
    # The server is not even started yet, or the thread, or the turn: whatever there is, it ends.
    name = background(user, "never mind")
    assert user.run("cancel", name, "--json").json["status"] == "cancelled"
    gate.open()
    assert waited_for(user, name)["status"] == "cancelled"
    assert user.state["jobs"][0]["pid"] is None
    assert user.run("task", "and now").out == "Here.\n"


@pytest.mark.parametrize("user", ["codex"], indirect=True)
def test_a_job_whose_server_does_not_answer_is_not_said_to_be_cancelled(user: User, model_server: ModelServer) -> None:
    gate = Gate()
    model_server.script(Hang(gate=gate))
    name = background(user, "never mind")
    assert gate.reached.wait(PATIENCE)
    [server] = servers(user)
    server.suspend()
    told = user.run("cancel", name)
    assert told.out.startswith(f"{name} is failed: ")
    assert "may still be at work" in told.out
    job = waited_for(user, name)
    assert (job["status"], job["pid"]) == ("failed", None)


@pytest.mark.parametrize("user", ["codex"], indirect=True)
@pytest.mark.parametrize("command", [["companion", "task", "tell"], ["run", "codex", "tell"]], ids=["task", "run"])
def test_two_megabytes_pass_through_a_slow_pipe(user: User, model_server: ModelServer, command: list[str]) -> None:
    text = "".join(f"{number:019d}\n" for number in range(100_000))
    model_server.script(Say(text, piece=65_536))
    with subprocess.Popen(
        user.installation.command(*command),
        env=user.environment,
        cwd=user.repository,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pipesize=4096,
    ) as process:
        assert process.stdout is not None
        assert fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ) == 4096
        first = process.stdout.read(1)
        # Much more than the pipe holds is still to come, and nothing is read until all of it can be had elsewhere.
        if command[0] == "companion":
            assert user.run("result").out.startswith(text)
        rest = process.stdout.read()
        assert process.wait(PATIENCE) == 0
    assert (first + rest).decode().rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("user", ["codex"], indirect=True)
def test_the_gate_blocks_once_and_only_for_an_objection(
    user: User, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_PLUGIN_DATA", str(user.plugin_data))
    View(Workspace(str(user.repository)).directory).configure(GATE, True)
    model_server.script(Say("BLOCK: It is wrong."), Say("Well, **ALLOW**, I think."))

    def stop(**told: Any) -> Any:
        told = {"cwd": str(user.repository), "session_id": "s", "last_assistant_message": "Did it.", **told}
        return user.run("stop-hook", stdin=json.dumps(told))

    assert "It is wrong." in stop().json["reason"]
    again = stop(stop_hook_active=True)
    assert (again.status, again.out) == (0, "")
    assert len(model_server.main_requests) == 1
    odd = stop()
    assert (odd.status, odd.out) == (0, "")
    assert "--disable-review-gate" in odd.err
