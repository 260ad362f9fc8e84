"""The real Claude Code and the real Codex, set up as docs/mcp.md says, delegate a task and hear how it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from tests.model_server import ModelServer, Say, Tool, openai

from .conftest import PATIENCE, Installation

pytestmark = pytest.mark.real_agent

WORK = {"agent": "rehearsal", "prompt": "rehearse: say Done by another.", "label": "delegated", "wait_seconds": 45}


def run(installation: Installation, environment: dict[str, str], *command: str) -> str:
    ended = subprocess.run(
        command,
        env={**installation.environment, **environment},
        cwd=installation.workspace,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def check(model_server: ModelServer) -> None:
    """The task ran, and the model that asked for it was told."""
    (view,) = holdfast.list()
    assert (view.label, view.status) == ("delegated", "completed")
    told: Any = model_server.main_requests[-1].tool_results[-1]
    assert view.id in told
    assert "Done by another." in told
    assert "untrusted" in told


def test_claude_code(
    installation: Installation, model_server: ModelServer, claude_environment: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "mcp.json"
    server = {"command": sys.executable, "args": ["-m", "holdfast", "mcp"]}
    config.write_text(json.dumps({"mcpServers": {"holdfast": server}}))
    model_server.script(Tool("mcp__holdfast__delegate", WORK), Say("The other one did it."))
    options = ["--mcp-config", str(config), "--strict-mcp-config", "--allowedTools", "mcp__holdfast"]
    answer = run(installation, claude_environment, "claude", "-p", "Delegate it.", *options)
    assert answer.strip() == "The other one did it."
    check(model_server)


@pytest.fixture
def namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scripted model call tools of a server as Codex has it: searched for, then named in two parts."""
    output = openai.output

    def split(step: Any, body: Any) -> Any:
        items = output(step, body)
        for item in items:
            if item.get("name", "").startswith("mcp__"):
                server, tool = item["name"].rsplit("__", 1)
                item.update(namespace=server, name=tool)
            elif item.get("name") == "tool_search":
                item.update(type="tool_search_call", execution="client", arguments=json.loads(item["arguments"]))
        return items

    monkeypatch.setattr(openai, "output", split)


@pytest.mark.usefixtures("namespaces")
def test_codex(installation: Installation, model_server: ModelServer, codex_environment: dict[str, str]) -> None:
    with (Path(codex_environment["CODEX_HOME"]) / "config.toml").open("a") as config:
        config.write(
            f"""
        [mcp_servers.holdfast]
        command = {json.dumps(sys.executable)}
        args = ["-m", "holdfast", "mcp"]
        env_vars = {json.dumps([name for name in installation.environment if name.startswith("HOLDFAST_")])}
        required = true
        default_tools_approval_mode = "approve"
        """
        )
    search = Tool("tool_search", {"query": "delegate work to another coding agent"})
    model_server.script(search, Tool("mcp__holdfast__delegate", WORK), Say("The other one did it."))
    answer = run(installation, codex_environment, "codex", "exec", "--skip-git-repo-check", "Delegate it.")
    assert "The other one did it." in answer
    check(model_server)
