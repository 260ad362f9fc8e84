"""Where Holdfast keeps things, and the promise that nobody else can read or replace them.

Every directory made here is 0700 and owned by the user; one that is not (or is a symlink) is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidRequest

#: ``sun_path`` holds 108 bytes on Linux and 104 on macOS, the final NUL included.
SOCKET_PATH_LIMIT = 100


class InsecureDirectory(InvalidRequest):
    """A directory that must be private is a symlink, belongs to somebody else, or is open to others."""

    code = "insecure_directory"


class UnusableDirectory(InvalidRequest):
    """A directory cannot be made, or what Holdfast keeps in it cannot be opened."""

    code = "unusable_directory"


def state_directory() -> Path:
    """The directory of everything Holdfast stores: ``HOLDFAST_STATE_DIR``, else the platform's state directory.

    :raises UnusableDirectory: it is in a home directory that is not known
    """
    return _place("HOLDFAST_STATE_DIR", lambda platform: platform.user_state_dir("holdfast", appauthor=False))


def config_file() -> Path:
    """The user's configuration: ``HOLDFAST_CONFIG``, else ``config.toml`` in the platform's config directory.

    :raises UnusableDirectory: it is in a home directory that is not known
    """
    return _place(
        "HOLDFAST_CONFIG",
        lambda platform: os.path.join(platform.user_config_dir("holdfast", appauthor=False), "config.toml"),
    )


def _place(variable: str, default: Callable[[Any], str]) -> Path:
    """What *variable* names, else the *default* that platformdirs knows.

    :raises UnusableDirectory: it is in a home directory that is not known
    """
    path = os.environ.get(variable)
    try:
        if path:
            return Path(path).expanduser().absolute()
        import platformdirs

        return Path(default(platformdirs)).expanduser()
    except RuntimeError as error:
        what = f"The home directory in {variable}={path}" if path else "Your home directory"
        raise UnusableDirectory(f"{what} is not known.", hint=f"Set {variable} to an absolute path.") from error


def private_directory(path: Path) -> Path:
    """Create *path* with mode 0700 (parents included) or check that it is ours and private.

    :raises InsecureDirectory: it is a symlink, not a directory, owned by another user, or open to group or others
    :raises UnusableDirectory: it cannot be made, or its path is no text
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        # Clients are told it, in JSON.
        raise UnusableDirectory(f"The path {path} is not UTF-8.", hint=f"Rename it, or {_another(path)}.") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        status = path.lstat()
    except OSError as error:
        raise _cannot_make(path, error) from error
    _check(path, status)
    return path


def _check(path: Path, status: os.stat_result) -> None:
    """:raises InsecureDirectory: the directory *path* is not ours and private"""
    if stat.S_ISLNK(status.st_mode):
        target = os.path.realpath(path)
        hint = f"Name what it leads to: {target}" if os.path.isdir(target) else f"Move it away, or {_another(path)}."
        raise InsecureDirectory(f"{path} is a symlink.", hint=hint)
    if not stat.S_ISDIR(status.st_mode):
        raise InsecureDirectory(f"{path} is not a directory.", hint=f"Move it away, or {_another(path)}.")
    if status.st_uid != os.geteuid():
        raise InsecureDirectory(
            f"{path} belongs to user {status.st_uid}, not to you.", hint=f"Move it away, or {_another(path)}."
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        if mode & stat.S_ISVTX:
            # One that is made for many, like /tmp, must not be taken away from them.
            hint = f"Choose a directory that only Holdfast uses, for example {path / 'holdfast'}."
        else:
            hint = f"If only Holdfast uses it, run: chmod 700 {path}"
        raise InsecureDirectory(f"{path} is open to other users (mode {mode:04o}).", hint=hint)


def open_private(path: Path, access: int) -> int:
    """Open a file of a private directory, made (0600) if need be, for *access* (``O_RDWR`` and the like).

    :raises UnusableDirectory: it cannot be opened
    """
    try:
        return os.open(path, access | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UnusableDirectory(
            f"{path} cannot be opened: {error.strerror}.", hint=f"Mend that, or {_another(path)}."
        ) from error


def _cannot_make(path: Path, error: OSError) -> UnusableDirectory:
    # The system tells only what it was asked for, not what is in the way.
    there = next((parent for parent in path.parents if os.path.lexists(parent)), path)
    if os.path.isdir(there):
        return UnusableDirectory(
            f"{path} cannot be made in {there}: {error.strerror}.", hint=f"Mend that, or {_another(path)}."
        )
    kind = "a symlink that leads to no directory" if there.is_symlink() else "not a directory"
    return UnusableDirectory(
        f"{path} cannot be made: {there} is {kind}.", hint=f"Move {there} away, or {_another(path)}."
    )


def _another(path: Path) -> str:
    """How to have another directory instead of *path*: not every one is named by the environment."""
    if path.is_relative_to(state_directory()):
        return "set HOLDFAST_STATE_DIR to a directory of your own"
    return "choose a directory of your own"


def socket_path(directory: Path, name: str, *, make: bool = True) -> Path:
    """Where the Unix socket *name* of *directory* is bound.

    It lies in the directory itself unless that path is longer than a socket address can be; then in a private
    directory under ``/tmp``, named by user and by a digest of the directory.  That one is there afterwards, so that
    nobody else can make it, until it is given up; without *make*, for whoever only looks, it may be missing.

    :raises InsecureDirectory: somebody else has made it
    """
    path = directory / name
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # Not $TMPDIR: whoever looks for the socket must find the same place, and that one may be too long as well.
    replacement = Path(f"{_replacements()}{digest}")
    if make:
        private_directory(replacement)
    elif os.path.lexists(replacement):
        _check(replacement, replacement.lstat())
    return replacement / name


def give_up_socket_path(path: str) -> None:
    """Remove what :func:`socket_path` made for the socket *path*, which is gone, unless there is another one."""
    replacement = os.path.dirname(path)
    if replacement.startswith(_replacements()):
        try:
            os.rmdir(replacement)
        except OSError:
            # Not empty, or gone already.
            pass


def _replacements() -> str:
    """How the paths of the directories begin that are made for sockets with overlong paths."""
    return f"/tmp/holdfast-{os.geteuid()}-"


def remove_directory(directory: str | os.PathLike[str]) -> None:
    """Remove *directory* if it is there, whatever is in it; what cannot be removed stays."""
    if os.path.lexists(directory):
        # Imported late: with the compression that it brings along it would be in the memory of every host.
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


def remove(path: str | os.PathLike[str]) -> None:
    """The same for *path*, be it a directory or anything else."""
    try:
        os.unlink(path)
    except OSError:
        remove_directory(path)


def stored_bytes(directory: str | os.PathLike[str]) -> int:
    """Bytes that the file system gave to what is in *directory*; what vanishes, or cannot be seen, does not count."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                # Also in a directory that may be listed and no more.
                continue
    return total
