"""What ``environmentConfig/read`` does not read, does not tell, and does not load."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.host.configuration import layers
from holdfast.host.configuration.reading import CONFIGURATION_LIMIT, Files
from holdfast.host.configuration.toml import InvalidToml, parse, render
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import RpcError

from .harness import RunningServer, WireClient, start_host


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project that is trusted, a home that says so, and a directory of the administrator."""
    place = tmp_path.resolve() / "place"
    for name in ("home", "system", "p/.codex"):
        (place / name).mkdir(parents=True)
    (place / "home/config.toml").write_text(f'a = 2\n[projects."{place}/p"]\ntrust_level = "trusted"\n')
    (place / "p/.codex/config.toml").write_text("a = 3\n")
    return place


def load(place: Path, directory: str = "p", scope: Scope | None = None) -> list[str]:
    """The names of the layers that say something."""
    config, _ = layers.load(
        str(place / directory), str(place / "home"), Files(scope or Scope()), system=str(place / "system")
    )
    return [layer.source.split()[0] for layer in config.select([["a"]]).layers]


def test_all_is_read(place: Path) -> None:
    (place / "system/config.toml").write_text("a = 1")
    assert load(place) == ["system", "user", "project"]


def test_the_home_of_codex_is_no_project(place: Path) -> None:
    (place / "home/.codex").symlink_to(place / "p/.codex")
    (place / "p/.codex/config.toml").write_text(f'a = 2\n[projects."{place}/p"]\ntrust_level = "trusted"\n')
    config, _ = layers.load(str(place / "p"), str(place / "p/.codex"), Files(Scope()), system=str(place / "system"))
    assert [layer.source.split()[0] for layer in config.select([["a"]]).layers] == ["user"]


@pytest.mark.parametrize("name", ["system/config.toml", "p/.codex/config.toml", "system/requirements.toml"])
def test_nothing_but_regular_files_of_bounded_size_is_read(place: Path, name: str) -> None:
    path = place / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(RpcError, match="is not a file"):
        load(place)
    path.unlink()
    path.write_text("#" * (CONFIGURATION_LIMIT + 1))
    with pytest.raises(RpcError, match="larger than"):
        load(place)
    path.write_text("#" * CONFIGURATION_LIMIT)
    load(place)


def test_a_project_that_is_not_trusted_is_not_even_read(place: Path) -> None:
    (place / "home/config.toml").write_text("a = 2")
    path = place / "p/.codex/config.toml"
    path.unlink()
    os.mkfifo(path)
    assert load(place) == ["user"]


