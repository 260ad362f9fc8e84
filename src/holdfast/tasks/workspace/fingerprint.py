"""Fingerprints of files: enough to tell later whether a file is still what it was, without keeping a copy of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.clock import monotonic

#: Content is read only of files up to this size; of larger ones size, times and inode number must do.
HASH_FILE_BYTES: Final = 1 << 20
#: Bytes read for all fingerprints of one directory together.
HASH_TOTAL_BYTES: Final = 64 << 20
#: Entries that a scan looks at before it leaves the rest out.
SCAN_ENTRIES: Final = 50_000


class ChangeKind(StrEnum):
    """What happened to a file."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RENAMED = "renamed"
    #: Only the permissions.
    MODE = "mode"


class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """A file as it was.  Paths are bytes: they need not be text."""

    path: bytes
    #: ``st_mode``; 0 means that there was no file.
    mode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    #: SHA-256 of the content (of the target of a symlink), where it was read.
    digest: str | None = None


class DeadlineExceeded(Exception):
    """Looking at the files takes longer than it may."""


class Fingerprinter:
    """Takes fingerprints below one directory until its deadline; reads at most :data:`HASH_TOTAL_BYTES`."""

    def __init__(self, root: bytes, deadline: float) -> None:
        """:param deadline: a reading of :func:`holdfast.clock.monotonic`"""
        self.root = root
        self.deadline = deadline
        self._bytes_left = HASH_TOTAL_BYTES

    def take(self, path: bytes) -> Fingerprint:
        """The fingerprint of *path* (relative to the root); a directory counts as no file.

        :raises DeadlineExceeded: it is too late
        """
        if monotonic() > self.deadline:
            raise DeadlineExceeded
        full = os.path.join(self.root, path)
        try:
            status = os.lstat(full)
        except OSError:
            return Fingerprint(path)
        if stat.S_ISDIR(status.st_mode):
            return Fingerprint(path)
        return Fingerprint(
            path,
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            self._digest(full, status),
        )

    def take_all(self, paths: Iterable[bytes]) -> list[Fingerprint]:
        """Fingerprints of all *paths*, in their order."""
        return [self.take(path) for path in paths]

    def _digest(self, full: bytes, status: os.stat_result) -> str | None:
        content = read_small_file(full, status, min(HASH_FILE_BYTES, self._bytes_left))
        if content is None:
            return None
        self._bytes_left -= len(content)
        return hashlib.sha256(content).hexdigest()


def read_small_file(full: bytes, status: os.stat_result, limit: int) -> bytes | None:
    """The content of a regular file (the target of a symlink); ``None`` if it is longer, unreadable or another kind."""
    try:
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(full)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        # Not to be led astray, nor kept waiting, by what may have taken the file's place meanwhile.
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = file.read(limit + 1)
    except OSError:
        return None
    return content if len(content) <= limit else None


def difference(before: Fingerprint, after: Fingerprint) -> ChangeKind | None:
    """What happened between two fingerprints of one path; ``None`` if nothing that can be seen."""
    if before.mode == 0 or after.mode == 0:
        if before.mode == after.mode:
            return None
        return ChangeKind.ADDED if before.mode == 0 else ChangeKind.DELETED
    if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode) or before.size != after.size:
        return ChangeKind.MODIFIED
    if before.digest is not None and after.digest is not None:
        same = before.digest == after.digest
    else:
        same = (before.mtime_ns, before.inode) == (after.mtime_ns, after.inode)
        if before.mode == after.mode:
            # A content that was exchanged and given its old time again still shows here.
            same = same and before.ctime_ns == after.ctime_ns
    if not same:
        return ChangeKind.MODIFIED
    return ChangeKind.MODE if before.mode != after.mode else None


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """All files below a directory, repositories' own ``.git`` left out."""

    files: list[Fingerprint]
    #: Directories (relative) that were not looked into: too many entries in all, or not readable.
    skipped: list[bytes]


def scan(fingerprinter: Fingerprinter, top: bytes = b"", skip: Iterable[bytes] = ()) -> Scan:
    """Walk everything below *top* without following symlinks.

    Directories are taken whole or not at all, so that two scans can be compared even where they were cut short.

    :raises DeadlineExceeded: it takes too long
    """
    files: list[Fingerprint] = []
    left_out = set(skip)
    skipped: list[bytes] = []
    entries = 0
    pending = [top]
    for directory in pending:
        if directory in left_out:
            skipped.append(directory)
            continue
        try:
            with os.scandir(os.path.join(fingerprinter.root, directory) or b".") as listing:
                children: list[tuple[bytes, bool]] = []
                for entry in listing:
                    if entries + len(children) >= SCAN_ENTRIES:
                        break
                    children.append((entry.name, entry.is_dir(follow_symlinks=False)))
                else:
                    entries += len(children)
                    for name, is_directory in sorted(children):
                        path = os.path.join(directory, name)
                        if not is_directory:
                            files.append(fingerprinter.take(path))
                        elif name != b".git":
                            pending.append(path)
                    continue
        except OSError:
            pass
        skipped.append(directory)
    return Scan(files=files, skipped=skipped)


def compare_scans(before: Scan, after: Scan) -> dict[bytes, ChangeKind]:
    """What changed between two scans, leaving out what either of them did not look into."""
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    unseen = {*before.skipped, *after.skipped}
    changes: dict[bytes, ChangeKind] = {}
    for path in sorted(old.keys() | new.keys()):
        kind = difference(old.get(path, Fingerprint(path)), new.get(path, Fingerprint(path)))
        if kind is not None and not (unseen and _is_below(path, unseen)):
            changes[path] = kind
    return changes


def _is_below(path: bytes, directories: set[bytes]) -> bool:
    while path:
        path = os.path.dirname(path)
        if path in directories:
            return True
    return False
