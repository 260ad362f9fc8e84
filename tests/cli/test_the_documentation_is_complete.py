"""Every command, every option and every exit status is documented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from holdfast.api.follow import StillRunning
from holdfast.cli.main import COMMANDS, cli
from holdfast.cli.terminal import INTERRUPTED_EXIT, PIPE_CLOSED_EXIT, OutputFailed
from holdfast.tasks.result import EXIT_CODES

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", list(COMMANDS))
def test_commands_and_their_options(name: str) -> None:
    text = (DOCUMENTS / "commands.md").read_text()
    assert f"`holdfast {name}" in text
    missing = [
        option
        for parameter in command(name).params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
        if not re.search(rf"{re.escape(option)}\b", text)
    ]
    assert not missing


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "exec-server"])
def test_help_says_what_every_option_is_for(name: str) -> None:
    shown = command(name)
    assert shown.help
    assert all(
        parameter.help for parameter in shown.params if isinstance(parameter, click.Option) and not parameter.hidden
    )


def test_exit_statuses() -> None:
    text = (DOCUMENTS / "exit-codes.md").read_text()
    for status, code in EXIT_CODES.items():
        assert f"| {code} | `{status}` |" in text
    for code in (StillRunning.exit_code, OutputFailed.exit_code, PIPE_CLOSED_EXIT, INTERRUPTED_EXIT):
        assert f"| {code} | " in text


def test_links_lead_somewhere() -> None:
    for document in [*DOCUMENTS.glob("*.md"), DOCUMENTS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if not target.startswith(("http://", "https://", "#")):
                path, _, anchor = target.partition("#")
                linked = document.parent / path
                assert linked.exists(), f"{document.name} links to {target}"
                if anchor:
                    assert anchor in anchors(linked), f"{document.name} links to {target}"


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
