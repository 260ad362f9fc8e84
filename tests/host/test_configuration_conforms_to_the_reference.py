"""``environmentConfig/read`` of our host and of the real ``codex exec-server``: the same files, the same answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.host.sandbox.bubblewrap import unusable

from .harness import BOTH, RunningServer, WireClient, over_etc, server_command

TRUSTED = '[projects."@/p"]\ntrust_level = "trusted"\n'
WORKTREE = {
    "p/.git": "gitdir: @/main/.git/worktrees/p\n",
    "main/.git/HEAD": "ref: refs/heads/main\n",
    "main/.git/worktrees/p/commondir": "../..\n",
    "main/.git/worktrees/p/gitdir": "@/p/.git\n",
}
Files = dict[str, str | None]


class Machine:
    """A server, and the directories that it may find configuration in: ``etc``, ``home`` and projects beside them."""

    def __init__(self, place: Path, home: Path, client: WireClient, *, reference: bool) -> None:
        self.place = place
        self.home = home
        self.client = client
        self.reference = reference

    def lay_out(self, files: Files) -> None:
        """Make files (None: a directory); ``@`` stands for the place of all of them."""
        for name, text in files.items():
            path = self.home / name.removeprefix("home/") if name.startswith("home/") else self.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(text.replace("@", str(self.place)).encode())

    async def ask(
        self, paths: list[list[str]], requirements: list[list[str]] | None = None, cwd: str = "p"
    ) -> dict[str, Any]:
        params = {
            "cwd": f"file://{self.place}/{cwd}",
            "configPaths": paths,
            "requirementsPaths": requirements or [],
        }
        return await self.client.result("environmentConfig/read", params)

    async def layers(self, *paths: list[str], cwd: str = "p") -> list[tuple[str, str]]:
        """Source and text of each layer, with ``@`` for the place; the base is the directory of the source."""
        stack = (await self.ask(list(paths), cwd=cwd))["config"]
        assert all(self.base_of(layer["source"]) == layer["baseDir"] for layer in stack["layers"])
        return [(self.short(layer["source"]), layer["toml"]) for layer in stack["layers"]]

    def base_of(self, source: str) -> str:
        return "file://" + os.path.dirname(source.partition("(")[2].rstrip(")"))

    def short(self, text: str) -> str:
        return text.replace(str(self.home), "@/home").replace(str(self.place), "@")


async def started(
    argv: list[str], request: pytest.FixtureRequest, tmp_path: Path, codex_home: Path
) -> AsyncIterator[Machine]:
    place, home = directories(tmp_path, codex_home)
    server = RunningServer(argv, env={**os.environ, "CODEX_HOME": str(home)})
    try:
        client = await WireClient.connect(server.url)
        yield Machine(place, home, client, reference=request.param == "codex")
        await client.close()
    finally:
        server.stop()


def directories(tmp_path: Path, codex_home: Path) -> tuple[Path, Path]:
    """The place of all files, and the home of Codex, as they are told: without symlinks."""
    place = tmp_path.resolve() / "place"
    (place / "etc").mkdir(parents=True, exist_ok=True)
    (place / "p").mkdir(exist_ok=True)
    return place, codex_home.resolve()


@pytest.fixture(params=BOTH)
async def machine(
    request: pytest.FixtureRequest, state: Path, tmp_path: Path, codex_home: Path
) -> AsyncIterator[Machine]:
    async for found in started(server_command(request.param, state), request, tmp_path, codex_home):
        yield found


@pytest.fixture(params=BOTH)
async def administered(
    request: pytest.FixtureRequest, state: Path, tmp_path: Path, codex_home: Path
) -> AsyncIterator[Machine]:
    """A machine whose ``/etc/codex`` is the directory ``etc`` of the test."""
    reason = unusable()
    if reason is not None:
        pytest.skip(f"no way to put a directory in the place of /etc/codex: {reason}")
    place, _ = directories(tmp_path, codex_home)
    async for found in started(
        over_etc(place / "etc", server_command(request.param, state)), request, tmp_path, codex_home
    ):
        yield found


async def test_without_configuration_there_are_no_layers(machine: Machine) -> None:
    nothing = {"layers": [], "cloudInsertionIndex": 0}
    result = await machine.ask([["a"]], [["b"]], cwd="does/not/exist")
    assert isinstance(result.pop("hostname"), str)
    assert result == {
        "userHomeDir": Path.home().as_uri(),
        "codexHomeDir": machine.home.as_uri(),
        "config": nothing,
        "requirements": nothing,
    }


CWD = "file:///tmp"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"configPaths": [["a"]], "requirementsPaths": []}, "missing field `cwd`"),
        ({"cwd": CWD, "requirementsPaths": []}, "missing field `configPaths`"),
        ({"cwd": CWD, "configPaths": [["a"]]}, "missing field `requirementsPaths`"),
        (
            {"cwd": CWD, "configPaths": [], "requirementsPaths": []},
            "at least one config or requirements path is required",
        ),
        (
            {"cwd": CWD, "configPaths": [["a"], []], "requirementsPaths": []},
            "TOML paths must contain at least one key segment",
        ),
        (
            {"cwd": CWD, "configPaths": [["a"]], "requirementsPaths": [[]]},
            "TOML paths must contain at least one key segment",
        ),
        ({"cwd": "tmp", "configPaths": [["a"]], "requirementsPaths": []}, "invalid URI: relative URL without a base"),
        (
            {"cwd": "http://x/", "configPaths": [["a"]], "requirementsPaths": []},
            "unsupported path URI scheme `http`",
        ),
        (
            {"cwd": CWD + "?x", "configPaths": [["a"]], "requirementsPaths": []},
            "query parameters are not allowed in path URIs",
        ),
        ({"cwd": "file://elsewhere/tmp", "configPaths": [["a"]], "requirementsPaths": []}, None),
        ({"cwd": None, "configPaths": [["a"]], "requirementsPaths": []}, None),
        ({"cwd": CWD, "configPaths": ["a"], "requirementsPaths": []}, None),
        ({"cwd": CWD, "configPaths": [[1]], "requirementsPaths": []}, None),
        ({"cwd": CWD, "configPaths": None, "requirementsPaths": []}, None),
        (None, None),
    ],
)
async def test_parameters_are_strict(either: RunningServer, params: Any, message: str | None) -> None:
    client = await WireClient.connect(either.url)
    code, told = await client.error("environmentConfig/read", params)
    assert code == -32602
    assert message is None or told == message
    await client.close()


async def test_it_needs_the_handshake(either: RunningServer) -> None:
    client = await WireClient.connect(either.url, initialize=False)
    params = {"cwd": CWD, "configPaths": [["a"]], "requirementsPaths": []}
    told = "client must call initialize before using environment config methods"
    assert await client.error("environmentConfig/read", params) == (-32600, told)
    await client.close()


EVERYWHERE: Files = {
    "etc/config.toml": "a = 1\n",
    "home/config.toml": "a = 2\n" + TRUSTED,
    "p/.git/HEAD": "",
    "p/.codex/config.toml": "a = 3\n",
    "p/s/.codex/config.toml": "a = 4\n",
    "p/s/t/.codex/config.toml": "a = 5\n",
    "etc/managed_config.toml": "a = 6\n",
    "etc/requirements.toml": "a = 7\n",
}


async def test_layers_come_in_their_order(administered: Machine) -> None:
    administered.lay_out(EVERYWHERE)
    result = await administered.ask([["a"]], [["a"]], cwd="p/s/t")
    layers = [(administered.short(layer["source"]), layer["toml"]) for layer in result["config"]["layers"]]
    assert layers == [
        ("system (/etc/codex/config.toml)", "a = 1\n"),
        ("user (@/home/config.toml)", "a = 2\n"),
        ("project (@/p/.codex/config.toml)", "a = 3\n"),
        ("project (@/p/s/.codex/config.toml)", "a = 4\n"),
        ("project (@/p/s/t/.codex/config.toml)", "a = 5\n"),
        ("legacy managed_config.toml (/etc/codex/managed_config.toml)", "a = 6\n"),
    ]
    assert result["config"]["cloudInsertionIndex"] == 1
    assert result["requirements"] == {
        "layers": [{"source": "/etc/codex/requirements.toml", "baseDir": "file:///etc/codex", "toml": "a = 7\n"}],
        "cloudInsertionIndex": 1,
    }
    other = await administered.ask([["projects"]], [["b"]], cwd="p")
    assert other["config"]["cloudInsertionIndex"] == 0
    assert other["requirements"] == {"layers": [], "cloudInsertionIndex": 0}


async def test_the_administrator_decides_about_trust(administered: Machine) -> None:
    administered.lay_out({**EVERYWHERE, "etc/managed_config.toml": '[projects."@/p"]\ntrust_level = "untrusted"\n'})
    assert [source.split()[0] for source, _ in await administered.layers(["a"])] == ["system", "user"]
    administered.lay_out({"home/config.toml": "", "etc/managed_config.toml": TRUSTED})
    assert [source.split()[0] for source, _ in await administered.layers(["a"])] == ["system", "project"]


@pytest.mark.parametrize(
    ("managed", "demands"),
    [
        ('approval_policy = "never"\n', 'allowed_approval_policies = ["never"]\n'),
        ('approval_policy = "on-failure"\n', 'allowed_approval_policies = ["on-request"]\n'),
        (
            "[approval_policy.granular]\nmcp_elicitations = true\nrules = false\nsandbox_approval = true\n",
            "[[allowed_approval_policies]]\n\n[allowed_approval_policies.granular]\nsandbox_approval = true\n"
            "rules = false\nskill_approval = false\nrequest_permissions = false\nmcp_elicitations = true\n",
        ),
        (
            'sandbox_mode = "workspace-write"\napprovals_reviewer = "guardian_subagent"\n',
            'allowed_approvals_reviewers = ["auto_review", "user"]\n'
            'allowed_sandbox_modes = ["read-only", "workspace-write"]\n',
        ),
        ('sandbox_mode = "read-only"\n', 'allowed_sandbox_modes = ["read-only"]\n'),
        ('approval_policy = "x"\n', None),
        ("approval_policy = 1\n", None),
        ("[approval_policy.granular]\nrules = true\n", None),
        ('sandbox_mode = "x"\n', None),
    ],
)
async def test_what_the_administrator_set_in_the_older_way_is_required(
    administered: Machine, managed: str, demands: str | None
) -> None:
    administered.lay_out({"etc/managed_config.toml": managed})
    keys = ("allowed_approval_policies", "allowed_approvals_reviewers", "allowed_sandbox_modes")
    params = {"cwd": CWD, "configPaths": [], "requirementsPaths": [[key] for key in keys]}
    if demands is None:
        assert (await administered.client.error("environmentConfig/read", params))[0] == -32603
        return
    source = "/etc/codex/managed_config.toml"
    assert (await administered.client.result("environmentConfig/read", params))["requirements"] == {
        "layers": [{"source": source, "baseDir": "file:///etc/codex", "toml": demands}],
        "cloudInsertionIndex": 0,
    }


PROJECT: Files = {
    "p/.git/HEAD": "",
    "p/.codex/config.toml": "a = 3",
    "p/s/.codex/config.toml": "a = 4",
    "p/s/f": "",
}


@pytest.mark.parametrize(
    ("user", "cwd", "trusted"),
    [
        ("", "p/s", ""),
        (TRUSTED, "p/s", "p p/s"),
        (TRUSTED, "p", "p"),
        (TRUSTED, "p/s/not/there", "p p/s"),
        (TRUSTED, "p/s/f", "p p/s"),
        (TRUSTED, "p/x/%2e%2e/s//", "p p/s"),
        (TRUSTED.replace('"trusted', '"untrusted'), "p/s", ""),
        (TRUSTED.replace("@/p", "@"), "p/s", ""),
        (TRUSTED.replace("@/p", "@/p/"), "p/s", ""),
        (TRUSTED.replace("@/p", "@/p/s"), "p/s", "p/s"),
        (TRUSTED + TRUSTED.replace("@/p", "@/p/s").replace('"trusted', '"untrusted'), "p/s", "p"),
        ("project_root_markers = []\n" + TRUSTED, "p", "p"),
        ("project_root_markers = ['']\n" + TRUSTED.replace("@/p", "@/p/s"), "p/s", "p/s"),
        ("project_root_markers = ['f']\n" + TRUSTED, "p/s", "p/s"),
        ("project_root_markers = ['s/f']\n" + TRUSTED, "p/s", "p p/s"),
    ],
)
async def test_only_projects_that_the_user_trusts_count(machine: Machine, user: str, cwd: str, trusted: str) -> None:
    machine.lay_out({**PROJECT, "home/config.toml": user})
    found = [source for source, _ in await machine.layers(["a"], cwd=cwd)]
    assert found == [f"project (@/{project}/.codex/config.toml)" for project in trusted.split()]


async def test_a_directory_called_git_is_a_repository_only_with_a_head(machine: Machine) -> None:
    machine.lay_out({**PROJECT, "home/config.toml": TRUSTED, "p/s/.git": None})
    assert len(await machine.layers(["a"], cwd="p/s")) == 2
    (machine.place / "p/.git/HEAD").unlink()
    assert await machine.layers(["a"], cwd="p/s") == []


@pytest.mark.parametrize(
    ("change", "trusted"),
    [
        ({}, True),
        ({"p/.git": "gitdir: ../main/.git/worktrees/p"}, True),
        ({"main/.git/worktrees/p/gitdir": "../../../../p/.git"}, True),
        ({"main/.git/worktrees/p/gitdir": "@/q/.git\n"}, False),
        ({"main/.git/worktrees/p/gitdir": ""}, False),
        ({"main/.git/worktrees/p/commondir": "@/q\n"}, False),
        ({"p/.git": "gitdir: @/main/.git/worktrees\n"}, False),
        ({"p/.git": "nonsense"}, False),
    ],
)
async def test_a_worktree_is_trusted_with_its_repository_if_that_knows_it(
    machine: Machine, change: Files, trusted: bool
) -> None:
    machine.lay_out({"home/config.toml": TRUSTED.replace("@/p", "@/main")})
    machine.lay_out({"p/.codex/config.toml": "a = 3\nhooks = 1\n", "main/.codex/config.toml": "a = 1\nhooks = 2\n"})
    machine.lay_out({**WORKTREE, **change})
    layers = [
        ("project (@/p/.codex/config.toml)", "a = 3\n"),
        ("project (@/main/.codex/config.toml)", "hooks = 2\n"),
    ]
    assert await machine.layers(["a"], ["hooks"]) == (layers if trusted else [])


async def test_symlinks_are_followed_as_everywhere(machine: Machine) -> None:
    machine.lay_out({"home/config.toml": TRUSTED, "p/.git/HEAD": "", "q/c": "a = 3", "q/d/config.toml": "a = 4"})
    machine.lay_out({"p/.codex": None, "p/s": None})
    (machine.place / "p/.codex/config.toml").symlink_to("../../q/c")
    (machine.place / "p/s/.codex").symlink_to("../../q/d")
    (machine.place / "link").symlink_to("p")
    sources = ["project (@/p/.codex/config.toml)", "project (@/p/s/.codex/config.toml)"]
    assert [source for source, _ in await machine.layers(["a"], cwd="p/s")] == sources
    # A path is told as it was asked for, and trusted by where it leads.
    assert await machine.layers(["a"], cwd="link") == [("project (@/link/.codex/config.toml)", "a = 3\n")]


async def test_a_project_may_not_say_everything(machine: Machine) -> None:
    keys = ("model", "model_provider", "model_providers", "notify", "openai_base_url", "chatgpt_base_url", "profile")
    keys += ("profiles", "otel", "responses_api_metadata", "apps_mcp_product_sku", "sandbox_mode", "mcp_servers")
    keys += ("experimental_realtime_ws_base_url", "experimental_realtime_webrtc_call_base_url", "projects")
    text = "".join(f"{key} = 1\n" for key in keys) + "[features]\nrespect_system_proxy = true\nother = true\n"
    machine.lay_out({"home/config.toml": TRUSTED, "p/.codex/config.toml": text})
    _, (_, told) = await machine.layers(*([key] for key in (*keys, "features")))
    kept = "model = 1\nsandbox_mode = 1\nmcp_servers = 1\nprojects = 1\n\n[features]\nother = true\n"
    assert told == kept


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        ("a.b", "[a.b]\ne = 2\n\n[a.b.c]\nd = 1\n"),
        ("a.b.c a.f", "[a]\nf = 3\n\n[a.b.c]\nd = 1\n"),
        ("a.b.c a.b", "[a.b]\ne = 2\n\n[a.b.c]\nd = 1\n"),
        ("a.b a.b.c", "[a.b]\ne = 2\n\n[a.b.c]\nd = 1\n"),
        ("a.nothing", "[a]\n"),
        ("v.x list.x", "v = 5\n\n[[list]]\nx = 1\ny = 2\n"),
        ("nothing", None),
    ],
)
async def test_only_what_was_asked_for_is_told(machine: Machine, paths: str, text: str | None) -> None:
    machine.lay_out({"home/config.toml": "v = 5\n[[list]]\nx = 1\ny = 2\n[a]\nb.c.d = 1\nb.e = 2\nf = 3\n[secret]\n"})
    told = await machine.layers(*(path.split(".") for path in paths.split()))
    assert told == ([("user (@/home/config.toml)", text)] if text else [])


#: Texts, and how they are told if not as they are.
TEXTS = {
    "a = 1\nb = 2\n\n[c]\nd = 3\n\n[c.e]\nf = 4\n": None,
    "a={t={x=1},r=[{q=1},{}],v=2,l=[1]}": "[a]\nv = 2\nl = [1]\n\n[a.t]\nx = 1\n\n[[a.r]]\nq = 1\n\n[[a.r]]\n",
    "[a.b]\n": None,
    'a = [1, 2.5, "x", { b = 1 }, [], {}]\n': None,
    "a = [[1, 2], [3]]\n": None,
    "a=[{b={c=1}},{}]": "[[a]]\n\n[a.b]\nc = 1\n\n[[a]]\n",
    'a = ["", "\'", \'"\', \'\\\', "\\t", "\\u0080", "é 😀"]': 'a = ["", "\'", \'"\', \'\\\', "\\t", "\x80", "é 😀"]\n',
    'a="x\\ny\\t\\"\\\\ \\u0001 \\u007f"': 'a = """\nx\ny\\t"\\\\ \\u0001 \\u007F"""\n',
    'a="\\b\\f\\r"': 'a = "\\b\\f\\r"\n',
    'a = """both \' and """"\n': None,
    "a = '''both ' and \" and \\'''\n": None,
    'a="nl\\n\\"\\"\\""': "a = '''\nnl\n\"\"\"'''\n",
    'a="\\"\\"\\"\\"\\"\\n\\u0000"': 'a = """\n""\\"""\n\\u0000"""\n',
    'a="\'\'\'\\"\\"\\"\\\\"': 'a = "\'\'\'\\"\\"\\"\\\\"\n',
    "a=[1e10, 1.0, inf, -inf, nan, 1e-7, 1e22, -0.0, 0xff, -9223372036854775808]": (
        "a = [10000000000.0, 1.0, inf, -inf, nan, 0.0000001, 10000000000000000000000.0, -0.0, 255, "
        "-9223372036854775808]\n"
    ),
    "a = [1979-05-27T07:32:00Z, 1979-05-27T00:32:00.5-07:00, 1979-05-27T07:32:00, 1979-05-27, 07:32:00.25, true]\n": (
        None
    ),
    '[a]\n"b c"=1\n"é"=2\n""=3\n"x.y"=4\n\'q"\'=5\n"q\'\\""=6\n"n\\nl"=7\n1=8\n-a_=9\n["a"."b.c".d]\n': (
        '[a]\n"b c" = 1\n"é" = 2\n"" = 3\n"x.y" = 4\n\'q"\' = 5\n"q\'\\"" = 6\n"n\\nl" = 7\n1 = 8\n-a_ = 9\n\n'
        '[a."b.c".d]\n'
    ),
    "\ufeffa=1\r\nb=2\r\n": "a = 1\nb = 2\n",
    "": "",
}


