"""``import holdfast`` loads nothing; a name is loaded when it is used, and is the one that type checkers see."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast


def modules_after(code: str) -> set[str]:
    script = f"import json, sys; before = set(sys.modules)\n{code}\nprint(json.dumps([*set(sys.modules) - before]))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", script])))


def test_the_package_alone() -> None:
    assert modules_after("import holdfast") == {"holdfast"}


def test_a_verb_loads_only_what_a_client_needs() -> None:
    loaded = modules_after("import holdfast; holdfast.run")
    assert not loaded & {"asyncio", "click", "mcp", "pydantic", "sqlalchemy", "starlette", "uvicorn", "websockets"}
    assert not {name for name in loaded if name.startswith(("holdfast.cli", "holdfast.store"))}


def declared() -> list[tuple[str, str]]:
    tree = ast.parse(Path(holdfast.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    return [(str(node.module), alias.name) for node in imports for alias in node.names]


@pytest.mark.parametrize(("module", "name"), declared())
def test_every_declared_name_is_there(module: str, name: str) -> None:
    code = f"import holdfast; from {module} import {name}; assert holdfast.{name} is {name}, holdfast.{name}"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert name in dir(holdfast)


def test_no_name_is_undeclared() -> None:
    offered = {name for name in dir(holdfast) if not name.startswith("_")}
    submodules = {name for name in offered if f"holdfast.{name}" in sys.modules}
    assert offered - submodules <= {name for _, name in declared()} | {"TYPE_CHECKING"}


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        holdfast.nothing  # type: ignore[attr-defined]  # noqa: B018
