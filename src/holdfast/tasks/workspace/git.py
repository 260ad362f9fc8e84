"""Asking git about a repository that we do not trust: read-only, bounded, and starting nothing of the repository's.

The agent whose work is looked at may have written the repository's configuration, so what that could start is off
(:mod:`holdfast.tasks.untrusted_repository`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

import msgspec

from holdfast.clock import monotonic
from holdfast.tasks import untrusted_repository

#: Bytes of output of one git command; some hundred thousand paths.
_OUTPUT_LIMIT: Final = 64 << 20
_GITLINK: Final = "160000"


class GitFailed(Exception):
    """Git is missing, refused, or answered what we do not understand; the message is for people."""


class GitTooSlow(GitFailed):
    """Git did not answer in time; it was ended."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One path in ``git status --porcelain=v2``: what it is in HEAD, in the index, and in the working tree."""

    #: In HEAD: mode and object name; ``None`` if it is not there.
    head: tuple[str, str] | None
    #: In the index; ``None`` if it is not there (or in conflict).
    index: tuple[str, str] | None
    #: The working tree holds what the index holds.
    clean: bool
    #: The path exists in the working tree.
    present: bool
    #: What it was called in HEAD, if git takes it for renamed.
    renamed_from: bytes | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one repository.  Paths are relative to its root."""

    #: The commit that is checked out; ``None`` before the first one.
    head: str | None
    entries: dict[bytes, Entry]
    #: Repositories inside that git shows as one untracked entry.
    nested: list[bytes]


class TreeChange(msgspec.Struct, frozen=True, kw_only=True):
    """How a path differs between two commits: (mode, object name) in each, ``None`` where it is not there."""

    before: tuple[str, str] | None
    after: tuple[str, str] | None
    renamed_from: bytes | None = None


class Git:
    """Git commands in one directory, all of them over by one deadline."""

    def __init__(self, directory: bytes, deadline: float, *, is_root: bool = False) -> None:
        """
        :param deadline: a reading of :func:`holdfast.clock.monotonic`
        :param is_root: never take *directory* for a part of a repository further up
        """
        self.directory = directory
        self._ceiling = os.path.dirname(directory) if is_root else None
        self._deadline = deadline
        self._filters_off: list[str] | None = None

    async def root(self) -> bytes:
        """The root of the working tree that the directory is in.

        :raises GitFailed: it is in none (inside a ``.git`` directory, for instance)
        """
        inside, _, up = (await self._run("rev-parse", "--is-inside-work-tree", "--show-cdup")).partition(b"\n")
        if inside != b"true":
            raise GitFailed("the directory is not part of a working tree")
        return _normal(os.path.join(self.directory, up.rstrip(b"\n")))

    async def is_ignored(self) -> bool:
        """Whether the directory itself is ignored by its repository."""
        return await self._output("check-ignore", "--", ".") != b""

    async def status(self) -> Status:
        """Everything in the repository that differs from HEAD, untracked files included, ignored ones not."""
        filters_off = await self._disabled_filters()
        output = await self._run(
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--untracked-files=all",
            "--ignore-submodules=dirty",
            settings=filters_off,
        )
        return parse_status(output)

    async def changes_between(self, before: str, after: str) -> dict[bytes, TreeChange]:
        """What differs between two commits, without looking at the working tree."""
        common = ("diff", "--raw", "-z", "--no-abbrev", "--no-ext-diff", "--no-textconv")
        # Without "--", git would look for a file of that name too.
        try:
            output = await self._run(*common, "-M", before, after, "--")
        except GitTooSlow:
            raise
        except GitFailed:
            # Telling renames needs contents, which a partial clone may not have.
            output = await self._run(*common, "--no-renames", before, after, "--")
        return parse_raw_diff(output)

    async def files(self, commit: str) -> dict[bytes, tuple[str, str]]:
        """Every file of a commit: (mode, object name)."""
        output = await self._run("ls-tree", "-r", "-z", "--full-tree", commit)
        found: dict[bytes, tuple[str, str]] = {}
        for item in output.split(b"\0"):
            if item:
                about, _, path = item.partition(b"\t")
                mode, _, name = about.split(b" ")
                found[path] = (mode.decode(), name.decode())
        return found

    async def tracked(self, directory: bytes) -> list[bytes]:
        """The paths below *directory* that the index has."""
        pathspec = ":(literal)" + os.fsdecode(directory)
        return [path for path in (await self._run("ls-files", "-z", "--", pathspec)).split(b"\0") if path]

    async def submodules(self) -> list[bytes]:
        """The paths that ``.gitmodules`` names; untrusted, and possibly not there."""
        if not _is_file(os.path.join(self.directory, b".gitmodules")):
            return []
        found = await self._output("config", "-z", "-f", ".gitmodules", "--get-regexp", r"^submodule\..+\.path$")
        return [item.partition(b"\n")[2] for item in found.split(b"\0") if item]

    async def _disabled_filters(self) -> list[str]:
        """Settings that turn off every filter program which the repository itself (not the user) configures."""
        if self._filters_off is not None:
            return self._filters_off
        try:
            settings = untrusted_repository.filters_off(await self._output(*untrusted_repository.FILTER_QUERY))
        except ValueError as error:
            raise GitFailed(str(error)) from None
        self._filters_off = settings
        return settings

    async def _run(self, *arguments: str, settings: list[str] | None = None) -> bytes:
        returncode, output, complaint = await self._execute(arguments, settings or [])
        if returncode != 0:
            raise GitFailed(complaint or f"git {arguments[0]} ended with status {returncode}")
        return output

    async def _output(self, *arguments: str) -> bytes:
        """Output of a command that says "nothing found" with status 1."""
        returncode, output, complaint = await self._execute(arguments, [])
        if returncode not in (0, 1):
            raise GitFailed(complaint or f"git {arguments[0]} ended with status {returncode}")
        return output

    async def _execute(self, arguments: tuple[str, ...], settings: list[str]) -> tuple[int, bytes, str]:
        command = untrusted_repository.command((untrusted_repository.NO_TRANSPORT, *settings))
        ceiling = None if self._ceiling is None else os.fsdecode(self._ceiling)
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command,
                *arguments,
                cwd=self.directory,
                env=untrusted_repository.environment(ceiling=ceiling),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A start that is cancelled ends git alone, and waits for what git started as long as that holds a pipe.
            with contextlib.suppress(OSError):
                await _end(await starting)
            raise
        except FileNotFoundError:
            raise GitFailed(f"git is not installed, or {os.fsdecode(self.directory)!r} is gone") from None
        except OSError as error:
            raise GitFailed(f"git cannot be started: {error}") from None
        assert process.stdout is not None and process.stderr is not None
        try:
            async with asyncio.timeout(max(0.0, self._deadline - monotonic())):
                output, complaints = await asyncio.gather(_read_bounded(process.stdout), _read_bounded(process.stderr))
                returncode = await process.wait()
        except TimeoutError:
            raise GitTooSlow(f"git {arguments[0]} did not answer in time") from None
        finally:
            await _end(process)
        complaint = complaints.decode("utf-8", "backslashreplace").strip()
        return returncode, output, complaint.splitlines()[0][:300] if complaint else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """End git with everything that it started."""
    # The leader is reaped only by whoever waits for it here or above, so its group is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _read_bounded(stream: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > _OUTPUT_LIMIT:
            raise GitFailed("git has too much to say about this repository")
    return b"".join(chunks)


def marks_repository(path: bytes) -> bool:
    """Whether *path*, a ``.git``, is something; an empty directory is not: Codex's sandbox leaves one in ``/tmp``."""
    try:
        return bool(os.listdir(path))
    except FileNotFoundError:
        return os.path.islink(path)
    except OSError:
        # A file, as in a worktree, or what cannot be read.
        return True


