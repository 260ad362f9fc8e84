"""The real programs accept the plugins, and what these tell an agent to run exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

import holdfast
from holdfast.cli.main import COMMANDS, cli
from holdfast.cli.plugin import directory
from tests.conftest import locate_agent
from tests.system.conftest import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]
TEXTS = sorted(directory().rglob("*.md"))
COMMAND_TEXTS = sorted((directory() / "claude-code" / "commands").iterdir())


@pytest.mark.real_agent
@pytest.mark.parametrize("place", [directory(), directory() / "claude-code", CHECKOUT])
def test_claude_code_finds_nothing_wrong(place: Path, tmp_path: Path, claude_environment: dict[str, str]) -> None:
    command = [str(locate_agent("claude")), "plugin", "validate", "--strict", "--json", str(place)]
    checked = subprocess.run(
        command, env=claude_environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert checked.returncode == 0, checked.stdout


def manifest(name: str) -> Any:
    return json.loads((directory() / name).read_text())


def test_they_have_the_version_of_the_program() -> None:
    for name in ("claude-code/.claude-plugin/plugin.json", "codex/.codex-plugin/plugin.json"):
        assert manifest(name)["version"] == holdfast.__version__
        assert manifest(name)["name"] == "holdfast"


@pytest.mark.parametrize("name", [".claude-plugin/marketplace.json", ".agents/plugins/marketplace.json"])
def test_a_checkout_is_a_marketplace_of_the_same_plugins(name: str) -> None:
    inside, outside = manifest(name), json.loads((CHECKOUT / name).read_text())
    for marketplace, root in ((inside, directory()), (outside, CHECKOUT)):
        (plugin,) = marketplace["plugins"]
        source = plugin["source"] if isinstance(plugin["source"], str) else plugin["source"]["path"]
        assert (root / source).resolve() == directory() / ("codex" if "agents" in name else "claude-code")
    assert inside["name"] == outside["name"] == "holdfast"


def test_the_hooks_do_nothing_without_the_command(tmp_path: Path) -> None:
    hooks = manifest("claude-code/hooks/hooks.json")["hooks"]
    assert set(hooks) == {"SessionStart", "SessionEnd", "Stop"}
    for groups in hooks.values():
        command = groups[0]["hooks"][0]["command"]
        ended = subprocess.run(
            ["/bin/sh", "-c", command], env={"PATH": str(tmp_path)}, input=b"{}", capture_output=True, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
        assert re.search(r"exec holdfast companion (session-hook Session(Start|End)|stop-hook)$", command)


def invocations(text: str) -> list[list[str]]:
    """What *text* quotes of ``holdfast ...``, as words."""
    quoted = re.findall(r"`holdfast ([^`]+)`", text, re.DOTALL) + re.findall(r"^ +holdfast (.+)$", text, re.MULTILINE)
    return [each.split() for each in quoted] + [
        each.removesuffix(":*").split() for each in re.findall(r"Bash\(holdfast ([^)]+)\)", text)
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(directory())))
def test_every_command_and_option_exists(path: Path) -> None:
    text = path.read_text()
    assert "$ARGUMENTS" not in re.sub(r"(?m)^(.*: |[^`]*\. )\$ARGUMENTS$", "", text), "only ever as text, in no command"
    for name, *words in invocations(text):
        assert name in COMMANDS, name
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group) and words:
            assert words[0] in command.commands, words
            command = command.commands[words[0]]
        assert command is not None
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        if name != "companion":
            assert {word.strip("[]") for word in words if word.strip("[]").startswith("--")} <= known, (name, words)


@pytest.mark.parametrize(
    "path", sorted((directory() / "claude-code" / "commands").iterdir()), ids=lambda path: path.name
)
def test_nothing_is_allowed_that_starts_a_program(path: Path) -> None:
    allowed = re.findall(r"Bash\(holdfast ([^)]+)\)", path.read_text())
    harmless = ("agents", "cancel", "doctor", "list", "logs", "plugin prompt-file", "result", "review --show", "status")
    harmless += ("version", "wait", "companion setup", "companion transfer")
    assert {each.removesuffix(":*") for each in allowed} <= set(harmless)
    # With any arguments these do more than look.
    assert not {"doctor:*", "companion setup:*", "companion transfer:*"} & set(allowed)
    assert not re.search(r"Bash\(git [^)]*\*", path.read_text())


@pytest.mark.parametrize("path", sorted((directory() / "claude-code").glob("*s/**/*.md")), ids=lambda path: path.name)
def test_text_never_becomes_part_of_a_shell_command(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"!`|<<|echo ", text.replace("no quotes, no echo, no heredoc", ""))
    for words in invocations(text):
        assert not any(word in ("PROMPT", "TEXT", "FOCUS") for word in words), words
