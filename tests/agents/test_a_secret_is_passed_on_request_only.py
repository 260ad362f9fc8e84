"""What looks like somebody else's secret reaches an agent only where the user named it for this piece of work."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.agents.adapter import Agent, Installation, Work
from holdfast.agents.claude import ClaudeAgent
from holdfast.agents.codex import CodexAgent
from holdfast.agents.declared import Declaration, DeclaredAgent
from holdfast.agents.rehearsal import RehearsalAgent

SANDBOX = {"read-only": []}
AGENTS = [
    CodexAgent(),
    ClaudeAgent(),
    RehearsalAgent(),
    DeclaredAgent("mine", Declaration(command=["mine"], sandbox=SANDBOX)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: str(agent.name))
def test_a_secret_is_passed_on_request_only(agent: Agent, tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "HOME": str(tmp_path), "DEPLOY_TOKEN": "t", "NPM_TOKEN": "n", "EDITOR": "ed"}
    installation = Installation(command=["/bin/agent"])
    without = agent.launch(installation, Work(cwd=tmp_path), environment).env
    assert without.keys() & environment.keys() == {"PATH", "HOME", "EDITOR"}
    named = agent.launch(installation, Work(cwd=tmp_path, pass_env=["DEPLOY_*"]), environment).env
    assert named["DEPLOY_TOKEN"] == "t"
    assert "NPM_TOKEN" not in named