def _normal(path: bytes) -> bytes:
    return os.path.normpath(path)


def _is_file(path: bytes) -> bool:
    return os.path.isfile(path)


def _object(mode: bytes, name: bytes) -> tuple[str, str] | None:
    """A side of a change; git writes zeros for "not there"."""
    return None if not mode.strip(b"0") else (mode.decode(), name.decode())


def parse_status(output: bytes) -> Status:
    """Read ``git status --porcelain=v2 --branch -z`` (format: git-status(1)).

    :raises GitFailed: it is something else
    """
    head: str | None = None
    entries: dict[bytes, Entry] = {}
    nested: list[bytes] = []
    untracked: list[bytes] = []
    items = iter(output.split(b"\0"))
    try:
        for item in items:
            match item[:2]:
                case b"# ":
                    if item.startswith(b"# branch.oid ") and not item.endswith(b"(initial)"):
                        head = item.split(b" ")[2].decode()
                case b"1 ":
                    _, xy, _, m_head, m_index, m_work, h_head, h_index, path = item.split(b" ", 8)
                    entries[path] = _tracked(xy, m_head, m_index, m_work, h_head, h_index)
                case b"2 ":
                    _, xy, _, m_head, m_index, m_work, h_head, h_index, score, path = item.split(b" ", 9)
                    source = next(items)
                    entry = _tracked(xy, m_head, m_index, m_work, h_head, h_index)
                    if score.startswith(b"R"):
                        gone = Entry(head=entry.head, index=None, clean=True, present=False)
                        entries.setdefault(source, gone)
                        entry = msgspec.structs.replace(entry, head=None, renamed_from=source)
                    else:
                        entry = msgspec.structs.replace(entry, head=None)
                    entries[path] = entry
                case b"u ":
                    _, _, _, _, m_ours, _, m_work, _, h_ours, _, path = item.split(b" ", 10)
                    entries[path] = Entry(
                        head=_object(m_ours, h_ours), index=None, clean=False, present=bool(m_work.strip(b"0"))
                    )
                case b"? ":
                    path = item[2:]
                    (nested if path.endswith(b"/") else untracked).append(path.rstrip(b"/"))
                case _:
                    pass
    except (ValueError, StopIteration):
        raise GitFailed("git status answered in a form that is not known") from None
    for path in untracked:
        known = entries.get(path)
        entries[path] = Entry(head=known.head if known else None, index=None, clean=False, present=True)
    return Status(head=head, entries=entries, nested=nested)


