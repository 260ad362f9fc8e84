"""``capabilityRoots/discoverV1`` of our host and of the real ``codex exec-server``: same files, same answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .harness import RunningServer, WireClient

Files = dict[str, bytes | None]


class Root:
    """A directory of capabilities."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.uri = path.as_uri()

    def lay_out(self, files: Files) -> None:
        """Make files (None: a directory)."""
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                file.mkdir()
            else:
                file.write_bytes(content)

    def file(self, name: str, contents: str) -> dict[str, str]:
        """A file as it is told."""
        return {"path": (self.path / name).as_uri(), "contents": contents}

    def skill(self, name: str, contents: str, metadata: str | None = None) -> dict[str, Any]:
        about = None if metadata is None else self.file(f"{name}/agents/openai.yaml", metadata)
        return {"instructions": self.file(f"{name}/SKILL.md", contents), "metadata": about}

    def found(self, **found: Any) -> dict[str, Any]:
        """The answer about this directory."""
        nothing: dict[str, Any] = {
            "plugin": None,
            "skills": [],
            "namespaceManifests": [],
            "warnings": [],
            "error": None,
        }
        return {"id": "it", "path": self.uri, **nothing, **found}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path.resolve() / "root")


async def discover(server: RunningServer, uri: str) -> dict[str, Any]:
    client = await WireClient.connect(server.url)
    result = await client.result("capabilityRoots/discoverV1", {"roots": [{"id": "it", "path": uri}]})
    await client.close()
    (found,) = result["roots"]
    return found


async def test_where_nothing_is_nothing_is_found(either: RunningServer, root: Root) -> None:
    assert await discover(either, root.uri) == root.found()
    assert await discover(either, root.uri + "/") == {**root.found(), "path": root.uri + "/"}


async def test_what_is_no_directory_is_said(either: RunningServer, root: Root) -> None:
    root.lay_out({"file": b""})
    error = f"capability root {root.uri}/file is not a directory"
    assert await discover(either, root.uri + "/file") == {**root.found(error=error), "path": root.uri + "/file"}
    error = f"failed to inspect capability root {root.uri}/none: No such file or directory (os error 2)"
    assert await discover(either, root.uri + "/none") == {**root.found(error=error), "path": root.uri + "/none"}


async def test_skills_are_handed_over_as_they_are(either: RunningServer, root: Root) -> None:
    root.lay_out(
        {
            "a/SKILL.md": b"---\nname: a\n---\n",
            "a/agents/openai.yaml": b"x: 1\n",
            "b c/SKILL.md": b"broken",
            ".hidden/SKILL.md": b"",
            "1/2/3/4/5/6/SKILL.md": b"deep",
            "1/2/3/4/5/6/7/SKILL.md": b"too deep",
            "directory/SKILL.md": None,
            "small/skill.md": b"",
            "e/SKILL.md": b"\xff",
            "large/SKILL.md": b"x" * (1024 * 1024 + 1),
        }
    )
    os.mkfifo(root.path / "small/SKILL.md")
    (root.path / "link").symlink_to("a")
    (root.path / "loop").symlink_to(".")
    assert await discover(either, root.uri) == root.found(
        skills=[
            root.skill(".hidden", ""),
            root.skill("1/2/3/4/5/6", "deep"),
            root.skill("a", "---\nname: a\n---\n", "x: 1\n"),
            root.skill("b c", "broken"),
        ],
        warnings=[
            f"capability file {root.uri}/e/SKILL.md is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0",
            f"capability file {root.uri}/large/SKILL.md exceeds the 1048576-byte limit",
        ],
    )


@pytest.mark.parametrize(
    ("declared", "mcp", "apps", "warnings"),
    [
        ("{}", ".mcp.json", ".app.json", []),
        ("{", ".mcp.json", ".app.json", []),
        ('{"mcpServers": null, "apps": null}', ".mcp.json", ".app.json", []),
        ('{"mcpServers": "./m", "apps": "./a"}', "m", "a", []),
        ('{"mcpServers": {}, "apps": {}}', None, ".app.json", []),
        ('{"mcpServers": "./none", "apps": "./none"}', None, None, []),
        ('{"mcpServers": "m"}', ".mcp.json", ".app.json", ["ignoring mcpServers in {}: path must start with `./`"]),
        (
            '{"apps": "./../root/a"}',
            ".mcp.json",
            ".app.json",
            ["ignoring apps in {}: path must remain below the capability root"],
        ),
    ],
)
async def test_a_plugin_names_its_files(
    either: RunningServer, root: Root, declared: str, mcp: str | None, apps: str | None, warnings: list[str]
) -> None:
    contents = {name: name.encode() for name in (".mcp.json", ".app.json", "m", "a")}
    root.lay_out({".codex-plugin/plugin.json": declared.encode(), **contents})
    manifest = root.file(".codex-plugin/plugin.json", declared)
    assert await discover(either, root.uri) == root.found(
        plugin={
            "manifest": manifest,
            "mcpConfig": root.file(mcp, mcp) if mcp else None,
            "appsConfig": root.file(apps, apps) if apps else None,
        },
        namespaceManifests=[manifest],
        warnings=[warning.format(manifest["path"]) for warning in warnings],
    )


@pytest.mark.parametrize("directory", [".codex-plugin", ".claude-plugin", ".cursor-plugin"])
async def test_a_plugin_of_any_form_has_the_usual_files(either: RunningServer, root: Root, directory: str) -> None:
    root.lay_out({f"{directory}/plugin.json": b'{"name": "p"}', ".mcp.json": b"m", ".app.json": b"a"})
    plugin = (await discover(either, root.uri))["plugin"]
    assert plugin["mcpConfig"] == root.file(".mcp.json", "m")
    assert plugin["appsConfig"] == root.file(".app.json", "a")


async def test_manifests_around_and_below_name_the_skills(either: RunningServer, root: Root) -> None:
    names = (".claude-plugin", "s/x/.cursor-plugin", "s/x/.claude-plugin", "s/a/.cursor-plugin", "s/b/.other-plugin")
    root.lay_out({f"{name}/plugin.json": name.encode() for name in names})
    expected = [root.file(f"{names[number]}/plugin.json", names[number]) for number in (0, 3, 2)]
    found = await discover(either, root.uri + "/s")
    assert (found["plugin"], found["namespaceManifests"]) == (None, expected)


async def test_a_bundle_is_bounded(either: RunningServer, root: Root) -> None:
    root.lay_out({f"{number}/SKILL.md": b"x" * 1024 * 1024 for number in range(10, 28)})
    found = await discover(either, root.uri)
    assert len(found["skills"]) == 16
    assert found["warnings"] == ["capability root bundle exceeds the 16777216-byte limit"] * 2


@pytest.mark.parametrize(
    ("roots", "code"),
    [
        (None, -32602),
        ([{"id": "a"}], -32602),
        ([{"id": 1, "path": "file:///tmp"}], -32602),
        ([{"id": "a", "path": "http://x"}], -32602),
        ([{"id": "a", "path": "tmp"}], -32602),
        ([{"id": "a", "path": "file:///tmp"}] * 129, -32600),
    ],
)
async def test_parameters_are_strict(either: RunningServer, roots: Any, code: int) -> None:
    client = await WireClient.connect(either.url)
    assert (await client.error("capabilityRoots/discoverV1", {"roots": roots}))[0] == code
    assert await client.result("capabilityRoots/discoverV1", {"roots": []}) == {"roots": []}
    await client.close()
