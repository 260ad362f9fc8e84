"""What a prompted review is shown of the repository: the changes themselves when they are few, else how to get them.

What is shown is written by whoever wrote the repository: it is quoted to the agent as data (:mod:`.prompts`).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Final

import msgspec

from holdfast.tasks.review.repository import Repository
from holdfast.tasks.review.targets import NothingToReview, Target, TargetKind

#: Changes in up to this many files are shown whole, if they have ...
INLINE_FILES: Final = 2
#: ... at most this many bytes, untracked files included.
INLINE_BYTES: Final = 256 << 10
#: An untracked file beyond this is named only.
UNTRACKED_FILE_BYTES: Final = 24 << 10
#: All untracked files that are shown, together.
UNTRACKED_BYTES: Final = 96 << 10
#: Characters of what is said about branch and commits.
STATE_LENGTH: Final = 16 << 10
#: Characters of a name.
_NAME_LENGTH: Final = 500
#: Changed files that are listed by name.
LISTED_FILES: Final = 300
#: Commits that are listed.
LISTED_COMMITS: Final = 50

#: Names of files that usually hold secrets, in lower case.
_SECRET_NAMES: Final = re.compile(
    r"\.env(\..*)?|.*\.env|\.(netrc|npmrc|pypirc|htpasswd|git-credentials|pgpass|vault[-_]pass.*)|auth\.json"
    r"|id_(rsa|dsa|ecdsa|ed25519)[^.]*|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg|tfstate|tfvars|ovpn)"
    r"|.*(credential|secret|service[-_]?account|passw).*\.(json|ya?ml|toml|ini|txt|env|cfg|conf|properties)"
    r"|(credentials?|secrets?|passwords?)"
)
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")


class Section(msgspec.Struct, frozen=True):
    """One quoted part of the material."""

    title: str
    text: str


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the changes before the agent looks by itself."""

    #: Whether the changes are shown whole.
    inline: bool
    #: Changed files in all.
    files: int
    #: One sentence for people.
    summary: str
    sections: list[Section]
    #: Read-only commands that show the changes.
    commands: list[str]


def collect(repository: Repository, target: Target) -> Material:
    """Look at the changes.

    :raises NothingToReview: there are none
    """
    changed = changed_files(repository, target)
    untracked = _untracked(repository) if target.kind is TargetKind.UNCOMMITTED else []
    count = len({path for _, path in changed} | set(untracked))
    if count == 0:
        raise NothingToReview(
            f"There is nothing to review: no {_what(target)}.",
            hint="Choose another target; see: holdfast review --help",
        )
    shown, left_out = _read_untracked(repository.root, untracked)
    patches = _patches(repository, target) if count <= INLINE_FILES else None
    inline = patches is not None and _size(patches) + _size(shown) <= INLINE_BYTES
    sections = [_state(repository, target)]
    if inline:
        assert patches is not None
        sections += patches
    else:
        sections.append(_listing(changed, untracked))
    sections += shown
    if left_out:
        sections.append(Section("Untracked files that are not shown", "\n".join(left_out)))
    files = f"{count} changed file{'s' * (count != 1)}"
    how = "shown whole" if inline else "listed; the agent looks at them itself"
    return Material(
        inline=inline,
        files=count,
        summary=f"{files}, {how}",
        sections=[section for section in sections if section.text.strip()],
        commands=_commands(target),
    )