async def test_texts_are_written_alike(machine: Machine) -> None:
    for given, told in TEXTS.items():
        machine.lay_out({"home/config.toml": given})
        texts = [text for _, text in await machine.layers(["a"], ["b"], ["c"])]
        assert texts == ([told if told is not None else given] if told != "" else []), given


@pytest.mark.parametrize(
    ("user", "project"),
    [
        ("token = sk-123", ""),
        ("a = 1\na = 2", ""),
        ("a = 9223372036854775808", ""),
        ("a = 1\n\ufeff", ""),
        (None, ""),
        (TRUSTED, "token = sk-123"),
        ("project_root_markers = 1", ""),
        ("projects = 1", ""),
        ("[projects.x]\ntrust_level = 'sk-123'", ""),
    ],
)
async def test_what_cannot_be_read_is_an_error(machine: Machine, user: str | None, project: str) -> None:
    machine.lay_out({"home/config.toml": user, "p/.git/HEAD": "", "p/.codex/config.toml": project})
    params = {"cwd": f"file://{machine.place}/p", "configPaths": [["a"]], "requirementsPaths": []}
    code, message = await machine.client.error("environmentConfig/read", params)
    assert code == -32603
    assert message.startswith("failed to load executor-local config: ")
    # The reference shows the line.
    assert machine.reference or "sk-123" not in message


async def test_broken_configuration_of_others_is_nobodys_business(machine: Machine) -> None:
    machine.lay_out({"home/config.toml": "a = 2", "p/.git/HEAD": "", "p/.codex/config.toml": "token = sk-123"})
    assert await machine.layers(["a"]) == [("user (@/home/config.toml)", "a = 2\n")]
