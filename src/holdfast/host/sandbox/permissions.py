"""What a client says about a sandbox, as the exec-server protocol of Codex CLI 0.169 writes it.

The context is camelCase, what is inside ``permissions`` snake_case.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec


class Access(StrEnum):
    """What may be done with what an entry names."""

    READ = "read"
    WRITE = "write"
    DENY = "deny"


class Special(msgspec.Struct, frozen=True):
    """A place that is known by what it is for."""

    kind: str
    subpath: str | None = None


class SpecialPath(msgspec.Struct, frozen=True, tag_field="type", tag="special"):
    """An entry for a special place."""

    value: Special


class PlainPath(msgspec.Struct, frozen=True, tag_field="type", tag="path"):
    """An entry for an absolute path, native or as a ``file:`` URI."""

    path: str


class GlobPattern(msgspec.Struct, frozen=True, tag_field="type", tag="glob_pattern"):
    """An entry for everything that matches."""

    pattern: str


class Entry(msgspec.Struct, frozen=True):
    """One line of the permissions."""

    path: SpecialPath | PlainPath | GlobPattern
    access: Access
    missing_path_behavior: Literal["skip"] | None = None


class FileSystem(msgspec.Struct, frozen=True):
    """Which files: ``unrestricted``, or ``restricted`` to the entries."""

    type: str
    entries: list[Entry] = []
    glob_scan_max_depth: int | None = None


class Permissions(msgspec.Struct, frozen=True):
    """``managed`` by us, ``disabled``, or enforced by somebody ``external``."""

    type: str
    file_system: FileSystem | None = None
    network: Any = None


class SandboxContext(msgspec.Struct, frozen=True, rename="camel"):
    """The ``sandbox`` member of a request."""

    permissions: Permissions
    cwd: str | None = None
    workspace_roots: list[str] | None = None
    windows_sandbox_level: Any = None
    use_legacy_landlock: bool = False
