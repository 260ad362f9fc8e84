"""Where Holdfast keeps things, and the promise that nobody else can read or replace them.

Every directory made here is 0700 and owned by the user; one that is not (or is a symlink) is refused.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from holdfast.errors import InvalidRequest

#: ``sun_path`` holds 108 bytes on Linux and 104 on macOS, the final NUL included.
SOCKET_PATH_LIMIT = 100


class InsecureDirectory(InvalidRequest):
    """A directory that must be private is a symlink, belongs to somebody else, or is open to others."""

    code = "insecure_directory"


def state_directory() -> Path:
    """The directory of everything Holdfast stores: ``HOLDFAST_STATE_DIR``, else the platform's state directory."""
    override = os.environ.get("HOLDFAST_STATE_DIR")
    if override:
        return Path(override).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("holdfast", appauthor=False))


def config_file() -> Path:
    """The user's configuration: ``HOLDFAST_CONFIG``, else ``config.toml`` in the platform's config directory."""
    override = os.environ.get("HOLDFAST_CONFIG")
    if override:
        return Path(override).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_config_dir("holdfast", appauthor=False)) / "config.toml"


def private_directory(path: Path) -> Path:
    """Create *path* with mode 0700 (parents included) or check that it is ours and private.

    :raises InsecureDirectory: it is a symlink, not a directory, owned by another user, or open to group or others
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise InsecureDirectory(f"{path} is not a directory.", hint=f"Move {path} away, or set HOLDFAST_STATE_DIR.")
    if status.st_uid != os.geteuid():
        raise InsecureDirectory(
            f"{path} belongs to user {status.st_uid}, not to you.",
            hint="Set HOLDFAST_STATE_DIR to a directory of your own.",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        if mode & stat.S_ISVTX:
            # One that is made for many, like /tmp, must not be taken away from them.
            hint = f"Choose a directory that only Holdfast uses, for example {path / 'holdfast'}."
        else:
            hint = f"If only Holdfast uses it, run: chmod 700 {path}"
        raise InsecureDirectory(f"{path} is open to other users (mode {mode:04o}).", hint=hint)
    return path


def socket_path(directory: Path, name: str) -> Path:
    """Where the Unix socket *name* of *directory* is bound.

    It lies in the directory itself unless that path is longer than a socket address can be; then in a private
    directory under ``/tmp``, named by user and by a digest of the directory.
    """
    path = directory / name
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    # Not $TMPDIR: whoever looks for the socket must find the same place, and that one may be too long as well.
    return private_directory(Path("/tmp") / f"holdfast-{os.geteuid()}-{digest}") / name


def remove_directory(directory: str | os.PathLike[str]) -> None:
    """Remove *directory* if it is there, whatever is in it; what cannot be removed stays."""
    if os.path.lexists(directory):
        # Imported late: with the compression that it brings along it would be in the memory of every host.
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


def stored_bytes(directory: str | os.PathLike[str]) -> int:
    """Bytes that the file system gave to what is in *directory*; what vanishes meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
