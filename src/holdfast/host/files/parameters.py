"""The parameters of the ``fs/*`` methods, as the exec-server protocol of Codex CLI 0.169 names them.

A path that is no URI and a number that has no 64 bits are faults of the parameters: they are found before anything else
is looked at, as with the reference implementation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from holdfast.host.files.place import require_path
from holdfast.host.parameters import NumberParameters, Parameters, Unsigned
from holdfast.host.sandbox.permissions import SandboxContext

#: Where the reference implementation does not know ``followSymlinks`` it may be anything; here false counts.
Unasked = Any


class FileParameters(Parameters, frozen=True, kw_only=True):
    """What every method of files takes."""

    sandbox: SandboxContext | None = None


class OnePath(FileParameters, frozen=True, kw_only=True):
    """``fs/canonicalize``."""

    path: str

    def __post_init__(self) -> None:
        require_path(self.path)


class Directory(OnePath, frozen=True, kw_only=True):
    """``fs/readDirectory``."""

    follow_symlinks: Unasked = None


class ReadFile(OnePath, frozen=True, kw_only=True):
    follow_symlinks: bool | None = None


class GetMetadata(OnePath, frozen=True, kw_only=True):
    follow_symlinks: bool | None = None


class WriteFile(OnePath, frozen=True, kw_only=True):
    data_base64: str = msgspec.field(name="dataBase64")
    follow_symlinks: bool | None = None


class CreateDirectory(OnePath, frozen=True, kw_only=True):
    recursive: bool | None = True
    follow_symlinks: bool | None = None


class Remove(OnePath, frozen=True, kw_only=True):
    recursive: bool | None = True
    force: bool | None = True
    follow_symlinks: bool | None = None


class Copy(FileParameters, frozen=True, kw_only=True):
    source_path: str
    destination_path: str
    recursive: bool
    follow_symlinks: Unasked = None

    def __post_init__(self) -> None:
        require_path(self.source_path)
        require_path(self.destination_path)


class WalkOptions(NumberParameters, frozen=True, kw_only=True):
    max_depth: Unsigned
    max_directories: Unsigned
    max_entries: Unsigned
    follow_directory_symlinks: bool
    prune_hidden_directories: bool = False


class Walk(OnePath, frozen=True, kw_only=True):
    options: WalkOptions


class OpenMode(StrEnum):
    """What a handle is for."""

    READ = "read"
    REPLACE = "replace"


class Open(OnePath, frozen=True, kw_only=True):
    handle_id: str
    mode: OpenMode = OpenMode.READ
    follow_symlinks: Unasked = None


class ReadBlock(NumberParameters, frozen=True, kw_only=True):
    handle_id: str
    offset: Unsigned
    len: Unsigned


class WriteBlock(NumberParameters, frozen=True, kw_only=True):
    handle_id: str
    offset: Unsigned
    chunk: str


class Close(Parameters, frozen=True, kw_only=True):
    handle_id: str


class WatchMissing(FileParameters, NumberParameters, frozen=True, kw_only=True):
    watch_id: Unsigned
    missing: list[str]
    present: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for uri in (*self.missing, *(() if self.present is None else (self.present,))):
            require_path(uri)
