"""``capabilities/discoverV2`` of our host and of the real ``codex exec-server``: the same files, the same answers.

The reference implementation looks when it starts, and at what changes some time later; so files are there before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from .harness import BOTH, RunningServer, WireClient, over_etc, server_command
from .sandboxes import bubblewrap, sandbox, special

LOCATIONS = "some capability locations could not be resolved; discovery may be incomplete"
METADATA = "some capability metadata could not be loaded; discovery may be incomplete"
CUT = "capability discovery size limit reached"
REMOTE = ".codex-remote-plugin-install.json"
Files = dict[str, str | bytes | None]


def skill(name: str, description: str = "d") -> str:
    return f"---\nname: {name}\ndescription: {description}\n---\nbody\n"


def manifest(path: str, text: str = '{"name": "x"}') -> Files:
    """The manifest of the plugin in a directory below the cache."""
    return {f"home/plugins/cache/{path}/.codex-plugin/plugin.json": text}


class Machine:
    """A machine with a home of Codex (``home``), one of its user (``user``) and ``/etc/codex`` (``etc``)."""

    def __init__(self, place: Path, home: Path, command: list[str]) -> None:
        self.place = place
        self.home = home
        self.command = command
        self._homes = {"home": home, "user": place / "user", "etc": place / "etc", "p": place / "p"}
        for path in self._homes.values():
            path.mkdir(exist_ok=True)

    def path(self, name: str) -> Path:
        first, _, rest = name.partition("/")
        return self._homes.get(first, self.place / first) / rest

    def lay_out(self, files: Files) -> None:
        """Make files (None: a directory)."""
        for name, content in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[WireClient]:
        env = {**os.environ, "CODEX_HOME": str(self.home), "HOME": str(self.place / "user")}
        server = RunningServer(self.command, env=env)
        try:
            client = await WireClient.connect(server.url)
            yield client
            await client.close()
        finally:
            server.stop()

    async def discover(self, **params: Any) -> dict[str, Any]:
        async with self.client() as client:
            return await client.result("capabilities/discoverV2", {"cwd": self.uri("p"), **params})

    async def error(self) -> tuple[int, str]:
        async with self.client() as client:
            return await client.error("capabilities/discoverV2", {"cwd": self.uri("p")})

    def uri(self, name: str) -> str:
        return self.path(name).as_uri()

    def names(self, found: list[dict[str, Any]]) -> dict[str, str]:
        """What the skills are called, by the directory that each is in."""
        prefix = self.uri("home/skills") + "/"
        return {
            entry["path"].removeprefix(prefix).removesuffix("SKILL.md").removesuffix("/"): entry["name"]
            for entry in found
        }


@pytest.fixture(params=BOTH)
def machine(request: pytest.FixtureRequest, state: Path, tmp_path: Path, codex_home: Path) -> Machine:
    return Machine(tmp_path.resolve(), codex_home.resolve(), server_command(request.param, state))


async def test_without_files_there_is_nothing(machine: Machine) -> None:
    nothing = {"plugins": [], "skills": [], "warnings": []}
    assert await machine.discover() == nothing
    assert await machine.discover(cwd="file:///does/not/exist", sandbox=None, other=1) == nothing


async def test_skills_of_the_user_are_told(machine: Machine) -> None:
    machine.lay_out(
        {
            "home/skills/b/SKILL.md": skill("b"),
            "home/skills/b/nested/SKILL.md": skill("nested"),
            "home/skills/.system/a/SKILL.md": skill("a"),
            "home/skills/1/2/3/4/5/6/SKILL.md": skill("deep"),
            "home/skills/1/2/3/4/5/6/7/SKILL.md": skill("too-deep"),
            "home/skills/same/SKILL.md": skill("b"),
            "home/skills/small/skill.md": skill("small"),
            "home/skills/a%20 é+/SKILL.md": skill("odd"),
            "elsewhere/linked/SKILL.md": skill("linked"),
            "elsewhere/file.md": skill("file"),
            "home/skills/file/other": "",
            "user/.agents/skills/c/SKILL.md": skill("c"),
            "user/.claude/skills/d/SKILL.md": skill("d"),
            "p/.codex/skills/e/SKILL.md": skill("e"),
            "p/.agents/skills/f/SKILL.md": skill("f"),
        }
    )
    machine.path("home/skills/link").symlink_to(machine.path("elsewhere/linked"))
    machine.path("home/skills/file/SKILL.md").symlink_to(machine.path("elsewhere/file.md"))
    machine.path("home/skills/loop").symlink_to(".")
    os.mkfifo(machine.path("home/skills/small/SKILL.md"))
    found = await machine.discover()
    assert (found["plugins"], found["warnings"]) == ([], [])
    own = [entry for entry in found["skills"] if entry["discoveryRoot"]["id"] == "codex-home-skills"]
    assert list(machine.names(own).items()) == [
        (".system/a", "a"),
        ("1/2/3/4/5/6", "deep"),
        ("a%2520%20%C3%A9+", "odd"),
        ("b", "b"),
        ("b/nested", "nested"),
        ("link", "linked"),
        ("same", "b"),
    ]
    assert found["skills"][len(own) :] == [
        {
            "name": "c",
            "description": "d",
            "shortDescription": None,
            "path": machine.uri("user/.agents/skills/c/SKILL.md"),
            "discoveryRoot": {"id": "user-agent-skills", "path": machine.uri("user/.agents/skills")},
            "dependencies": None,
            "policy": None,
        }
    ]


@bubblewrap
async def test_skills_of_the_administrator_come_last(machine: Machine) -> None:
    machine.command = over_etc(machine.path("etc"), machine.command)
    machine.lay_out({"etc/skills/a/SKILL.md": skill("a"), "user/.agents/skills/b/SKILL.md": skill("b")})
    found = await machine.discover()
    assert [(entry["name"], entry["discoveryRoot"]) for entry in found["skills"]] == [
        ("b", {"id": "user-agent-skills", "path": machine.uri("user/.agents/skills")}),
        ("a", {"id": "system-skills", "path": "file:///etc/codex/skills"}),
    ]


#: Front matter, and name, description and short description of the skill, or None. ``@`` is the directory's name.
FRONT_MATTER: list[tuple[str, tuple[str, str, str | None] | None]] = [
    ("---\nname: n\ndescription: d\nmetadata:\n  short-description: s\n---\nbody", ("n", "d", "s")),
    ("---\r\nname: n\r\ndescription: d\r\n---\r\n", ("n", "d", None)),
    (" ---\t\nname: n\ndescription: d\n\u00a0--- ", ("n", "d", None)),
    ('---\nname: " n  m "\ndescription: "a\\n\\u2003b\\x1cc"\n---\n', ("n m", "a b\x1cc", None)),
    ("---\nname: 12\ndescription: yes\nmetadata: {short-description: 1.0}\n---\n", ("12", "yes", "1.0")),
    ("---\nname: n\ndescription: >-\n  a\n  b\n\n  c\n---\n", ("n", "a b c", None)),
    ("---\nname: n\ndescription: a\n  b\n---\n", ("n", "a b", None)),
    ("---\nname: n\ndescription: 'it''s' # not this\n---\n", ("n", "it's", None)),
    ("---\nx: &x d\nname: n\ndescription: *x\n---\n", ("n", "d", None)),
    ("---\nname: !!str null\ndescription: !x d\n---\n", ("null", "d", None)),
    ('---\n{"name": "n", "description": "d"}\n---\n', ("n", "d", None)),
    ("---\nname: n\ndescription: d\nx: 1\nx: 2\n1: {a: [b]}\n---\n", ("n", "d", None)),
    ("---\nname: n\ndescription: d\nmetadata:\n---\n", ("n", "d", None)),
    ("---\ndescription: d\n---\n", ("@", "d", None)),
    ("---\nname: ~\ndescription: d\n---\n", ("@", "d", None)),
    ("---\nname: NULL\ndescription: d\n---\n", ("@", "d", None)),
    ("---\nname: nULL\ndescription: d\n---\n", ("nULL", "d", None)),
    ('---\nname: " "\ndescription: d\nmetadata: {short-description: ""}\n---\n', ("@", "d", None)),
    (f"---\nname: {'n' * 64}\ndescription: {'d' * 5000}\n---\n", ("n" * 64, "d" * 5000, None)),
    (f"---\nname: {'é' * 64}\ndescription: d\n---\n", ("é" * 64, "d", None)),
    # Not quite YAML, and understood all the same.
    ("---\nname: n\ndescription: a: b: 'c'\n---\n", ("n", "a: b: 'c'", None)),
    (
        "---\nname: n\ndescription: it's a: b # c\nmetadata:\n  short-description: d: e\n---\n",
        ("n", "it's a: b", "d: e"),
    ),
    ("---\nname: n\ndescription: `a` b\n---\n", ("n", "`a` b", None)),
    ("---\nname: n\ndescription: @a\n---\n", ("n", "@a", None)),
    ("---\nname: n\ndescription: [a] b\n---\n", ("n", "[a] b", None)),
    ("---\nname: n\ndescription: {{ a }} b\n---\n", ("n", "{{ a }} b", None)),
    ("---\nname: n\ndescription: {a: b}\n---\n", ("n", "{a: b}", None)),
    ("---\nname: n\ndescription: *a: b\n---\n", ("n", "*a: b", None)),
    ("---\nname: n\ndescription: - a: b\n---\n", ("n", "- a: b", None)),
    ("---\nname: n\ndescription: d\nx:\n  - a: b: c\n---\n", ("n", "d", None)),
    ('---\nname: n\ndescription: d\na:b: "c"\nx: y: z\n---\n', ("n", "d", None)),
    ("---\nname: n\ndescription: |\n  a: b: c\n\n  d: e\nx: y: z\n---\n", ("n", "a: b: c d: e", None)),
    ("---\nname: n\ndescription: > # c\n  a: b: c\nx: y: z\n---\n", ("n", "a: b: c", None)),
    ("---\nname: n\ndescription: &a |\n  a: b: c\nx: y: z\n---\n", ("n", "a: 'b: c'", None)),
    ('---\nname: n\n"description": a: b\n---\n', ("n", "a: b", None)),
    # Not understood.
    ("", None),
    ("body", None),
    ("---\nname: n\ndescription: d\n", None),
    ("\n---\nname: n\ndescription: d\n---\n", None),
    ("\ufeff---\nname: n\ndescription: d\n---\n", None),
    ("----\nname: n\ndescription: d\n----\n", None),
    ("---\x1c\nname: n\ndescription: d\n---\n", None),
    ("---\n---\n", None),
    ("---\nname: n\n---\n", None),
    ('---\nname: n\ndescription: " "\n---\n', None),
    ("---\nname: n\ndescription: null\n---\n", None),
    ("---\nname: !!null n\ndescription: d\n---\n", None),
    ("---\nname: n\ndescription: [a]\n---\n", None),
    ("---\nname: n\ndescription: d\nmetadata: ~\n---\n", None),
    ("---\nname: n\ndescription: d\nmetadata: []\n---\n", None),
    ("---\nname: n\ndescription: d\ndescription: e\n---\n", None),
    ("---\nname: n\ndescription: d\n[a]: b\n---\n", None),
    ("---\nname: n\n...\ndescription: d\n---\n", None),
    ("---\n- name\n---\n", None),
    ("---\nname: n\ndescription: *a\n---\n", None),
    ("---\nname: n\ndescription: a:\n---\n", None),
    ("---\nname: n\ndescription: %a\n---\n", None),
    ('---\nname: n\ndescription: "a" b: c\n---\n', None),
    ("---\nname: n\ndescription: > a: b\n---\n", None),
    ("---\nname: n\ndescription: a: b\n  c: d\n---\n", None),
    ("---\nname: n\ndescription: d\nmetadata: {short-description: s}\nx: y: z\n---\n", None),
    ("---\nname: n\ndescription: d\nx:\n  - `a`\n---\n", None),
    ("---\nname: n\ndescription: a\x01b\n---\n", None),
    (f"---\nname: {'n' * 65}\ndescription: d\n---\n", None),
]


async def test_front_matter_means_the_same(machine: Machine) -> None:
    machine.lay_out({f"home/skills/s{number}/SKILL.md": text for number, (text, _) in enumerate(FRONT_MATTER)})
    found = await machine.discover()
    assert found["warnings"] == [METADATA]
    said = {
        entry["path"].split("/")[-2]: (entry["name"], entry["description"], entry["shortDescription"])
        for entry in found["skills"]
    }
    for number, (text, expected) in enumerate(FRONT_MATTER):
        directory = f"s{number}"
        if expected is not None and expected[0] == "@":
            expected = (directory, *expected[1:])
        assert said.get(directory) == expected, text


TOOL = {"type": "a", "value": "b", "description": None, "transport": None, "command": None, "url": None}
POLICY = {"allowImplicitInvocation": None, "products": []}
#: ``agents/openai.yaml``, and the dependencies and the policy that it tells.
SKILL_METADATA: list[tuple[str, list[dict[str, Any]] | None, dict[str, Any] | None]] = [
    ("", None, None),
    ("\ufeff# nothing\npolicy: {}\n", None, POLICY),
    ("policy: {allow_implicit_invocation: false, products: [codex, CHATGPT, atlas, codex]}", None,
     {"allowImplicitInvocation": False, "products": ["codex", "chatgpt", "atlas", "codex"]}),
    ("policy: {allow_implicit_invocation: True, products: }", None, {**POLICY, "allowImplicitInvocation": True}),
    ("policy: {allow_implicit_invocation: ~, other: [1]}\ninterface: {display_name: 3, logo: []}", None, POLICY),
    ("policy: !x", None, POLICY),
    ("policy:", None, None),
    ("policy: ~\ndependencies: {tools: [{type: a, value: b}]}", [TOOL], None),
    ('dependencies:\n  tools:\n  - {type: " a\n  ", value: b, description: " c  d ", transport: t, command: c, url: u}',
     [{**TOOL, "description": "c d", "transport": "t", "command": "c", "url": "u"}], None),
    (f"dependencies: {{tools: [{{type: a, value: b, description: {'d' * 1025}, transport: {'t' * 65}, command: ''}}]}}",
     [TOOL], None),
    (f"dependencies: {{tools: [{{type: {'t' * 65}, value: b}}, {{type: a, value: {'v' * 1025}}}]}}", None, None),
    ("dependencies: {tools: [{type: a}, {value: b}, {type: ~, value: b}, {type: a, value: b, more: 1}]}", [TOOL], None),
    ("dependencies: {tools: [&t {type: a, value: b}, *t]}", [TOOL, TOOL], None),
    ("dependencies: {tools: [{type: a, value: b, oauth: {callback_port: 0x50}}]}",
     [{**TOOL, "oauthCallbackPort": 80}], None),
    ("dependencies: {tools: [{type: a, value: b, oauth: {callbackPort: +80}}]}",
     [{**TOOL, "oauthCallbackPort": 80}], None),
    ("dependencies: {tools: [{type: a, value: b, oauth: ~}]}\npolicy: {}", [TOOL], POLICY),
    ("dependencies:\n  tools:\npolicy: {}", None, POLICY),
    *((f"{wrong}\npolicy: {{}}", None, None) for wrong in (
        "a: b: c",
        "policy: {}",
        "dependencies: x",
        "dependencies: {tools: ~}",
        "dependencies: {tools: [x]}",
        "dependencies: {tools: [~]}",
        "dependencies: {tools: [{type: [a]}]}",
        "dependencies: {tools: [{type: a, type: b}]}",
        "dependencies: {tools: [{oauth: x}]}",
        *(f"dependencies: {{tools: [{{oauth: {{callback_port: {port}}}}}]}}"
          for port in ("65536", "-1", '"80"', "8.0", "080", "1_0", "-0")),
        "interface: x",
        "interface: {icon_small: [a]}",
        "interface: {brand_color: a, brand_color: b}",
        "x: *a",
    )),
    *((f"policy: {wrong}", None, None) for wrong in (
        "x", '""', "[]", "{allow_implicit_invocation: no}", "{allow_implicit_invocation: 'true'}", "{products: codex}",
        "{products: ~}", "{products: [Codex]}", "{products: [api]}", "{} \n---\n",
    )),
]  # fmt: skip


async def test_what_is_beside_a_skill_means_the_same(machine: Machine) -> None:
    for number, (text, _, _) in enumerate(SKILL_METADATA):
        directory = f"home/skills/s{number}"
        machine.lay_out({f"{directory}/SKILL.md": skill("n"), f"{directory}/agents/openai.yaml": text})
    found = await machine.discover()
    # What is wrong with it costs the skill nothing.
    assert (len(found["skills"]), found["warnings"]) == (len(SKILL_METADATA), [])
    said = {entry["path"].split("/")[-2]: (entry["dependencies"], entry["policy"]) for entry in found["skills"]}
    for number, (text, tools, policy) in enumerate(SKILL_METADATA):
        dependencies = None if tools is None else {"tools": [{"oauthCallbackPort": None, **tool} for tool in tools]}
        assert said[f"s{number}"] == (dependencies, policy), text


async def test_skills_are_named_by_the_plugin_around_them(machine: Machine) -> None:
    plugins = {
        "own": '{"name": "own"}',
        "second": "{",
        "unnamed": '{"name": " "}',
        "spaced": '{"name": " a  b "}',
        "number": '{"name": 1}',
        "twice": '{"name": "a", "name": "b"}',
        "long": f'{{"name": "{"p" * 127}"}}',
        "longer": f'{{"name": "{"p" * 128}"}}',
    }
    for name, text in plugins.items():
        machine.lay_out(
            {f"home/skills/{name}/.codex-plugin/plugin.json": text, f"home/skills/{name}/x/SKILL.md": skill("s")}
        )
    machine.lay_out(
        {
            "home/skills/second/.claude-plugin/plugin.json": '{"name": "second"}',
            "home/skills/own/SKILL.md": skill("s"),
            "home/skills/own/inner/.cursor-plugin/plugin.json": '{"name": "inner"}',
            "home/skills/own/inner/y/SKILL.md": skill("s"),
            "home/skills/own/broken/.codex-plugin/plugin.json": "[",
            "home/skills/own/broken/y/SKILL.md": skill("s"),
        }
    )
    found = await machine.discover()
    assert machine.names(found["skills"]) == {
        "own": "own:s",
        "own/x": "own:s",
        "own/inner/y": "inner:s",
        "own/broken/y": "own:s",
        "second/x": "s",
        "unnamed/x": "unnamed:s",
        "spaced/x": " a  b :s",
        "number/x": "s",
        "twice/x": "s",
        "long/x": "p" * 127 + ":s",
    }
    assert found["warnings"] == [METADATA]


async def test_a_plugin_is_told_with_its_files_and_skills(machine: Machine) -> None:
    about = '{"name": "x", "version": 3, "interface": {"displayName": " The X "}, "skills": "./none", "apps": "./a"}'
    root = "home/plugins/cache/market/x/1.0"
    machine.lay_out(
        {
            f"{root}/.codex-plugin/plugin.json": about,
            f"{root}/.mcp.json": "not even JSON",
            f"{root}/a": "{}",
            f"{root}/skills/s/SKILL.md": skill("s"),
            f"{root}/skills/bad/SKILL.md": "bad",
            f"{root}/.hidden/t/SKILL.md": skill("t"),
            f"home/plugins/cache/market/x/{REMOTE}": '{"schema_version": 1, "remote_plugin_id": "r", "more": 1}',
            "home/config.toml": '[plugins."x@market"]\nenabled = false\n',
        }
    )
    uri = machine.uri(root)

    def told(name: str, path: str) -> dict[str, Any]:
        nothing = {"shortDescription": None, "dependencies": None, "policy": None}
        return {"name": name, "description": "d", "path": f"{uri}/{path}", **nothing}

    assert await machine.discover() == {
        "plugins": [
            {
                "id": "x@market",
                "displayName": "The X",
                "remotePluginId": "r",
                "version": "1.0",
                "root": uri,
                "files": {
                    "manifest": {"path": f"{uri}/.codex-plugin/plugin.json", "contents": about},
                    "mcpConfig": {"path": f"{uri}/.mcp.json", "contents": "not even JSON"},
                    "appsConfig": {"path": f"{uri}/a", "contents": "{}"},
                },
                "skills": [told("x:t", ".hidden/t/SKILL.md"), told("x:s", "skills/s/SKILL.md")],
            }
        ],
        "skills": [],
        "warnings": [METADATA],
    }


#: Manifests, and what is told: the name that is shown, the text of ``mcpConfig``, and whether something is amiss.
MANIFESTS: list[tuple[str, tuple[str, str | None, bool] | None]] = [
    ("{}", ("1", "mcp", False)),
    ('{"name": " n ", "interface": null, "mcpServers": null, "apps": null}', (" n ", "mcp", False)),
    ('{"name": "", "interface": {"displayName": null}}', ("1", "mcp", False)),
    ('{"name": "n", "interface": {"displayName": " ", "logo": "\\ud800"}, "x": 1, "x": 2}', ("n", "mcp", False)),
    ('{"name": "n", "mcpServers": {"b": 1, "a": [1.50, 1E5, -0, 123456789012345678901234567890], "b": "\\u00e9\\/"}}',
     ("n", '{"b":"é/","a":[1.50,1e+5,0,123456789012345678901234567890]}', False)),
    ('{"name": "n", "mcpServers": {}}', ("n", "{}", False)),
    ('{"name": "n", "mcpServers": []}', ("n", "mcp", False)),
    ('{"name": "n", "mcpServers": "./other"}', ("n", "other", False)),
    ('{"name": "n", "mcpServers": "other"}', ("n", "mcp", True)),
    ('{"name": "n", "mcpServers": "./none"}', ("n", None, True)),
    ('{"name": "n", "apps": "./none"}', ("n", "mcp", True)),
    ('{"name": null}', None),
    ('{"name": 1}', None),
    ('{"name": "a", "name": "a"}', None),
    ('{"name": "\\ud800"}', None),
    ('{"name": "n", "interface": "x"}', None),
    ('{"name": "n", "interface": {"displayName": 1}}', None),
    ('{"name": "n", "interface": {"displayName": "a", "displayName": "b"}}', None),
    ('{"name": "n", "apps": {}}', None),
    ('{"name": "n", "x": NaN}', None),
    ('{"name": "n", "x": 01}', None),
    ('{"name": "n"} x', None),
    ('{"name": "n",}', None),
    ('\ufeff{"name": "n"}', None),
    ("{", None),
    ("3", None),
]  # fmt: skip


async def test_a_manifest_means_the_same(machine: Machine) -> None:
    for number, (text, _) in enumerate(MANIFESTS):
        root = f"m/p{number:02}/1"
        machine.lay_out(manifest(root, text))
        machine.lay_out(
            {f"home/plugins/cache/{root}/{name}": text for name, text in ((".mcp.json", "mcp"), ("other", "other"))}
        )
    machine.lay_out({"home/plugins/cache/m/without/1/skills/s/SKILL.md": skill("s")})
    found = await machine.discover()
    told = {
        plugin["id"]: (plugin["displayName"], plugin["files"]["mcpConfig"] and plugin["files"]["mcpConfig"]["contents"])
        for plugin in found["plugins"]
    }
    amiss = 1
    for number, (text, expected) in enumerate(MANIFESTS):
        assert told.get(f"p{number:02}@m") == (expected and expected[:2]), text
        amiss += expected is None or expected[2]
    assert found["warnings"] == [METADATA] * amiss


#: Versions beside each other, the one that counts first.  (Of three that are not all semantic it is left to chance.)
VERSIONS = [
    ("1.10.0", "1.9.0"),
    ("1.9", "1.10"),
    ("9", "10"),
    ("abc", "2.0.0"),
    ("v1.0.0", "2.0.0"),
    ("local", "3.0.0", "zzz"),
    ("1.0.0", "1.0.0-rc.1"),
    ("1.0.0-rc.11", "1.0.0-rc.2"),
    ("1.0.0-a", "1.0.0-1"),
    ("1.0.0-a.1", "1.0.0-a"),
    ("1.0.0-01", "1.0.0-00"),
    ("1.0.0+b", "1.0.0"),
    ("1.0.0+10", "1.0.0+2"),
    ("1.0.0+02", "1.0.0+2"),
    ("18446744073709551615.0.0", "9.0.0"),
    (".1", "-1"),
    ("1", "2 0", "ü", "2~"),
]


async def test_the_newest_version_of_a_plugin_counts(machine: Machine) -> None:
    for number, versions in enumerate(VERSIONS):
        for version in versions:
            machine.lay_out(manifest(f"m/p{number:02}/{version}"))
    machine.lay_out({"home/plugins/cache/m/p00/2.0.0": "no directory", "home/plugins/cache/m/p01/x.json": "{}"})
    machine.path("home/plugins/cache/m/p00/3.0.0").symlink_to("1.9.0")
    # The newest one counts also when there is nothing in it.
    machine.lay_out({**manifest("m/q/1"), "home/plugins/cache/m/q/2": None})
    found = await machine.discover()
    assert [plugin["version"] for plugin in found["plugins"]] == [versions[0] for versions in VERSIONS]
    assert found["warnings"] == [METADATA]


async def test_directories_with_other_names_are_no_plugins(machine: Machine) -> None:
    good = ["a-b_9/A.b-c", "a-b_9/-", f"{'m' * 70}/{'p' * 200}"]
    bad = ["m.b/p", ".m/p", "m b/p", "ü/p", "m/.p", "m/p..q", "m/p.", "m/p q", "m/p@q", "m/p+q", "m/ü"]
    for path in good + bad:
        machine.lay_out(manifest(f"{path}/1"))
    machine.lay_out({**manifest("m"), **manifest("z/p"), "home/plugins/cache/m/file": "", "home/plugins/cache/f": ""})
    machine.path("home/plugins/cache/n").symlink_to("a-b_9")
    machine.path("home/plugins/cache/z/linked").symlink_to("../a-b_9/-")
    found = await machine.discover()
    ids = {plugin["id"] for plugin in found["plugins"]}
    assert ids == {"A.b-c@a-b_9", "-@a-b_9", f"{'p' * 200}@{'m' * 70}", "linked@z"}
    # By their ids, not by their directories.
    assert [plugin["id"] for plugin in found["plugins"]] == sorted(ids)


#: What says how a plugin is called in the cloud, and how it is.
REMOTE_IDS: list[tuple[str | bytes | None, str | None]] = [
    ('{"schema_version": 1, "remote_plugin_id": " a b\\n"}', "a b"),
    (f'{{"schema_version": 1, "remote_plugin_id": "{"é" * 512} "}}', "é" * 512),
    ('{"schema_version": 1, "remote_plugin_id": "x"}'.ljust(16384), "x"),
    ('{"schema_version": 1, "remote_plugin_id": "x"}'.ljust(16385), None),
    (f'{{"schema_version": 1, "remote_plugin_id": "{"é" * 513}"}}', None),
    ('{"schema_version": 1, "remote_plugin_id": " "}', None),
    ('{"schema_version": 2, "remote_plugin_id": "x"}', None),
    ('{"schema_version": 1.0, "remote_plugin_id": "x"}', None),
    ('{"schema_version": "1", "remote_plugin_id": "x"}', None),
    ('{"schema_version": 1, "remote_plugin_id": null}', None),
    ('{"schema_version": 1, "remote_plugin_id": "x", "remote_plugin_id": "x"}', None),
    ('{"remote_plugin_id": "x"}', None),
    ('{"schema_version": 1}', None),
    (b'{"schema_version": 1, "remote_plugin_id": "\xff"}', None),
    ("", None),
    (None, None),
]


async def test_the_name_of_a_plugin_in_the_cloud_is_told(machine: Machine) -> None:
    for number, (text, _) in enumerate(REMOTE_IDS):
        machine.lay_out({**manifest(f"m/p{number:02}/1"), f"home/plugins/cache/m/p{number:02}/{REMOTE}": text})
    machine.lay_out({**manifest("m/q/1"), **manifest("m/r/1"), "elsewhere": REMOTE_IDS[0][0]})
    machine.path(f"home/plugins/cache/m/q/{REMOTE}").symlink_to(machine.path("elsewhere"))
    os.mkfifo(machine.path(f"home/plugins/cache/m/r/{REMOTE}"))
    found = await machine.discover()
    told = [plugin["remotePluginId"] for plugin in found["plugins"]]
    assert told == [*(expected for _, expected in REMOTE_IDS), "a b", None]
    # However many there are.
    assert found["warnings"] == [LOCATIONS]


async def test_an_answer_is_bounded(machine: Machine) -> None:
    limit = 4 * 1024 * 1024
    for name in "abcdef":
        size = 300_000 if name == "e" else 100 if name == "f" else 1_000_000
        machine.lay_out({**manifest(f"m/{name}/1"), f"home/plugins/cache/m/{name}/1/.mcp.json": "x" * size})
    machine.lay_out({"home/skills/a/SKILL.md": skill("a"), "home/skills/b/SKILL.md": "no skill"})
    found = await machine.discover()
    # What does not fit is left out, and the smaller that comes after it is not.
    assert [plugin["id"] for plugin in found["plugins"]] == ["a@m", "b@m", "c@m", "d@m", "f@m"]
    assert [entry["name"] for entry in found["skills"]] == ["a"]
    assert found["warnings"] == [CUT, METADATA]
    machine.lay_out({"home/skills/b/SKILL.md": skill("b")})
    path = machine.path("home/plugins/cache/m/e/1/.mcp.json")
    path.write_text("")
    whole = len(json.dumps(await machine.discover(), separators=(",", ":")))
    path.write_text("x" * (limit - whole))
    found = await machine.discover()
    assert len(json.dumps(found, separators=(",", ":"))) == limit
    assert (len(found["plugins"]), len(found["skills"]), found["warnings"]) == (6, 2, [])
    path.write_text(path.read_text() + "x")
    found = await machine.discover()
    assert (len(found["plugins"]), [entry["name"] for entry in found["skills"]], found["warnings"]) == (6, ["a"], [CUT])


@pytest.mark.parametrize("name", ["home/skills", "user/.agents/skills", "home/plugins/cache", "home/plugins/cache/m"])
async def test_a_file_in_the_place_of_a_directory_is_none(machine: Machine, name: str) -> None:
    machine.lay_out({name: "file"})
    assert await machine.discover() == {"plugins": [], "skills": [], "warnings": []}


async def test_where_nobody_can_look_is_an_error(machine: Machine) -> None:
    machine.lay_out({"user/.agents": "file"})
    assert await machine.error() == (-32603, "Not a directory (os error 20)")
    machine.path("user/.agents").unlink()
    machine.path("home/skills").symlink_to("skills")
    assert await machine.error() == (-32603, "Symbolic link loop (os error 40)")


async def test_parameters_are_strict(machine: Machine) -> None:
    async with machine.client() as client:
        for params in (None, {}, {"cwd": 1}, {"cwd": "tmp"}, {"cwd": "http://x"}, {"cwd": "file:///", "sandbox": 3}):
            assert (await client.error("capabilities/discoverV2", params))[0] == -32602, params
        assert await client.result("capabilities/discoverV2", {"cwd": "file:///C:/x"})


async def test_a_sandbox_hides_what_it_does_not_see(machine: Machine) -> None:
    for name in "ab":
        machine.lay_out({f"home/skills/{name}/SKILL.md": skill(name), **manifest(f"m/{name}/1")})
    machine.lay_out({"user/.agents/skills/c/SKILL.md": skill("c")})

    async def seen(*denied: str) -> tuple[list[str], list[str], list[str]]:
        entries = [{"path": {"type": "path", "path": machine.uri(path)}, "access": "deny"} for path in denied]
        found = await machine.discover(sandbox=sandbox(machine.path("p"), special("root", "read"), *entries))
        return (
            [plugin["id"] for plugin in found["plugins"]],
            [entry["name"] for entry in found["skills"]],
            found["warnings"],
        )

    assert await seen() == (["a@m", "b@m"], ["a", "b", "c"], [])
    assert await seen("user/.agents", "home/plugins") == ([], ["a", "b"], [])
    assert await seen("home/skills/a") == (["a@m", "b@m"], ["b", "c"], [METADATA])
    assert await seen("home/plugins/cache/m/a") == (["b@m"], ["a", "b", "c"], [])
