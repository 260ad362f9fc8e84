"""The caller's word comes before the configuration's, and that before the agent's own; nothing is guessed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.agents.adapter import Installation, UnsupportedOption
from holdfast.agents.catalogue import InvalidConfiguration, find_agent, slots_of_agents
from holdfast.agents.models import Choice, check_effort, choose, hits, known_models

Configure = Callable[[str], None]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HOLDFAST_CONFIG", str(path))

    def write(text: str) -> None:
        path.write_text(text)

    return write


def model(slug: str, *efforts: str, upgrade: str | None = None) -> dict[str, object]:
    return {
        "slug": slug,
        "display_name": slug.upper(),
        "supported_reasoning_levels": [{"effort": effort, "description": ""} for effort in efforts],
        "default_reasoning_level": efforts[0],
        "visibility": "list",
        "upgrade": None if upgrade is None else {"model": upgrade},
    }


@pytest.fixture
def codex_home(tmp_path: Path) -> Path:
    home = tmp_path / "codex"
    home.mkdir()
    models = [model("new-1", "low", "max"), model("old-1", "low", "high", upgrade="new-1")]
    (home / "models_cache.json").write_text(json.dumps({"models": models}))
    return home


def test_nobody_says_anything(configure: Configure) -> None:
    assert choose(find_agent("codex"), model=None, effort=None) == Choice()


def test_three_tiers(configure: Configure) -> None:
    configure('[models]\ndefault = "general"\neffort = "low"\n[agents.codex]\nmodel = "own"\n')
    codex, claude = find_agent("codex"), find_agent("claude")
    chosen = choose(codex, model="mine", effort="high")
    assert (chosen.model, chosen.model_source, chosen.effort, chosen.effort_source) == (
        "mine",
        "caller",
        "high",
        "caller",
    )
    chosen = choose(codex, model=None, effort=None)
    assert (chosen.model, chosen.model_source, chosen.effort, chosen.effort_source) == (
        "own",
        "config",
        "low",
        "config",
    )
    assert choose(claude, model=None, effort=None).model == "general"


def test_an_alias_is_resolved_once_and_may_differ_by_agent(configure: Configure) -> None:
    configure(
        '[models]\ndefault = "quick"\n'
        '[models.aliases]\nquick = { codex = "new-1", claude = "haiku" }\nchained = "quick"\nplain = "old-1"\n'
    )
    codex, claude, rehearsal = find_agent("codex"), find_agent("claude"), find_agent("rehearsal")
    assert (choose(codex, model=None, effort=None).model, choose(claude, model="quick", effort=None).model) == (
        "new-1",
        "haiku",
    )
    assert choose(rehearsal, model="quick", effort=None).model == "quick", "it stands for nothing there"
    assert choose(codex, model="chained", effort=None).model == "quick", "not resolved a second time"
    assert choose(codex, model="plain", effort=None).alias == "plain"


def test_a_general_default_is_not_forced_on_agents_that_cannot_be_told(configure: Configure) -> None:
    configure('[models]\ndefault = "general"\neffort = "low"\n[agents.mine]\ncommand = ["cat"]\n')
    assert choose(find_agent("mine"), model=None, effort=None) == Choice()


@pytest.mark.parametrize("value", ["--write", "gpt --write", "a\nb", ""])
def test_a_configured_value_cannot_become_an_option(configure: Configure, value: str) -> None:
    configure(f"[agents.codex]\nmodel = {json.dumps(value)}\n")
    with pytest.raises(UnsupportedOption):
        choose(find_agent("codex"), model=None, effort=None)


def test_a_mistake_in_the_table_is_named(configure: Configure) -> None:
    configure('[models]\ndefualt = "x"\n')
    with pytest.raises(InvalidConfiguration, match=r"models is wrong.*defualt"):
        choose(find_agent("codex"), model=None, effort=None)
    configure("[agents.codex]\nslots = 0\n")
    with pytest.raises(InvalidConfiguration, match=r"agents\.codex\.slots"):
        slots_of_agents()


def test_the_effort_is_checked_against_the_list_of_the_account(configure: Configure, codex_home: Path) -> None:
    codex, environment = find_agent("codex"), {"CODEX_HOME": str(codex_home)}

    def check(model: str | None, effort: str | None) -> str | None:
        choice = choose(codex, model=model, effort=effort)
        return check_effort(codex, choice, Installation(command=["/nonexistent/codex"]), environment)

    assert check("new-1", "max") is None
    assert check(None, "low") is None, "every model takes it"
    assert "not known" in (check(None, "max") or "")
    assert "not known" in (check("elsewhere", "max") or "")
    with pytest.raises(UnsupportedOption, match="old-1 does not take the effort 'max'"):
        check("old-1", "max")
    with pytest.raises(UnsupportedOption, match="No model"):
        check(None, "enormous")
    (codex_home / "config.toml").write_text('model = "old-1"\n')
    with pytest.raises(UnsupportedOption, match="old-1 does not take"):
        check(None, "max")
    (codex_home / "config.toml").write_text('model_provider = "mine"\n')
    assert "not known" in (check(None, "enormous") or "")
    assert "not known" in (check("old-1", "max") or "")
    (codex_home / "config.toml").unlink()
    (codex_home / "models_cache.json").unlink()
    assert "could not be checked" in (check("old-1", "max") or "")


def test_without_an_account_the_program_is_asked_for_what_it_was_shipped_with(tmp_path: Path) -> None:
    program = tmp_path / "codex"
    listing = json.dumps({"models": [model("new-1", "low")]})
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'debug models --bundled' ] && echo '{listing}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = {"CODEX_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    known = known_models(find_agent("codex"), Installation(command=[str(program)]), environment)
    assert known is not None
    assert [found.name for found in known.models] == ["new-1"]
    assert known_models(find_agent("claude"), Installation(command=["claude"]), {}) is None


def test_what_should_not_stay_as_it_is(configure: Configure, codex_home: Path) -> None:
    configure(
        '[models]\ndefault = "old-1"\n[models.aliases]\ntypo = { codex = "nwe-1" }\nelse = "haiku"\ngood = "new-1"\n'
    )
    (codex_home / "config.toml").write_text('model = "gone"\n[notice.model_migrations]\n"gone" = "new-1"\n')
    codex, environment = find_agent("codex"), {"CODEX_HOME": str(codex_home)}
    known = known_models(codex, Installation(command=["codex"]), environment)
    assert {(hit.model, hit.location, hit.reason, hit.suggested) for hit in hits(codex, known, environment)} == {
        ("old-1", "config.toml: models.default", "upgrade", "new-1"),
        ("nwe-1", "config.toml: models.aliases.typo.codex", "unknown", None),
        ("gone", "$CODEX_HOME/config.toml: model", "migration", "new-1"),
    }