def _tracked(xy: bytes, m_head: bytes, m_index: bytes, m_work: bytes, h_head: bytes, h_index: bytes) -> Entry:
    in_index = _object(m_index, h_index)
    return Entry(
        head=_object(m_head, h_head),
        index=in_index,
        clean=xy[1:] == b".",
        present=bool(m_work.strip(b"0")) and xy[1:] != b"D" and (in_index is not None or xy[1:] != b"."),
    )


def parse_raw_diff(output: bytes) -> dict[bytes, TreeChange]:
    """Read ``git diff --raw -z --no-abbrev`` (format: git-diff-index(1)); a rename is a deletion and an addition.

    :raises GitFailed: it is something else
    """
    changes: dict[bytes, TreeChange] = {}
    items = iter(output.split(b"\0"))
    try:
        for item in items:
            if not item:
                continue
            old_mode, new_mode, old_name, new_name, letter = item.lstrip(b":").split(b" ")
            before, after = _object(old_mode, old_name), _object(new_mode, new_name)
            path = next(items)
            if letter[:1] in (b"R", b"C"):
                source, path = path, next(items)
                if letter[:1] == b"R":
                    changes[source] = TreeChange(before=before, after=None)
                    changes[path] = TreeChange(before=None, after=after, renamed_from=source)
                else:
                    changes[path] = TreeChange(before=None, after=after)
            else:
                changes[path] = TreeChange(before=before, after=after)
    except (ValueError, StopIteration):
        raise GitFailed("git diff answered in a form that is not known") from None
    return changes


def is_gitlink(side: tuple[str, str] | None) -> bool:
    """Whether a side of a change is a submodule's commit, not a file."""
    return side is not None and side[0] == _GITLINK
