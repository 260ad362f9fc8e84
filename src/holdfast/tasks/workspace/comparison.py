"""One git repository before and after: which files are not as they were."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Final

import msgspec

from holdfast.clock import monotonic
from holdfast.tasks.workspace.fingerprint import (
    HASH_FILE_BYTES,
    ChangeKind,
    DeadlineExceeded,
    Fingerprint,
    Fingerprinter,
    difference,
    read_small_file,
)
from holdfast.tasks.workspace.git import Entry, Status, TreeChange, is_gitlink

#: Files that are compared by content to tell a rename from a deletion and an addition.
_RENAME_CANDIDATES: Final = 1000


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """One repository as it was: the task's own, or one inside it."""

    #: Where it lies below the root of the task's own repository; empty for that one.
    prefix: bytes
    submodule: bool = False
    head: str | None
    #: Everything that was not as in ``head``.
    dirty: list[Fingerprint]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One file that is not as it was."""

    path: bytes
    kind: ChangeKind
    #: It differed from the commit before, too.
    was_dirty: bool = False
    renamed_from: bytes | None = None


class Comparison:
    """One repository, before and after.

    A file that was dirty before is compared with its fingerprint.  Every other file was as in the commit of that time,
    so its content then is known by its object name.
    """

    def __init__(
        self, fingerprinter: Fingerprinter, before: Repository, after: Status, committed: dict[bytes, TreeChange]
    ) -> None:
        self._fingerprinter = fingerprinter
        self._dirty = {file.path: file for file in before.dirty}
        self._after = after
        self._committed = committed

    def differences(self) -> list[Difference]:
        """Every file that is not as it was, by path."""
        kinds: dict[bytes, ChangeKind] = {}
        for path in self._dirty.keys() | self._after.entries.keys() | self._committed.keys():
            if path in self._dirty:
                kind = difference(self._dirty[path], self._fingerprinter.take(path))
            else:
                kind = self._change_of_clean(path)
            if kind is not None:
                kinds[path] = kind
        renames = self._renames(kinds)
        gone = set(renames.values())
        return [
            Difference(
                path=path,
                kind=ChangeKind.RENAMED if path in renames else kinds[path],
                was_dirty=path in self._dirty or renames.get(path) in self._dirty,
                renamed_from=renames.get(path),
            )
            for path in sorted(kinds)
            if path not in gone
        ]

    def _before(self, path: bytes) -> tuple[str, str] | None:
        """What a path that was not dirty held: (mode, object name)."""
        if path in self._committed:
            return self._committed[path].before
        entry = self._after.entries.get(path)
        return entry.head if entry is not None else None

    def _change_of_clean(self, path: bytes) -> ChangeKind | None:
        before = self._before(path)
        entry = self._after.entries.get(path)
        after = self._committed[path].after if entry is None else self._now(path, entry, before)
        if before is None or after is None:
            if before is None and after is None:
                return None
            return ChangeKind.ADDED if before is None else ChangeKind.DELETED
        if before[1] != after[1] or before[0][:3] != after[0][:3]:
            return ChangeKind.MODIFIED
        return ChangeKind.MODE if before[0] != after[0] else None

    def _now(self, path: bytes, entry: Entry, before: tuple[str, str] | None) -> tuple[str, str] | None:
        if not entry.present:
            return None
        if entry.clean and entry.index is not None:
            return entry.index
        full = os.path.join(self._fingerprinter.root, path)
        try:
            status = os.lstat(full)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return before if is_gitlink(before) else None
        executable = "100755" if status.st_mode & stat.S_IXUSR else "100644"
        mode = "120000" if stat.S_ISLNK(status.st_mode) else executable
        if monotonic() > self._fingerprinter.deadline:
            raise DeadlineExceeded
        content = read_small_file(full, status, HASH_FILE_BYTES) if before is not None else None
        # Without the content the file counts as different: git says so too.
        return (mode, "" if content is None or before is None else _object_name(content, like=before[1]))

    def _renames(self, kinds: dict[bytes, ChangeKind]) -> dict[bytes, bytes]:
        """Which added files are deleted ones under a new name: as git says, else by identical content."""
        added = {path for path, kind in kinds.items() if kind is ChangeKind.ADDED}
        deleted = {path for path, kind in kinds.items() if kind is ChangeKind.DELETED}
        renames: dict[bytes, bytes] = {}
        for path in sorted(added):
            for known in (self._committed.get(path), self._after.entries.get(path)):
                source = known.renamed_from if known is not None else None
                if source is not None and source in deleted and path not in renames:
                    renames[path] = source
                    deleted.discard(source)
        candidates = sorted(added - renames.keys())
        if not deleted or len(candidates) > _RENAME_CANDIDATES or len(deleted) > _RENAME_CANDIDATES:
            return renames
        by_content: dict[str, bytes] = {}
        lengths: set[int] = set()
        for path in sorted(deleted, reverse=True):
            before = self._before(path)
            name = self._dirty[path].digest if path in self._dirty else before[1] if before is not None else None
            if name is not None:
                by_content[name] = path
                lengths.add(len(name))
        for path in candidates:
            full = os.path.join(self._fingerprinter.root, path)
            try:
                content = read_small_file(full, os.lstat(full), HASH_FILE_BYTES)
            except OSError:
                continue
            if not content:
                continue
            names = [hashlib.sha256(content).hexdigest(), *(_object_name(content, like="0" * n) for n in lengths)]
            source = next((by_content.pop(name) for name in names if name in by_content), None)
            if source is not None:
                renames[path] = source
        return renames


def _object_name(content: bytes, *, like: str) -> str:
    """Git's name for a file of this content, in the hash that the name *like* is made with."""
    data = b"blob %d\0%s" % (len(content), content)
    return hashlib.sha256(data).hexdigest() if len(like) == 64 else hashlib.sha1(data).hexdigest()
