"""Fixtures that several floors share: the scripted model, and the real agents."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_server import ModelServer

#: Where the real agents are looked for when the environment does not say.
AGENTS_DIRECTORY = Path(__file__).resolve().parent.parent / ".tools" / "agents"

#: The packages, and the versions that the promises about them were last held to.
AGENT_PACKAGES = {"codex": "@openai/codex@0.169.0", "claude": "@anthropic-ai/claude-code@2.1.329"}


def pytest_configure() -> None:
    """Undo what a shell does to a job in the background: what tests start would ignore these signals as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, signal.SIG_DFL)


def locate_agent(name: str) -> Path:
    """The real command *name*: ``HOLDFAST_TEST_<NAME>``, else the one installed in the checkout.

    A missing one fails the test, because a test that is skipped promises nothing.
    """
    override = os.environ.get(f"HOLDFAST_TEST_{name.upper()}")
    command = Path(override) if override else AGENTS_DIRECTORY / "node_modules" / ".bin" / name
    if shutil.which(str(command)) is None:
        install = f"npm install --prefix {AGENTS_DIRECTORY} {' '.join(AGENT_PACKAGES.values())}"
        pytest.fail(f"There is no {command}. Install the agents for tests with: {install}", pytrace=False)
    return command


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the test's own, with a shorter name than pytest's: sockets lie in it, whose paths are bounded."""
    name = re.sub(r"\W", "_", request.node.name.removeprefix("test_"))
    return tmp_path_factory.mktemp(name[:12])


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A scripted model API of the test's own."""
    with ModelServer() as server:
        yield server


@pytest.fixture
def codex_home() -> Iterator[Path]:
    """A ``CODEX_HOME`` outside of the temporary directory: below it Codex does without its own helper programs, and
    then has no sandbox on a machine that has bubblewrap.
    """
    homes = AGENTS_DIRECTORY.parent / "homes"
    if homes.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        # A checkout below the temporary directory.
        homes = Path("/var/tmp")
    homes.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="codex-", dir=homes))
    yield home
    # A server of Codex that serves the next test too may still be writing here.
    for _ in range(5):
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def codex_environment(tmp_path: Path, codex_home: Path, model_server: ModelServer) -> dict[str, str]:
    """The environment of a user who has installed Codex, and configured it for the scripted model."""
    (codex_home / "config.toml").write_text(
        f"""
        model = "gpt-5.5"
        model_provider = "scripted"
        check_for_update_on_startup = false
        [model_providers.scripted]
        name = "scripted"
        base_url = "{model_server.url}/v1"
        wire_api = "responses"
        requires_openai_auth = false
        supports_websockets = false
        request_max_retries = 1
        stream_max_retries = 1
        """
    )
    return {**user_environment(tmp_path, "codex"), "CODEX_HOME": str(codex_home)}


@pytest.fixture
def claude_environment(tmp_path: Path, model_server: ModelServer) -> dict[str, str]:
    """The environment of a user who has installed Claude Code, and pointed it at the scripted model."""
    home = tmp_path / "claude-home"
    home.mkdir()
    return {
        **user_environment(tmp_path, "claude"),
        "CLAUDE_CONFIG_DIR": str(home),
        "ANTHROPIC_BASE_URL": model_server.url,
        "ANTHROPIC_AUTH_TOKEN": "scripted",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def user_environment(home: Path, agent: str) -> dict[str, str]:
    """A small environment with *home* as the home directory and the real *agent* first on PATH."""
    command = locate_agent(agent)
    temporary = home / "temporary"
    temporary.mkdir(exist_ok=True)
    return {
        "HOME": str(home),
        # Codex puts no helper programs into a home directory below this one, and its sandbox may need them.
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join([str(command.parent), os.environ.get("PATH", os.defpath)]),
    }
