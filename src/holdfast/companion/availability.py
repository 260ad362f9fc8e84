"""Whether the programs that the plugin needs are there, asked of the programs themselves."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from holdfast.agents.adapter import AgentMissing
from holdfast.agents.catalogue import find_agent
from holdfast.companion.job import AGENT
from holdfast.companion.refusal import CodexMissing

#: Seconds.
_PATIENCE: Final = 20.0
_NOT_FOUND: Final = "not found"


class Available(NamedTuple):
    """Whether a program runs, and what it says of itself, or why it does not."""

    available: bool
    detail: str

    def document(self) -> dict[str, object]:
        """The same for ``--json``."""
        return {"available": self.available, "detail": self.detail}


def require_codex(environment: Mapping[str, str]) -> list[str]:
    """The command that runs Codex.

    :raises CodexMissing: there is none
    """
    try:
        return find_agent(AGENT).find(environment).command
    except AgentMissing as error:
        raise CodexMissing(error.message) from error


def node_and_npm(environment: dict[str, str]) -> tuple[Available, Available]:
    """Node and npm, which the plugin's own scripts and the installation of Codex need; Holdfast needs neither."""
    with ThreadPoolExecutor(2) as pool:
        node, npm = (pool.submit(ask, [name, "--version"], environment) for name in ("node", "npm"))
        return node.result(), npm.result()


def codex(command: list[str] | None, environment: dict[str, str]) -> Available:
    """Codex, and whether it has the server that jobs need."""
    if command is None:
        return Available(False, _NOT_FOUND)
    version = ask([*command, "--version"], environment)
    if not version.available:
        return version
    server = ask([*command, "app-server", "--help"], environment)
    if not server.available:
        return Available(False, f"{version.detail}; advanced runtime unavailable: {server.detail}")
    return Available(True, f"{version.detail}; advanced runtime available")


def ask(command: list[str], environment: dict[str, str]) -> Available:
    """Run *command*, which only prints something."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        return Available(False, _NOT_FOUND)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Available(False, str(error))
    said = done.stdout.strip() or done.stderr.strip()
    if done.returncode != 0:
        return Available(False, said or f"exit {done.returncode}")
    return Available(True, said or "ok")
