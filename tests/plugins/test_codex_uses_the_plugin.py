"""The real Codex with the plugin installed: its model can see tasks through the tools that the plugin brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import holdfast
from tests.api.conftest import PATIENCE, Installation, installation
from tests.mcp.test_real_agents_delegate import namespaces
from tests.model_server import Decide, ModelServer, Say, Tool
from tests.model_server.script import Step

__all__ = ["installation", "namespaces"]

pytestmark = pytest.mark.real_agent


@pytest.mark.usefixtures("namespaces")
def test_the_tools_are_there(
    installation: Installation, model_server: ModelServer, codex_environment: dict[str, str], tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n')
    (programs / "holdfast").chmod(0o755)
    environment = {**installation.environment, **codex_environment}
    environment["PATH"] = os.pathsep.join([str(programs), codex_environment["PATH"]])

    def run(*command: str) -> str:
        ended = subprocess.run(
            command,
            env=environment,
            cwd=installation.workspace,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    task = holdfast.run("rehearsal", "rehearse: say Done.", label="of before")
    run("holdfast", "plugin", "install", "codex")
    # Codex starts the server beside the first turn: the model looks for the tools until they are there.
    search = Tool("tool_search", {"query": "list the tasks of other coding agents"})

    def look(_: list[str]) -> Step:
        seen = [item for item in model_server.main_requests[-1].body["input"] if item["type"] == "tool_search_output"]
        if "mcp__holdfast" in json.dumps(seen):
            return Tool("mcp__holdfast__list", {})
        time.sleep(0.5)
        return search

    def end(results: list[str]) -> Step:
        return Say("There is one.") if results else look(results)

    model_server.script(search, *[Decide(end)] * 300)
    assert "There is one." in run("codex", "exec", "--skip-git-repo-check", "What is there?")
    told = model_server.main_requests[-1].tool_results[-1]
    assert task.task_id in told
    assert "of before" in told