def changed_files(repository: Repository, target: Target) -> list[tuple[str, bytes]]:
    """Tracked files that differ, each with git's letter for how."""
    if target.kind is TargetKind.UNCOMMITTED:
        base = (
            "HEAD" if repository.commit("HEAD") is not None else repository.text("hash-object", "-t", "tree", "--stdin")
        )
        arguments = [base]
    else:
        assert target.base is not None
        assert target.head is not None
        arguments = [target.base, target.head]
    flags = ("--name-status", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")
    answer = repository.ask("diff", *flags, *arguments, "--", filters=True)
    fields = answer.output.split(b"\0")
    return [(letter.decode(), path) for letter, path in zip(fields[::2], fields[1::2], strict=False) if path]


def _untracked(repository: Repository) -> list[bytes]:
    return repository.paths("ls-files", "-z", "--others", "--exclude-standard", "--full-name", "--", ":/")


def _patches(repository: Repository, target: Target) -> list[Section] | None:
    """The changes themselves, or ``None`` if they are too many."""
    if target.kind is TargetKind.UNCOMMITTED:
        wanted = [("Staged changes", ["--cached"]), ("Unstaged changes", list[str]())]
    else:
        assert target.base is not None
        assert target.head is not None
        wanted = [("Changes", [target.base, target.head])]
    sections: list[Section] = []
    for title, arguments in wanted:
        answer = repository.diff(*arguments, "--", limit=INLINE_BYTES)
        if answer.cut:
            return None
        sections.append(Section(title, readable(answer.output)))
    return sections


def _state(repository: Repository, target: Target) -> Section:
    head = repository.ask("symbolic-ref", "--quiet", "--short", "HEAD", accept=range(2)).output
    lines = [f"checked out: {readable(head).strip() or 'a detached commit'}"]
    if target.base is not None and target.head is not None:
        lines += [f"from: {target.base}", f"to:   {target.head}"]
        if target.kind is not TargetKind.COMMIT:
            span = f"{target.base}..{target.head}"
            log = ("log", f"-{LISTED_COMMITS}", "--no-show-signature", "--no-color", "--no-decorate", "--oneline", span)
            lines += ["commits:", readable(repository.ask(*log, "--").output).rstrip()]
        else:
            log = ("log", "-1", "--no-show-signature", "--no-color", "--no-decorate", "--format=%an%n%B", target.head)
            lines += ["message:", readable(repository.ask(*log, "--").output).rstrip()]
    return Section("State of the repository", "\n".join(lines)[:STATE_LENGTH])


def _listing(changed: list[tuple[str, bytes]], untracked: list[bytes]) -> Section:
    lines = [f"{letter}  {_quoted(path)}" for letter, path in changed] + [f"?  {_quoted(path)}" for path in untracked]
    if len(lines) > LISTED_FILES:
        lines = [*lines[:LISTED_FILES], f"... and {len(lines) - LISTED_FILES} more"]
    return Section("Changed files (A added, M modified, D deleted, T type, ? untracked)", "\n".join(lines))


def _read_untracked(root: Path, paths: list[bytes]) -> tuple[list[Section], list[str]]:
    """Untracked files as far as they are shown, and why others are not."""
    shown: list[Section] = []
    left_out: list[str] = []
    room = UNTRACKED_BYTES
    for path in paths:
        text, reason = _read_text(root, path, room)
        if text is None:
            if len(left_out) < LISTED_FILES:
                left_out.append(f"{_quoted(path)}: {reason}")
        else:
            shown.append(Section(f"Untracked file {_quoted(path)}", text))
            room -= len(text.encode())
    return shown, left_out


def _read_text(root: Path, path: bytes, room: int) -> tuple[str | None, str]:
    name = os.fsdecode(path.rstrip(b"/").rpartition(b"/")[2])
    if path.endswith(b"/"):
        return None, "a repository of its own"
    if _SECRET_NAMES.fullmatch(name.lower()):
        return None, "it may hold secrets"
    try:
        data = _read(root, path)
    except OSError as error:
        return None, f"it cannot be read ({error.strerror})"
    if data is None:
        return None, "not a regular file"
    if len(data) > UNTRACKED_FILE_BYTES:
        return None, f"longer than {UNTRACKED_FILE_BYTES >> 10} KiB"
    if b"\0" in data:
        return None, "binary"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None, "not UTF-8"
    if _PRIVATE_KEY.search(data):
        return None, "it may hold secrets"
    if len(data) > room:
        return None, f"more than {UNTRACKED_BYTES >> 10} KiB of untracked files"
    return text, ""


def _read(root: Path, path: bytes) -> bytes | None:
    """The beginning of a regular file, through no symbolic link; ``None`` for anything else than a regular file."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    *directories, name = path.split(b"/")
    with contextlib.ExitStack() as open_directories:
        place = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        open_directories.callback(os.close, place)
        for directory in directories:
            place = os.open(directory, flags | os.O_DIRECTORY, dir_fd=place)
            open_directories.callback(os.close, place)
        if not stat.S_ISREG(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            return None
        # Something else may have taken its name meanwhile; a pipe must not be waited for.
        with open(os.open(name, flags | os.O_NONBLOCK, dir_fd=place), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(UNTRACKED_FILE_BYTES + 1)


def _commands(target: Target) -> list[str]:
    if target.kind is TargetKind.UNCOMMITTED:
        return ["git status --short --untracked-files=all", "git diff --cached", "git diff"]
    if target.kind is TargetKind.COMMIT:
        return [f"git show --stat {target.head}", f"git show {target.head}", f"git show {target.head}:PATH"]
    return [
        f"git log --oneline {target.base}..{target.head}",
        f"git diff --stat {target.base} {target.head}",
        f"git diff {target.base} {target.head} -- PATH",
        f"git show {target.head}:PATH",
    ]


def _what(target: Target) -> str:
    return target.label if target.kind is not TargetKind.COMMIT else f"changes in {target.label}"


def _size(sections: list[Section]) -> int:
    return sum(len(section.text.encode()) for section in sections)


def _quoted(path: bytes) -> str:
    name = readable(path)
    shown = name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)


def readable(data: bytes) -> str:
    """*data* as text that every agent takes: what is not UTF-8, and NUL, become U+FFFD."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")
