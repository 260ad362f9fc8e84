"""Python, the libraries that Holdfast is built on, and SQLite."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sqlite3
import sys
from typing import Final

from holdfast.doctor.check import BlockingCheck, Finding, Level

MINIMUM_PYTHON: Final = (3, 11)
#: Has everything that the schema and its triggers use.
MINIMUM_SQLITE: Final = (3, 35, 0)
#: Distributions with compiled parts, which can be installed and still not load: distribution -> module.
_COMPILED: Final = {
    "msgspec": "msgspec",
    "psutil": "psutil",
    "pybase64": "pybase64",
    "websockets": "websockets.speedups",
}
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:>=\s*([0-9.]+))?")
_AGAIN: Final = "Install Holdfast again, for example: pip install --force-reinstall holdfast"


class PythonCheck(BlockingCheck):
    """The interpreter is new enough."""

    id = "installation.python"
    title = "Python"

    def look(self) -> Finding:
        version = ".".join(map(str, sys.version_info[:3]))
        if sys.version_info[:2] < MINIMUM_PYTHON:
            return Finding(
                level=Level.ERROR,
                summary=f"Python {version} is older than {'.'.join(map(str, MINIMUM_PYTHON))}.",
                hint="Install Holdfast with a newer Python.",
            )
        return Finding(level=Level.OK, summary=f"Python {version}", detail=sys.executable)


class LibrariesCheck(BlockingCheck):
    """Every library is there, new enough, and loads."""

    id = "installation.libraries"
    title = "Libraries"
    timeout_s = 15.0

    def __init__(self, requirements: list[str] | None = None) -> None:
        """:param requirements: instead of those that the installed Holdfast declares"""
        self.requirements = requirements

    def look(self) -> Finding:
        requirements = self.requirements
        if requirements is None:
            try:
                requirements = importlib.metadata.requires("holdfast") or []
            except importlib.metadata.PackageNotFoundError:
                return Finding(level=Level.WARNING, summary="Holdfast runs without having been installed.", hint=_AGAIN)
        problems: list[str] = []
        versions: list[str] = []
        for requirement in requirements:
            declared, _, marker = requirement.partition(";")
            match = _REQUIREMENT.match(declared)
            if match is None or "extra" in marker:
                continue
            name, minimum = match.groups()
            try:
                version = importlib.metadata.version(name)
                if minimum is not None and _numbers(version) < _numbers(minimum):
                    problems.append(f"{name} {version} is older than {minimum}")
                if name in _COMPILED:
                    importlib.import_module(_COMPILED[name])
                versions.append(f"{name} {version}")
            except importlib.metadata.PackageNotFoundError:
                problems.append(f"{name} is missing")
            except ImportError as error:
                problems.append(f"{name} does not load: {error}")
        if problems:
            return Finding(
                level=Level.ERROR,
                summary=f"{len(problems)} libraries are missing, too old or broken.",
                detail="\n".join(problems),
                hint=_AGAIN,
            )
        return Finding(level=Level.OK, summary=f"{len(versions)} libraries", detail=", ".join(versions))


class SqliteCheck(BlockingCheck):
    """SQLite can do what the database needs."""

    id = "installation.sqlite"
    title = "SQLite"

    def look(self) -> Finding:
        hint = "Install a Python that comes with a newer SQLite."
        if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
            return Finding(
                level=Level.ERROR,
                summary=f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, MINIMUM_SQLITE))}.",
                hint=hint,
            )
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute("SELECT json_array('x', 1)").fetchone()
        except sqlite3.OperationalError as error:
            return Finding(
                level=Level.ERROR, summary="SQLite was built without JSON functions.", detail=str(error), hint=hint
            )
        finally:
            connection.close()
        return Finding(level=Level.OK, summary=f"SQLite {sqlite3.sqlite_version}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:4])
