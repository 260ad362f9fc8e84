"""The real Claude Code uses the plugin: a command, a sub-agent, a review; the scripted model does as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import holdfast
from holdfast.cli.plugin import directory
from tests.api.conftest import PATIENCE, Installation, installation
from tests.model_server import Decide, ModelServer, Say, Tool
from tests.model_server.script import Step

__all__ = ["installation"]

pytestmark = pytest.mark.real_agent

#: It would be executed by a shell, and no shell sees it.
PROMPT = "rehearse: say It's `done` $(touch harm) --write.\n"
APPROVAL = '{"verdict":"approve","summary":"Good.","findings":[],"next_steps":[]}'


class Claude:
    """Claude Code with the plugin, in one workspace."""

    def __init__(self, installation: Installation, environment: dict[str, str], model: ModelServer) -> None:
        # The command as users have it; Claude Code and its shells find it on PATH.
        programs = installation.state.parent / "programs"
        programs.mkdir()
        launcher = programs / "holdfast"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n')
        launcher.chmod(0o755)
        self.environment = {**installation.environment, **environment}
        self.environment["PATH"] = os.pathsep.join([str(programs), environment["PATH"]])
        # The plugin allows it for the usual state directory, and this is another one.
        self.allowed = ["Bash(holdfast run:*)", "Bash(holdfast review:*)"]
        self._rule = f"Edit(/{installation.state}/prompts/*)"
        self._cwd = installation.workspace
        self.model = model

    def run(self, words: str) -> str:
        plugin = ["--plugin-dir", str(directory() / "claude-code")]
        command = ["claude", *plugin, "--allowedTools", self._rule, *self.allowed, "-p", words]
        ended = subprocess.run(
            command,
            env=self.environment,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def prompt_steps(self, text: str, command: str) -> list[Step]:
        """Write *text* where ``holdfast plugin prompt-file`` says, and run *command* with that file."""
        paths: list[str] = []

        def write(results: list[str]) -> Step:
            paths.append(results[-1].strip())
            return Tool("Write", {"file_path": paths[0], "content": text})

        return [
            Tool("Bash", {"command": "holdfast plugin prompt-file"}),
            Decide(write),
            Decide(lambda _: Tool("Bash", {"command": command.replace("FILE", paths[0]), "timeout": 600_000})),
        ]


@pytest.fixture
def claude(
    installation: Installation, claude_environment: dict[str, str], model_server: ModelServer
) -> Iterator[Claude]:
    yield Claude(installation, claude_environment, model_server)


def test_a_command_delegates_through_the_sub_agent(claude: Claude, installation: Installation) -> None:
    delegation = {"subagent_type": "holdfast:delegate", "description": "Delegate", "prompt": f"rehearsal: {PROMPT}"}
    claude.model.script(
        Tool("Agent", {**delegation, "run_in_background": False}),
        *claude.prompt_steps(PROMPT, "holdfast run rehearsal --label delegate --prompt-file FILE"),
        Decide(lambda results: Say(results[-1])),
        Decide(lambda results: Say(results[-1])),
    )
    answer = claude.run(f"/holdfast:delegate rehearsal {PROMPT}")
    assert "It's `done` $(touch harm) --write." in answer
    (view,) = holdfast.list()
    assert (view.agent, view.label, view.sandbox, view.status) == ("rehearsal", "delegate", "read-only", "completed")
    assert not (installation.workspace / "harm").exists()


def test_a_command_reviews(claude: Claude, installation: Installation) -> None:
    subprocess.run(["git", "init", "-q"], cwd=installation.workspace, check=True)
    (installation.workspace / "new.txt").write_text("new\n")
    claude.model.script(
        *claude.prompt_steps(f"rehearse: say {APPROVAL}\n", "holdfast review rehearsal --prompt-file FILE"),
        Decide(lambda results: Say(results[-1])),
    )
    assert "Verdict: approve" in claude.run("/holdfast:review rehearsal")
    assert "holdfast review" in " ".join(claude.model.main_requests[0].user_texts)


def test_nothing_is_started_unasked(claude: Claude) -> None:
    claude.allowed = []
    claude.model.script(Tool("Bash", {"command": "holdfast run rehearsal Look."}), Say("Refused."))
    claude.run("/holdfast:delegate rehearsal Look.")
    assert holdfast.list() == []


def test_the_skills_are_offered(claude: Claude) -> None:
    claude.model.script(Tool("Skill", {"skill": "holdfast:handling-results"}), Say("Read."))
    claude.run("Present a result.")
    told = " ".join(text for request in claude.model.main_requests for text in request.user_texts)
    assert "Do not repair anything, not even the obvious" in told
