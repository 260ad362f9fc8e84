"""``fs/copy``: a file, a symlink, or with ``recursive`` a directory.

Symlinks are copied as symlinks.  What is neither file, directory nor symlink is refused, and left out below a copied
directory.  A file that is copied onto itself, under whatever name, stays as it is.  A directory is made with its
parents, or its content joins that of the directory that exists; nothing is written through a symlink in there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from holdfast.host.files.directories import make_directories
from holdfast.host.files.parameters import Copy
from holdfast.host.files.place import Place, locate, locate_entry, path_of, real_path
from holdfast.host.files.reading import open_regular
from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import Scope, is_below
from holdfast.host.files.writing import replace, write_all

_BLOCK: Final = 1024 * 1024
#: What ``copy_file_range`` says where it does not work.
_NO_COPY_RANGE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


def copy(scope: Scope, params: Copy) -> bytes:
    """Copy.

    :raises OSError: it cannot be copied
    :raises RpcError: it is of a kind that is not copied, or a directory into itself
    """
    follow = params.follow_symlinks is not False
    origin, destination = path_of(params.source_path), path_of(params.destination_path)
    with locate_entry(origin, scope, follow=follow, tree=params.recursive) as source:
        mode = source.status().st_mode
        if stat.S_ISDIR(mode):
            if not params.recursive:
                raise refused("fs/copy requires recursive: true when sourcePath is a directory")
            _copy_directory(source, destination, scope, follow=follow)
        elif stat.S_ISLNK(mode):
            with locate_entry(destination, scope, follow=follow, write=True) as place:
                _copy_link(source, place)
        elif stat.S_ISREG(mode):
            with locate(destination, scope, follow=follow, write=True) as place:
                _copy_file(source, place, scope)
        else:
            raise refused("fs/copy only supports regular files, directories, and symlinks")
    return b"{}"


def _copy_link(source: Place, place: Place) -> None:
    os.symlink(os.readlink(source.name, dir_fd=source.directory), place.name, dir_fd=place.directory)


def _copy_file(source: Place, place: Place, scope: Scope) -> None:
    descriptor = open_regular(source)
    try:
        status = os.fstat(descriptor)
        if _is_same(status, place):
            return
        mode = stat.S_IMODE(status.st_mode)
        replace(place, lambda copied: _copy_content(descriptor, copied), scope, mode=mode)
    finally:
        os.close(descriptor)


def _is_same(status: os.stat_result, place: Place) -> bool:
    try:
        return os.path.samestat(status, place.status())
    except FileNotFoundError:
        return False


def _copy_content(source: int, destination: int) -> None:
    # It may be the second time: into the file itself, after one beside it could not take its place.
    os.lseek(source, 0, os.SEEK_SET)
    try:
        while os.copy_file_range(source, destination, 8 * _BLOCK):
            pass
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
    # Goes on where that stopped; files of /proc pretend to be empty to it.
    while data := os.read(source, _BLOCK):
        write_all(destination, data)


def _refuse_inside(origin: str, target: str) -> None:
    """Check that the real path *target* is not the directory *origin* or below it.

    :raises RpcError: it is
    """
    if is_below(target, origin):
        raise refused("fs/copy cannot copy a directory to itself or one of its descendants")


def _copy_directory(source: Place, destination: str, scope: Scope, *, follow: bool) -> None:
    """Copy a tree, holding only descriptors: what is renamed meanwhile cannot lead elsewhere."""
    top = source.open(os.O_RDONLY | os.O_DIRECTORY)
    # Depth first: there are as many levels open as the tree is deep, however many directories are side by side.
    levels: list[_Level] = []
    try:
        origin = real_path(top)
        _refuse_inside(origin, os.path.realpath(destination))
        make_directories(destination, scope, follow=follow)
        with locate(destination, scope, follow=follow) as place:
            target = place.open(os.O_RDONLY | os.O_DIRECTORY)
        levels.append(_Level(top, target))
        top = -1
        # Once more: something may have been put in the way of it.
        _refuse_inside(origin, real_path(target))
        while levels:
            inner = _copy_some(levels[-1], scope)
            if inner is not None:
                levels.append(inner)
            else:
                levels.pop().close()
    finally:
        if top >= 0:
            os.close(top)
        for level in levels:
            level.close()


class _Level:
    """A directory that is being copied, and how far that has come."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self.writing = writing
        #: Those that are still to be copied; None before the first look.
        self.names: list[str] | None = None
        #: Where it is copied to, if somebody has to be asked for each place.
        self.limited: str | None = None

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def _make_directory(parent: int, name: str) -> int:
    """Make a directory unless there is one, and open it.

    :raises FileExistsError: something else has that name
    """
    existing: FileExistsError | None = None
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError as error:
        existing = error
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except NotADirectoryError:
        if existing is None:
            raise
        raise existing from None


def _copy_some(level: _Level, scope: Scope) -> _Level | None:
    """Copy entries up to the next directory, which is made and returned; None at the end."""
    if level.names is None:
        # A scope may allow a directory and protect something in it: each place is asked for by itself.
        level.limited = real_path(level.writing) if scope.limited else None
        level.names = os.listdir(level.reading)
    while level.names:
        name = level.names.pop()
        if level.limited is not None:
            scope.require(os.path.join(level.limited, name), write=True)
        mode = os.stat(name, dir_fd=level.reading, follow_symlinks=False).st_mode
        source = Place(level.reading, name, name, linked=False)
        place = Place(level.writing, name, name, linked=False)
        if stat.S_ISDIR(mode):
            inner = source.open(os.O_RDONLY | os.O_DIRECTORY)
            try:
                return _Level(inner, _make_directory(level.writing, name))
            except BaseException:
                os.close(inner)
                raise
        elif stat.S_ISLNK(mode):
            _copy_link(source, place)
        elif stat.S_ISREG(mode):
            _copy_file(source, place, scope)
    return None