@pytest.mark.parametrize(
    "text", ["t = sk-123", "t = 'sk-123", 't = "\\sk-123"', "sk-123", "[sk-123]\n[sk-123]", "=\xff"]
)
def test_an_error_tells_where_and_not_what(place: Path, text: str) -> None:
    (place / "home/config.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RpcError) as raised:
        load(place)
    assert raised.value.message.startswith(f"failed to load executor-local config: {place}/home/config.toml:")
    assert "sk-123" not in raised.value.message


def test_depth_is_an_error_and_no_accident(place: Path) -> None:
    with pytest.raises(InvalidToml, match="nested too deeply"):
        parse(b"a = " + b"[" * 100_000)
    table: dict[str, Any] = {}
    for _ in range(100_000):
        table = {"a": table}
    with pytest.raises(InvalidToml, match="nested too deeply"):
        render(table)


@pytest.mark.parametrize("key", ["a." * 16 + "a", " . ".join(["a", '"b.c"'] * 9), "x = 1, y." + "a." * 15 + "a"])
def test_a_key_of_many_parts_costs_nothing(key: str) -> None:
    for text in (f"{key} = 1", f"[{key}]", f"t = {{{key} = 1}}"):
        with pytest.raises(InvalidToml, match=r"a key of more than 16 parts|invalid TOML"):
            parse(b"a = 1\n" + text.encode())


def test_many_dots_are_no_long_key() -> None:
    text = "One sentence. " * 100 + "1.2.3.4.5.6.7.8 " * 20
    assert parse(f"{'a.' * 15}a = '{text}'\n".encode())
    assert parse(f'a = """\n{text}\n"""\nb = [{"1.5, " * 100}]'.encode())


def test_nothing_of_a_project_lies_outside_of_the_root_of_the_host(place: Path) -> None:
    root = Scope.below(str(place / "p"))
    assert load(place, scope=root) == ["user", "project"]
    (place / "secret").write_text("a = 9")
    (place / "p/.codex/config.toml").unlink()
    (place / "p/.codex/config.toml").symlink_to(place / "secret")
    with pytest.raises(RpcError, match="outside of"):
        load(place, scope=root)
    (place / "p/.codex/config.toml").unlink()
    (place / "p/.codex").rmdir()
    (place / "p/.codex").symlink_to(place / "home")
    assert load(place, scope=root) == ["user"]
    # Nor does a project begin there.
    (place / ".git").mkdir()
    (place / ".git/HEAD").write_text("")
    (place / "home/config.toml").write_text(f'a = 2\n[projects."{place}"]\ntrust_level = "trusted"\n')
    assert load(place, scope=Scope()) == ["user"]
    (place / "p/.codex").unlink()
    (place / "p/.codex").mkdir()
    (place / "p/.codex/config.toml").write_text("a = 3")
    assert load(place, scope=Scope()) == ["user", "project"]
    assert load(place, scope=root) == ["user"]


@pytest.fixture
def rooted(state: Path, place: Path) -> Iterator[RunningServer]:
    environment = {**os.environ, "CODEX_HOME": str(place / "home")}
    server = start_host(state, "unix://", "--root", str(place / "p"), env=environment)
    yield server
    server.stop()


async def test_a_directory_outside_of_the_root_is_refused(rooted: RunningServer, place: Path) -> None:
    client = await WireClient.connect(rooted.url)
    params = {"cwd": f"file://{place}/p", "configPaths": [["a"]], "requirementsPaths": []}
    told = (await client.result("environmentConfig/read", params))["config"]["layers"]
    assert [layer["toml"] for layer in told] == ["a = 2\n", "a = 3\n"]
    for cwd in (f"file://{place}", f"file://{place}/p/.."):
        code, message = await client.error("environmentConfig/read", {**params, "cwd": cwd})
        assert (code, "outside of" in message) == (-32600, True)
    await client.close()


async def test_capabilities_outside_of_the_root_are_not_found(rooted: RunningServer, place: Path) -> None:
    (place / "secret").mkdir()
    for name in ("secret/SKILL.md", "p/SKILL.md"):
        (place / name).write_text(name)
    (place / "p/link").symlink_to(place / "secret")
    client = await WireClient.connect(rooted.url)
    roots = [{"id": name, "path": f"file://{place}/{name}"} for name in ("p", "secret", "p/link")]
    found = (await client.result("capabilityRoots/discoverV1", {"roots": roots}))["roots"]
    assert [[skill["instructions"]["contents"] for skill in root["skills"]] for root in found] == [
        ["p/SKILL.md"],
        [],
        [],
    ]
    assert [root["error"] is not None for root in found] == [False, True, True]
    await client.close()


async def test_a_home_that_is_none_is_an_error(state: Path, tmp_path: Path) -> None:
    server = start_host(state, env={**os.environ, "CODEX_HOME": str(tmp_path / "nothing")})
    try:
        client = await WireClient.connect(server.url)
        params = {"cwd": "file:///tmp", "configPaths": [["a"]], "requirementsPaths": []}
        told = f'failed to find Codex home: CODEX_HOME points to "{tmp_path}/nothing", but that path does not exist'
        assert await client.error("environmentConfig/read", params) == (-32603, told)
        await client.close()
    finally:
        server.stop()


def test_a_credential_broker_is_nothing_that_a_project_decides_about(place: Path) -> None:
    with (place / "home/config.toml").open("a") as file:
        file.write("[features.network_proxy]\ncredential_broker = true\nenabled = true\n")
    (place / "p/.codex/config.toml").write_text(
        "[features]\nhooks = true\nshell_snapshot = true\nnetwork_proxy = false\n"
        "[shell_environment_policy]\ninherit = 'all'\nexperimental_use_profile = true\nset.GH_HOST = 'x'\n"
    )
    config, _ = layers.load(str(place / "p"), str(place / "home"), Files(Scope()), system=str(place / "system"))
    assert config.layers[-1].table == {"features": {"hooks": True}, "shell_environment_policy": {"inherit": "all"}}


_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.datetimes(timezones=st.none()),
    st.dates(),
    st.times(),
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_TABLES = st.dictionaries(
    _KEYS,
    st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4)),
    max_size=5,
)


@given(_TABLES)
def test_what_is_written_says_what_was_read(table: dict[str, Any]) -> None:
    assert tomllib.loads(render(table)) == table


@given(st.text("'\"\\\n\t\x01a", max_size=12))
def test_every_spelling_of_a_string_is_right(text: str) -> None:
    assert tomllib.loads(render({"a": text, text: 1, "l": [text]})) == {"a": text, text: 1, "l": [text]}


def test_a_host_does_not_load_what_nobody_asked_for() -> None:
    code = "import sys, holdfast.host.serving; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"tomllib", "holdfast.host.configuration"} & set(done.stdout.split())
