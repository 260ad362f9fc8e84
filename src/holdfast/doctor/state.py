"""The state directory: ours alone, writable, with room, on a file system that can lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from holdfast.directories import SOCKET_PATH_LIMIT, socket_path
from holdfast.doctor.check import BlockingCheck, Finding, Level
from holdfast.host.mounts import read_mounts

#: Free bytes below which a task's log may soon not fit, and below which nothing may.
LITTLE_SPACE: Final = 1 << 30
NO_SPACE: Final = 100 << 20
#: File systems on which several machines, or none at all, decide about locks and shared memory (fields of
#: /proc/self/mountinfo).
_REMOTE_FILE_SYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"smb2", "smb3", "smbfs", "virtiofs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "vboxsf"}
)


class StateDirectoryCheck(BlockingCheck):
    """It is a directory, not a symlink, ours, and closed to everybody else."""

    id = "state.directory"
    title = "State directory is private"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def look(self) -> Finding:
        path = self.directory
        try:
            status = path.lstat()
        except FileNotFoundError:
            return Finding(level=Level.OK, summary=f"{path} does not exist yet; it is created when it is needed.")
        move = f"Move {path} away, or set HOLDFAST_STATE_DIR to a directory of your own."
        if stat.S_ISLNK(status.st_mode):
            return Finding(
                level=Level.ERROR, summary=f"{path} is a symlink.", detail=f"to {os.readlink(path)}", hint=move
            )
        if not stat.S_ISDIR(status.st_mode):
            return Finding(level=Level.ERROR, summary=f"{path} is not a directory.", hint=move)
        if status.st_uid != os.geteuid():
            return Finding(level=Level.ERROR, summary=f"{path} belongs to user {status.st_uid}, not to you.", hint=move)
        mode = stat.S_IMODE(status.st_mode)
        if mode != 0o700:
            return Finding(
                level=Level.ERROR if mode & 0o077 else Level.WARNING,
                summary=f"{path} has mode {mode:04o} instead of 0700.",
                hint=f"Run: chmod 700 {path}",
                fixable=True,
            )
        return Finding(level=Level.OK, summary=f"{path} belongs to you and is closed to others.")

    def mend(self) -> None:
        _chmod_ours(self.directory, lambda _: 0o700)


class StateFilesCheck(BlockingCheck):
    """What lies in it (and in the host's directory) is ours and closed to everybody else."""

    id = "state.files"
    title = "State files are private"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def look(self) -> Finding:
        foreign: list[str] = []
        is_open: list[str] = []
        for path, status in self._entries():
            if status.st_uid != os.geteuid():
                foreign.append(str(path))
            elif stat.S_IMODE(status.st_mode) & 0o077 and not stat.S_ISLNK(status.st_mode):
                is_open.append(f"{path} ({stat.S_IMODE(status.st_mode):04o})")
        if foreign:
            return Finding(
                level=Level.ERROR,
                summary=f"{len(foreign)} files in {self.directory} belong to somebody else.",
                detail="\n".join(foreign[:20]),
                hint="Give them back to yourself with chown, or move them away.",
            )
        if is_open:
            return Finding(
                level=Level.WARNING,
                summary=f"{len(is_open)} files in {self.directory} are open to other users.",
                detail="\n".join(is_open[:20]),
                hint=f"Run: chmod -R go-rwx {self.directory}",
                fixable=True,
            )
        return Finding(level=Level.OK, summary="All files are closed to others.")

    def mend(self) -> None:
        for path, status in self._entries():
            if stat.S_IMODE(status.st_mode) & 0o077:
                _chmod_ours(path, lambda mode: mode & ~0o077)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for directory in (self.directory, self.directory / "host"):
            if directory.is_symlink() or not directory.is_dir():
                continue
            for path in sorted(directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.lstat()


class WritableCheck(BlockingCheck):
    """Files can be made there, and locked."""

    id = "state.writable"
    title = "State directory can be written and locked"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def look(self) -> Finding:
        # A symlink that leads nowhere is in the way all the same.
        where = _nearest(self.directory, os.path.lexists)
        hint = "Make it writable for you, or set HOLDFAST_STATE_DIR to a directory on a local disk."
        if where != self.directory:
            return _can_be_created(self.directory, where, hint)
        try:
            with tempfile.TemporaryFile(dir=where) as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return Finding(
                level=Level.ERROR, summary=f"No file can be written in {where}.", detail=str(error), hint=hint
            )
        kind = _file_system(where)
        try:
            with tempfile.NamedTemporaryFile(dir=where) as first, open(first.name, "rb") as second:
                fcntl.lockf(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    excludes = False
                except BlockingIOError:
                    excludes = True
        except OSError as error:
            return Finding(
                level=Level.ERROR,
                summary=f"Files in {where} cannot be locked.",
                detail=f"{error}; file system {kind or 'unknown'}",
                hint="Set HOLDFAST_STATE_DIR to a directory on a local disk.",
            )
        if not excludes:
            return Finding(
                level=Level.ERROR,
                summary=f"A lock on a file in {where} keeps nobody out.",
                detail=f"file system {kind or 'unknown'}",
                hint="Set HOLDFAST_STATE_DIR to a directory on a local disk.",
            )
        if kind in _REMOTE_FILE_SYSTEMS:
            return Finding(
                level=Level.WARNING,
                summary=f"{where} is on a shared file system ({kind}), where a database can be damaged.",
                hint="Set HOLDFAST_STATE_DIR to a directory on a local disk.",
            )
        return Finding(level=Level.OK, summary=f"Files can be written and locked ({kind or 'file system unknown'}).")


class SpaceCheck(BlockingCheck):
    """There is room for logs and results."""

    id = "state.space"
    title = "Free disk space"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def look(self) -> Finding:
        where = _nearest(self.directory, os.path.exists)
        free = shutil.disk_usage(where).free
        nodes = os.statvfs(where)
        hint = f"Make room on the disk of {where}; running agents are held up, not lost, while it is full."
        if free < LITTLE_SPACE:
            return Finding(
                level=Level.ERROR if free < NO_SPACE else Level.WARNING,
                summary=f"Only {free / (1 << 20):.0f} MiB are free for {where}.",
                hint=hint,
            )
        # A file system without a table of inodes reports 0 of 0.
        if nodes.f_files and nodes.f_favail < 1000:
            return Finding(
                level=Level.ERROR, summary=f"Only {nodes.f_favail} more files can be created for {where}.", hint=hint
            )
        return Finding(level=Level.OK, summary=f"{free / (1 << 30):.1f} GiB are free.")


class SocketPathCheck(BlockingCheck):
    """The daemon's socket has an address that a socket can have."""

    id = "state.socket_path"
    title = "Socket address fits"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def look(self) -> Finding:
        name = "daemon.sock"
        length = len(os.fsencode(self.directory / name))
        if length <= SOCKET_PATH_LIMIT:
            return Finding(level=Level.OK, summary=f"{self.directory / name} is short enough ({length} bytes).")
        # Refuses (and thereby reports) a replacement directory that somebody else could have made.
        path = socket_path(self.directory, name, make=False)
        return Finding(
            level=Level.INFO,
            summary="The state directory's path is too long for a socket, which therefore lies elsewhere.",
            detail=str(path),
            hint="A shorter HOLDFAST_STATE_DIR keeps everything together.",
        )


def _can_be_created(directory: Path, where: Path, hint: str) -> Finding:
    """Whether *directory* can be, *where* is what is there of it; *hint* says what to do if one may not write there."""
    if not os.path.isdir(where):
        hint = f"Move {where} away, or set HOLDFAST_STATE_DIR to a directory on a local disk."
    elif any(len(os.fsencode(name)) > os.pathconf(where, "PC_NAME_MAX") for name in directory.relative_to(where).parts):
        hint = "Set HOLDFAST_STATE_DIR to a directory with a shorter name."
    elif os.access(where, os.W_OK | os.X_OK):
        return Finding(level=Level.OK, summary=f"{directory} can be created.")
    return Finding(level=Level.ERROR, summary=f"{directory} cannot be created in {where}.", hint=hint)


def _nearest(path: Path, is_there: Callable[[Path], bool]) -> Path:
    while not is_there(path) and path != path.parent:
        path = path.parent
    return path


def _chmod_ours(path: Path, change: Callable[[int], int]) -> None:
    """Change the mode of *path* if it is ours and not a symlink (whose target would be changed)."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        return
    mode = stat.S_IMODE(status.st_mode)
    if change(mode) != mode:
        path.chmod(change(mode))


def _file_system(path: Path) -> str | None:
    """The type of the file system that *path* is on, as the kernel names it; ``None`` where that cannot be read."""
    try:
        number = os.stat(path).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        return next((mount.kind for mount in read_mounts() if mount.device == device), None)
    except OSError:
        return None
