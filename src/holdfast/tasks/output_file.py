"""Publishing an answer as a file that a caller named: whole or not at all, and never through a link.

:func:`reserve` checks the place before the agent starts, so that a bad path costs milliseconds and not the work;
:func:`publish` writes a temporary file there, brings it to the disk, and gives it its name in one step.  In between
nothing lies in the caller's directory: an agent that commits or cleans up whatever it finds there finds nothing there.

What remains possible: between the look at a file that is to be overwritten and its replacement, another program of the
same user can put something else under that name.  It loses that entry; the answer is not led anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import unicodedata
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

import msgspec

from holdfast.errors import InvalidRequest

#: ``PATH_MAX`` of Linux; no system call takes a longer path.
PATH_BYTES: Final = 4096
#: ``NAME_MAX`` of all usual file systems.
NAME_BYTES: Final = 255
#: Unicode categories that could make a path look like another one, forge a line of a receipt, or drive a terminal:
#: control, format (among them the bidirectional ones), line and paragraph separators, lone surrogates.
_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
#: How a file system says that it has no hard links.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
#: To hold a directory without reading it; where that does not exist (macOS) it must be readable.
_DIRECTORY_FLAGS: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OutputPathRefused(InvalidRequest):
    """The answer cannot be, or could not be, published under the path asked for; nothing was written there."""

    code = "output_path"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt for a published file."""

    path: str
    bytes: int
    sha256: str
    #: A file that was there before was replaced.
    overwrote: bool
    #: False on a file system without hard links: the name showed an empty file for a moment.
    atomic: bool = True


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """A place that was found good for an output file.  It holds nothing open, and survives a restart as JSON."""

    #: The final path, every symlink of its directory resolved.
    path: str
    #: What the directory was when it was checked; another one in its place is refused.
    device: int
    inode: int
    #: The name of the temporary file while it is written, in the same directory.
    temporary_name: str
    overwrite: bool
    #: There was a file of that name already (and it may be overwritten).
    existed: bool

    @property
    def directory(self) -> str:
        """The directory that the file will lie in."""
        return os.path.dirname(self.path)

    @property
    def name(self) -> str:
        """The name of the file in its directory."""
        return os.path.basename(self.path)

    def abandon(self) -> None:
        """Remove whatever an interrupted :func:`publish` left behind; never raises for what is not there any more."""
        with contextlib.suppress(OutputPathRefused, OSError), _hold_directory(self) as directory:
            os.unlink(self.temporary_name, dir_fd=directory)


