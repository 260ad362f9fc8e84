"""The configuration file adds agents and adjusts built-in ones; what it says wrong is refused with the place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from holdfast.agents.adapter import AgentMissing, Login, Sandbox, UnknownAgent, UnsupportedOption, Work
from holdfast.agents.catalogue import InvalidConfiguration, find_agent, known_agents
from holdfast.agents.events import Message, TurnCompleted
from tests.agents.running import run, workspace


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write the configuration file."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HOLDFAST_CONFIG", str(path))

    def configure(text: str) -> Path:
        path.write_text(text)
        return path

    return configure


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return workspace(tmp_path)


#: Prints its arguments and, of its environment, what begins with X.
PRINTER = """
import json, os, sys
text = json.dumps([sys.argv[1:], sorted(n for n in os.environ if n.startswith("X")), sys.stdin.read()])
"""

FULL = """
[agents.printer]
title = "The printer"
command = [{python}, "-c", {program}]
args = ["--dir={{cwd}}", ["--model", "{{model}}"], "--effort={{effort}}", ["--add", "{{add_dir}}"], "{{sandbox}}", "-"]
resume_args = ["continue", "{{resume}}"]
dialect = {dialect}
pass_env = ["X_SECRET*"]
env = {{ XTRA = "1" }}
version_args = ["--version"]
sandbox = {{ read-only = ["--ro", "--safe"], workspace-write = [] }}
"""


def full(dialect: str) -> str:
    say = 'print(json.dumps({"event": "message", "text": text})); print(json.dumps({"event": "turn_completed"}))'
    program = PRINTER + ("print(text)" if dialect == "text" else say)
    return FULL.format(python=json.dumps(sys.executable), program=json.dumps(program), dialect=json.dumps(dialect))


def test_built_in_agents_need_no_configuration(configure) -> None:
    assert [agent.name for agent in known_agents()] == ["claude", "codex", "rehearsal"]
    configure("[something]\nelse = 1\n")
    assert [agent.name for agent in known_agents()] == ["claude", "codex", "rehearsal"]


def test_an_unknown_agent_is_refused_with_those_there_are(configure) -> None:
    configure(full("text"))
    with pytest.raises(UnknownAgent) as caught:
        find_agent("gemini")
    assert "claude, codex, printer, rehearsal" in (caught.value.hint or "")
    assert "[agents.gemini]" in (caught.value.hint or "")


def test_a_declared_agent_gets_what_its_template_says(configure, cwd: Path) -> None:
    configure(full("events"))
    agent = find_agent("printer")
    assert (agent.title, agent.plain_text, agent.can_resume) == ("The printer", False, True)
    environment = {"X_SECRET_KEY": "1", "XTOKEN": "2", "XPLAIN": "3"}
    work = Work(cwd=cwd, sandbox=Sandbox.READ_ONLY, model="m-1")
    done = run(agent, work, environment, b"the prompt")
    assert json.loads(done.one(Message).text) == [
        [f"--dir={cwd}", "--model", "m-1", "--ro", "--safe", "-"],
        ["XPLAIN", "XTRA", "X_SECRET_KEY"],
        "the prompt",
    ]
    assert done.one(TurnCompleted)


def test_a_list_of_directories_repeats_its_group(configure, cwd: Path) -> None:
    configure(full("events"))
    agent = find_agent("printer")
    work = Work(cwd=cwd, sandbox=Sandbox.WORKSPACE_WRITE, effort="high", add_dirs=[Path("/a"), Path("/b")])
    launch = agent.launch(agent.find({}), work, {})
    assert launch.argv[3:] == [f"--dir={cwd}", "--effort=high", "--add", "/a", "--add", "/b", "-"]


def test_resuming_has_a_template_of_its_own(configure, cwd: Path) -> None:
    configure(full("events"))
    agent = find_agent("printer")
    launch = agent.launch(agent.find({}), Work(cwd=cwd, resume="t-1"), {})
    assert launch.argv[3:] == ["--ro", "--safe", "continue", "t-1"]


def test_the_output_of_a_text_agent_is_its_answer(configure, cwd: Path) -> None:
    configure(full("text"))
    agent = find_agent("printer")
    assert agent.plain_text
    launch = agent.launch(agent.find({}), Work(cwd=cwd), {})
    assert launch.argv[0] == sys.executable
    assert agent.diagnose(stderr_tail="Error", exit_code=1) == []


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (Work(cwd=Path("/"), model="m"), "model"),
        (Work(cwd=Path("/"), effort="low"), "effort"),
        (Work(cwd=Path("/"), resume="x"), "resume"),
        (Work(cwd=Path("/"), sandbox=Sandbox.WORKSPACE_WRITE), "workspace-write"),
    ],
)
def test_what_a_declared_agent_cannot_do_is_refused(configure, work: Work, named: str) -> None:
    configure('[agents.cat]\ncommand = ["cat"]\nsandbox = { read-only = [] }\n')
    agent = find_agent("cat")
    assert not agent.can_resume
    with pytest.raises(UnsupportedOption) as caught:
        agent.launch(agent.find({}), work, {})
    assert named in caught.value.message
    assert "agents.cat." in (caught.value.hint or "")


def test_a_sandbox_that_is_not_declared_is_not_assumed(configure) -> None:
    configure('[agents.cat]\ncommand = ["cat"]\n')
    agent = find_agent("cat")
    with pytest.raises(UnsupportedOption):
        agent.launch(agent.find({}), Work(cwd=Path("/")), {})


@pytest.mark.parametrize("command", ["no-such-program", "~nobody-of-that-name/program"])
def test_a_declared_agent_may_be_missing_and_may_tell_its_version(configure, command: str) -> None:
    configure(f'[agents.gone]\ncommand = ["{command}"]\n')
    with pytest.raises(AgentMissing) as caught:
        find_agent("gone").find({"PATH": "/usr/bin"})
    assert "agents.gone.command" in (caught.value.hint or "")
    configure(f'[agents.python]\ncommand = ["{sys.executable}"]\nversion_args = ["--version"]\n')
    agent = find_agent("python")
    probe = agent.probe(agent.find({}), {})
    assert (probe.version or "").startswith("Python 3")
    assert probe.login is Login.UNKNOWN


def test_a_built_in_agent_can_be_adjusted(configure, cwd: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "my-codex"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    configure(f'[agents.codex]\ncommand = ["{wrapper}", "--profile-x"]\npass_env = ["MISTRAL_*"]\n')
    agent = find_agent("codex")
    environment = {"MISTRAL_API_KEY": "k", "OTHER_API_KEY": "k", "OPENAI_API_KEY": "k", "HOME": str(tmp_path)}
    launch = agent.launch(agent.find(environment), Work(cwd=cwd), environment)
    assert launch.argv[:3] == [str(wrapper), "--profile-x", "exec"]
    assert {"MISTRAL_API_KEY", "OPENAI_API_KEY"} <= set(launch.env)
    assert "OTHER_API_KEY" not in launch.env


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("agents = 3", "agents"),
        ("[agents]\nx = 1", "agents.x"),
        ('[agents.X]\ncommand = ["x"]', "agents.X"),
        ('[agents."a b"]\ncommand = ["x"]', "agents.a b"),
        ("[agents.x]", "agents.x"),
        ("[agents.x]\ncommand = []", "agents.x.command"),
        ('[agents.x]\ncommand = "x -y"', "agents.x.command"),
        ('[agents.x]\ncommand = ["x"]\nargs = ["{modle}"]', "agents.x.args"),
        ('[agents.x]\ncommand = ["x"]\nresume_args = [["-r", "{thread}"]]', "agents.x.resume_args"),
        ('[agents.x]\ncommand = ["x"]\ndialect = "xml"', "agents.x.dialect"),
        ('[agents.x]\ncommand = ["x"]\nsandbox = { none = [] }', "agents.x.sandbox"),
        ('[agents.x]\ncommand = ["x"]\ncolour = "red"', "agents.x"),
        ('[agents.codex]\nargs = ["x"]', "agents.codex"),
        ("[agents.codex]\npass_env = [1]", "agents.codex.pass_env"),
        ("[agents", "not valid TOML"),
    ],
)
def test_a_mistake_is_refused_with_file_and_key(configure, text: str, key: str) -> None:
    path = configure(text)
    with pytest.raises(InvalidConfiguration) as caught:
        known_agents()
    assert str(path) in caught.value.message
    assert key in caught.value.message
    assert caught.value.hint
    with pytest.raises(InvalidConfiguration):
        find_agent("codex" if key.startswith("agents.codex") else "x")


def test_a_mistake_about_one_agent_does_not_stop_another(configure) -> None:
    configure('[agents.x]\ncommand = "x"\n[agents.cat]\ncommand = ["cat"]\n')
    assert find_agent("cat").name == "cat"
    assert find_agent("codex").name == "codex"


def test_a_file_that_cannot_be_read_is_refused(configure) -> None:
    path = configure("")
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidConfiguration):
        known_agents()
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidConfiguration):
        known_agents()
