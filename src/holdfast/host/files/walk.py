"""``fs/walk``: what is below a directory, breadth first and sorted, within limits."""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import Final

import msgspec

from holdfast.host.files.parameters import Walk, WalkOptions
from holdfast.host.files.place import locate, mode_behind, path_of, real_path
from holdfast.host.files.refusal import describe, refused
from holdfast.host.files.scope import Scope
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import RpcError, encode_json

#: The largest limits that a client may ask for, and the bytes of paths and texts in one answer (the reference
#: implementation's numbers).
DEPTH_LIMIT: Final = 64
DIRECTORY_LIMIT: Final = 10_000
ENTRY_LIMIT: Final = 50_000
ANSWER_LIMIT: Final = 4 * 1024 * 1024
#: What an entry counts for beside its path (or an error beside its path and text); measured on Codex CLI 0.169.
_OVERHEAD: Final = 64


class _Found(msgspec.Struct):
    path: str
    kind: str


class _Fault(msgspec.Struct):
    path: str
    message: str


class _Full(Exception):
    """A limit is reached."""


class _Walker:
    """One walk."""

    def __init__(self, scope: Scope, options: WalkOptions) -> None:
        self.entries: list[_Found] = []
        self.errors: list[_Fault] = []
        self._scope = scope
        self._options = options
        #: Names that were looked at; ``max_entries`` bounds these, not only what is listed.
        self._examined = 0
        self._size = 0
        self._seen: set[tuple[int, int]] = set()
        self._queue: deque[tuple[str, int]] = deque()

    def walk(self, top: str) -> bool:
        """Walk; returns whether something was left out."""
        self._queue.append((top, 0))
        directories = 0
        try:
            while self._queue:
                path, depth = self._queue.popleft()
                if directories >= self._options.max_directories:
                    return True
                directories += self._enter(path, depth)
        except _Full:
            return True
        return False

    def _enter(self, path: str, depth: int) -> bool:
        """List one directory; returns whether it was one that had not been seen."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | self._no_follow())
        except OSError as error:
            self._add_fault(path, describe(error))
            return False
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) in self._seen:
                return False
            self._seen.add((status.st_dev, status.st_ino))
            if self._scope.limited:
                self._scope.require(real_path(descriptor), write=False)
            with os.scandir(descriptor) as listing:
                for entry in sorted(listing, key=lambda entry: os.fsencode(entry.name)):
                    self._consider(entry, path, depth)
        except OSError as error:
            self._add_fault(path, describe(error))
        except RpcError as error:
            self._add_fault(path, error.message)
        finally:
            os.close(descriptor)
        return True

    def _no_follow(self) -> int:
        return 0 if self._options.follow_directory_symlinks else os.O_NOFOLLOW

    def _consider(self, entry: os.DirEntry[str], directory: str, depth: int) -> None:
        path = os.path.join(directory, entry.name)
        try:
            linked = entry.is_symlink()
            mode = mode_behind(entry, directory, self._scope)
        except OSError as error:
            if not entry.is_symlink():
                self._add_fault(path, describe(error))
            return
        self._check_room()
        self._examined += 1
        if linked and not self._options.follow_directory_symlinks:
            return
        if stat.S_ISDIR(mode):
            self._add(path, "directory")
            hidden = self._options.prune_hidden_directories and entry.name.startswith(".")
            if depth < self._options.max_depth and not hidden:
                self._queue.append((path, depth + 1))
        elif stat.S_ISREG(mode) and not linked:
            self._add(path, "file")

    def _add(self, path: str, kind: str) -> None:
        found = _Found(path_to_uri(path), kind)
        self._count(len(found.path))
        self.entries.append(found)

    def _add_fault(self, path: str, message: str) -> None:
        self._check_room()
        fault = _Fault(path_to_uri(path), message)
        self._count(len(fault.path) + len(message))
        self.errors.append(fault)

    def _check_room(self) -> None:
        if self._examined + len(self.errors) >= self._options.max_entries:
            raise _Full

    def _count(self, size: int) -> None:
        self._size += size + _OVERHEAD
        if self._size > ANSWER_LIMIT:
            raise _Full


def walk(scope: Scope, params: Walk) -> bytes:
    """Entries, errors, and whether a limit cut it short; nothing is below a file or a symlink.

    :raises OSError: the path does not exist, ...
    :raises RpcError: limits out of range
    """
    options = params.options
    if not options.max_directories or not options.max_entries:
        raise refused("filesystem walk limits must be greater than zero")
    if (
        options.max_depth > DEPTH_LIMIT
        or options.max_directories > DIRECTORY_LIMIT
        or options.max_entries > ENTRY_LIMIT
    ):
        raise refused(
            f"filesystem walk limits exceed maximums: depth={DEPTH_LIMIT}, directories={DIRECTORY_LIMIT}, "
            f"entries={ENTRY_LIMIT}"
        )
    path = path_of(params.path)
    with locate(path, scope) as place:
        directory = stat.S_ISDIR(place.status().st_mode) and (not place.linked or options.follow_directory_symlinks)
    walker = _Walker(scope, options)
    truncated = walker.walk(path) if directory else False
    return encode_json({"entries": walker.entries, "errors": walker.errors, "truncated": truncated})
