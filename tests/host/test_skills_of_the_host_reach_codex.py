"""The real Codex tells its model of the skills of our host, as it does of those of a ``codex exec-server``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_server import ModelServer, Say, Shell

from .harness import RunningServer, find_codex, start_host
from .test_real_codex_uses_our_host import Codex, codex, commands

__all__ = ["codex"]

pytestmark = pytest.mark.real_agent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of Codex on the machine of the host, with a skill; another home than that of the Codex that asks."""
    home = tmp_path / "home-of-the-host"
    skill = home / "skills" / "towers"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: towers\ndescription: Builds: towers of hay\n---\nStack it high.\n")
    return home


@pytest.fixture(params=["holdfast", "codex"])
def host(request: pytest.FixtureRequest, state: Path, home: Path) -> Iterator[RunningServer]:
    env = {**os.environ, "CODEX_HOME": str(home)}
    if request.param == "holdfast":
        server = start_host(state, "ws://127.0.0.1:0", env=env)
    else:
        reference = find_codex()
        assert reference is not None
        server = RunningServer([reference, "exec-server", "--listen", "ws://127.0.0.1:0"], env=env)
    yield server
    server.stop()


@pytest.fixture
def discovering(codex: Codex) -> Codex:
    """Codex with the feature that asks for skills, which is not on by itself."""
    config = Path(codex.environment["CODEX_HOME"]) / "config.toml"
    config.write_text(config.read_text() + "\n[features]\nexecutor_capability_discovery_v2 = true\n")
    return codex


@pytest.mark.parametrize("sandbox", ["danger-full-access", "read-only"])
async def test_the_model_is_told_of_a_skill(
    discovering: Codex, host: RunningServer, home: Path, model_server: ModelServer, sandbox: str
) -> None:
    model_server.script(Say("Done."))
    await discovering.run(host.url, sandbox)
    (request,) = model_server.main_requests
    package = f"skill://codex-home-skills{home}/skills/towers"
    assert f"- towers: Builds: towers of hay (executor package: {package})" in json.dumps(request.body)


async def test_skills_that_cannot_be_told_stop_nothing(
    discovering: Codex, host: RunningServer, home: Path, model_server: ModelServer
) -> None:
    (home / "skills" / "towers" / "SKILL.md").write_text("no skill")
    model_server.script(Shell("echo fine"), Say("Done."))
    assert commands(await discovering.run(host.url)) == [(0, "fine\n")]