def reserve(path_text: str, roots: Iterable[Path], *, overwrite: bool = False) -> Reservation:
    """Check that a file can be published as *path_text*, in a directory below one of *roots*.

    :param overwrite: replace a regular file of ours that is there already; anything else is refused all the same
    :raises OutputPathRefused: naming what is wrong with the path; nothing was created
    """
    check_spelling(path_text)
    spelled_directory, name = os.path.split(path_text)
    try:
        directory = os.path.realpath(spelled_directory, strict=True)
        if not os.path.isdir(directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except (OSError, ValueError) as error:
        raise _refused(path_text, f"its directory cannot be used: {_reason(error)}", "Create the directory.") from None
    check_spelling(os.path.join(directory, name))
    allowed = [os.path.realpath(root) for root in roots]
    if not any(os.path.commonpath([directory, root]) == root for root in allowed):
        raise _refused(
            path_text,
            f"it lies outside of {', '.join(allowed) or 'every allowed directory'}",
            "Choose a path inside the task's directory, or allow its directory explicitly.",
        )
    with _walk(path_text, directory) as held:
        status = os.fstat(held)
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise _refused(
                path_text,
                f"everybody may replace files in {directory}",
                f"Run: chmod o-w {directory}, or choose another.",
            )
        reservation = Reservation(
            path=os.path.join(directory, name),
            device=status.st_dev,
            inode=status.st_ino,
            temporary_name=f".{name[:48]}.{secrets.token_hex(8)}.part",
            overwrite=overwrite,
            existed=_check_target(held, path_text, name, overwrite=overwrite),
        )
        try:
            # Only the attempt shows whether a file can be made here (permissions, read-only or full file system).
            os.close(os.open(reservation.temporary_name, _CREATE_FLAGS, 0o600, dir_fd=held))
            os.unlink(reservation.temporary_name, dir_fd=held)
        except OSError as error:
            raise _refused(
                path_text, f"no file can be created in {directory}: {_reason(error)}", "Choose another directory."
            ) from None
    return reservation


def publish(reservation: Reservation, chunks: Iterable[bytes]) -> Published:
    """Write *chunks* to the reserved path; when this returns the file is on the disk, whole, under its name.

    May be called again after an interruption at any point: a file that was already published is recognised.

    :raises OutputPathRefused: the directory or the name was taken over by something else, or writing failed; the
        temporary file is gone again
    """
    path = reservation.path
    with _hold_directory(reservation) as held:
        temporary = reservation.temporary_name
        try:
            _remove(held, temporary)  # what an interrupted attempt left
            size, digest = _write(held, temporary, chunks)
            overwrote, atomic = _give_name(held, reservation, digest)
            _remove(held, temporary)
            _sync_directory(held)
        except OSError as error:
            hint = "Make room, and take the answer from the task itself."
            raise _refused(path, f"it could not be written: {_reason(error)}", hint) from error
        finally:
            with contextlib.suppress(OSError):
                _remove(held, temporary)
    return Published(path=path, bytes=size, sha256=digest, overwrote=overwrote, atomic=atomic)


def _refused(path: str, reason: str, hint: str) -> OutputPathRefused:
    return OutputPathRefused(f"The output file {path!r} is refused: {reason}.", hint=hint)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def check_spelling(path: str) -> None:
    """Check everything about the path of an output file that can be said without looking at the machine.

    :raises OutputPathRefused: naming what is wrong with it
    """

    def refuse(reason: str, hint: str) -> OutputPathRefused:
        shown = path if len(path) <= 200 else path[:200] + "..."
        return _refused(shown, reason, hint)

    for character in path:
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise refuse(
                f"it contains the character U+{ord(character):04X}, which does not show",
                "Leave control and formatting characters out of the path.",
            )
    if not path.startswith("/"):
        hint = "Nothing in it is expanded: write the path out." if path[:1] in ("~", "$") else "Begin it with '/'."
        raise refuse("it is not absolute", hint)
    if len(os.fsencode(path)) >= PATH_BYTES:
        raise refuse(f"it is longer than {PATH_BYTES - 1} bytes", "Choose a shorter path.")
    parts = path.split("/")[1:]
    if parts[-1] == "":
        raise refuse("it names a directory", "Add the name of the file.")
    for part in parts:
        if part in ("", ".", ".."):
            raise refuse(f"it has {part!r} as one of its parts", "Write the path without '//', '.' and '..'.")
        if len(os.fsencode(part)) > NAME_BYTES:
            raise refuse(f"one of its parts is longer than {NAME_BYTES} bytes", "Choose a shorter name.")


@contextlib.contextmanager
def _walk(path: str, directory: str) -> Generator[int]:
    """Hold *directory*, reached from the root without following any symlink; it was resolved just before."""
    held = os.open("/", _DIRECTORY_FLAGS)
    try:
        for part in directory.split("/")[1:]:
            if part:
                below = os.open(part, _DIRECTORY_FLAGS, dir_fd=held)
                os.close(held)
                held = below
    except OSError as error:
        os.close(held)
        reason = f"its directory {directory} cannot be reached: {_reason(error)}"
        raise _refused(path, reason, "See whether the directory, or one above it, was moved or replaced.") from None
    try:
        yield held
    finally:
        os.close(held)


@contextlib.contextmanager
def _hold_directory(reservation: Reservation) -> Generator[int]:
    with _walk(reservation.path, reservation.directory) as held:
        status = os.fstat(held)
        if (status.st_dev, status.st_ino) != (reservation.device, reservation.inode):
            raise _refused(
                reservation.path,
                f"{reservation.directory} is not the directory any more that it was when the task was accepted",
                "Take the answer from the task itself.",
            )
        yield held


def _check_target(held: int, path: str, name: str, *, overwrite: bool) -> bool:
    """Whether there is something under the final name; refuses what may not be replaced."""
    try:
        status = os.stat(name, dir_fd=held, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "what is there is not a regular file", "Choose another path.")
    if not overwrite:
        raise _refused(path, "there is a file already", "Remove it, choose another path, or allow overwriting.")
    if status.st_uid != os.geteuid():
        raise _refused(path, f"the file there belongs to user {status.st_uid}, not to you", "Choose another path.")
    return True


def _write(held: int, name: str, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Create *name* with the content of *chunks*, on the disk when this returns: (size, SHA-256)."""
    digest = hashlib.sha256()
    with open(os.open(name, _CREATE_FLAGS, 0o600, dir_fd=held), "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, digest.hexdigest()


def _give_name(held: int, reservation: Reservation, digest: str) -> tuple[bool, bool]:
    """Give the temporary file its final name: (a file was replaced, in one step)."""
    temporary, name = reservation.temporary_name, reservation.name
    if reservation.overwrite:
        existed = _check_target(held, reservation.path, name, overwrite=True)
        ours = existed and _has_content(held, name, digest)
        os.rename(temporary, name, src_dir_fd=held, dst_dir_fd=held)
        return reservation.existed or (existed and not ours), True
    try:
        os.link(temporary, name, src_dir_fd=held, dst_dir_fd=held, follow_symlinks=False)
        return False, True
    except FileExistsError:
        _require_ours(held, reservation, digest)
        return False, True
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    try:
        # Takes the name, if it is free, before the content comes under it.
        os.close(os.open(name, _CREATE_FLAGS, 0o600, dir_fd=held))
    except FileExistsError:
        _require_ours(held, reservation, digest)
    else:
        os.rename(temporary, name, src_dir_fd=held, dst_dir_fd=held)
    return False, False


def _require_ours(held: int, reservation: Reservation, digest: str) -> None:
    """Accept that the name is taken if an interrupted attempt had published this very content already."""
    if not _has_content(held, reservation.name, digest):
        raise _refused(
            reservation.path,
            "something took this name while the task was running",
            "Take the answer from the task itself, or allow overwriting.",
        )


def _has_content(held: int, name: str, digest: str) -> bool:
    """Whether *name* is a regular file of ours with this SHA-256."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=held)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _remove(held: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=held)


def _sync_directory(held: int) -> None:
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
    except PermissionError:
        return  # a directory that may be written but not read; its own write-back has to do
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
