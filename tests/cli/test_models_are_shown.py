"""Which model an agent gets, which it knows, and which configured ones should not stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODELS = [
    {
        "slug": "new-1",
        "display_name": "New 1",
        "supported_reasoning_levels": [{"effort": "low"}, {"effort": "max"}],
        "default_reasoning_level": "low",
        "visibility": "list",
        "upgrade": None,
    },
    {
        "slug": "old-1",
        "display_name": "Old 1",
        "supported_reasoning_levels": [{"effort": "low"}],
        "default_reasoning_level": "low",
        "visibility": "hide",
        "upgrade": {"model": "new-1"},
    },
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Codex that is installed, with the list of an account; Claude Code is not."""
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "codex").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "codex").chmod(0o755)
    (tmp_path / "models_cache.json").write_text(json.dumps({"models": MODELS}))
    (tmp_path / "config.toml").write_text('[models.aliases]\nfast = "new-1"\n[agents.codex]\nmodel = "old-1"\n')
    return tmp_path


def test_resolve_says_who_chose(cli) -> None:
    answer = json.loads(cli("model", "resolve", "codex", "--json").out)
    assert (answer["model"], answer["model_source"], answer["effort_source"]) == ("old-1", "config", "backend_default")
    answer = json.loads(cli("model", "resolve", "codex", "--model", "fast", "--effort", "max", "--json").out)
    assert (answer["model"], answer["model_source"], answer["alias"]) == ("new-1", "caller", "fast")
    assert (
        cli("model", "resolve", "codex").out
        == b"model:  old-1 (config)\neffort: as the agent decides (backend_default)\n"
    )
    outcome = cli("model", "resolve", "codex", "--effort", "max")
    assert outcome.status == 2
    assert outcome.err.startswith("error: The model old-1 does not take the effort 'max'.")


def test_list_is_the_agents_own(cli) -> None:
    lines = cli("model", "list", "codex").out.decode().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["new-1"]
    assert "low* max" in lines[1]
    names = [model["name"] for model in json.loads(cli("model", "list", "codex", "--all", "--json").out)["models"]]
    assert names == ["new-1", "old-1"]
    outcome = cli("model", "list", "rehearsal")
    assert (outcome.status, outcome.out) == (127, b"")


def test_check_is_for_programs_too(cli, home: Path) -> None:
    outcome = cli("model", "check")
    assert outcome.status == 0
    assert outcome.out.decode().splitlines()[1].split()[:3] == ["old-1", "upgrade", "new-1"]
    outcome = cli("model", "check", "--strict", "--json")
    assert outcome.status == 1
    assert [hit["location"] for hit in json.loads(outcome.out)["hits"]] == ["config.toml: agents.codex.model"]
    (home / "config.toml").write_text("")
    assert cli("model", "check", "--strict").status == 0
