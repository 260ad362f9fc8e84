"""Whatever lies in the home of Codex: ``capabilities/discoverV2`` answers, and tells nothing outside of the root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import RunningServer, WireClient, start_host

METADATA = "some capability metadata could not be loaded; discovery may be incomplete"
Start = Callable[..., RunningServer]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "codex"
    (home / "skills").mkdir(parents=True)
    return home


@pytest.fixture
def start(state: Path, tmp_path: Path, home: Path) -> Iterator[Start]:
    servers: list[RunningServer] = []

    def start(*options: str) -> RunningServer:
        env = {**os.environ, "CODEX_HOME": str(home), "HOME": str(tmp_path)}
        servers.append(start_host(state, "unix://", *options, env=env))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


async def discover(server: RunningServer) -> dict[str, Any]:
    client = await WireClient.connect(server.url)
    found = await client.result("capabilities/discoverV2", {"cwd": "file:///tmp"})
    await client.close()
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def front(yaml: str) -> str:
    return f"---\nname: n\ndescription: d\n{yaml}\n---\n"


#: YAML that is small and means much, or is large, and whether it is a skill.
BOMBS = {
    "aliases": ("\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 30)), False),
    "more-aliases": (
        "x0: &x0 1\n" + "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 30)),
        True,
    ),
    "cycle": ("x: &x [*x, *x]", True),
    "deep": ("x: " + "[" * 30_000, True),
    "deep-lists": ("x: " + "[" * 30_000 + "]" * 30_000, True),
    "deep-blocks": ("x:\n" + "".join(" " * n + "-\n" for n in range(300)), True),
    "wide": ("x: [" + "1," * 30_000 + "]", True),
    "repair": ("x: a: b\n" * 8_000, True),
    "repair-lists": ("x: [\n" * 10_000, True),
    "line": ("x: a: b\n" + "y" * 60_000, False),
    "blanks": (" " * 60_000 + "y\nx: a: b\n#" + " " * 60_000, False),
    "long": ("x: " + "y" * 70_000, False),
    "longer": ("x: " + "y" * 1_000_000, False),
}


async def test_expensive_texts_are_read_or_left_out(start: Start, home: Path) -> None:
    for name, (yaml, _) in BOMBS.items():
        write(home / "skills" / name / "SKILL.md", front(yaml))
    found = await discover(start())
    names = {entry["path"].split("/")[-2] for entry in found["skills"]}
    assert names == {name for name, (_, is_skill) in BOMBS.items() if is_skill}
    assert found["warnings"] == [METADATA]


async def test_deep_json_is_no_manifest(start: Start, home: Path) -> None:
    plugin = home / "plugins/cache/m/p/1/.codex-plugin/plugin.json"
    for text in ("[" * 400_000, '{"a":' * 100_000, '{"mcpServers":' + '{"a":' * 100_000 + "1" + "}" * 100_001):
        write(plugin, text)
        server = start()
        assert await discover(server) == {"plugins": [], "skills": [], "warnings": [METADATA]}
        server.stop()


async def test_nothing_outside_of_the_root_is_told(start: Start, home: Path, tmp_path: Path) -> None:
    write(home / "skills/a/SKILL.md", front(""))
    write(tmp_path / ".agents/skills/b/SKILL.md", front(""))
    write(tmp_path / "other/SKILL.md", front(""))
    (tmp_path / ".agents/skills/other").symlink_to(tmp_path / "other")
    write(home / "plugins/cache/m/p/1/.codex-plugin/plugin.json", '{"name": "p"}')
    found = await discover(start("--root", str(tmp_path / ".agents")))
    assert found["plugins"] == []
    assert [entry["path"] for entry in found["skills"]] == [(tmp_path / ".agents/skills/b/SKILL.md").as_uri()]


async def test_a_missing_home_is_an_error(start: Start, home: Path) -> None:
    server = start()
    shutil.rmtree(home)
    client = await WireClient.connect(server.url)
    code, message = await client.error("capabilities/discoverV2", {"cwd": "file:///tmp"})
    assert (code, message) == (
        -32603,
        f'failed to find Codex home: CODEX_HOME points to "{home}", but that path does not exist',
    )
    await client.close()
