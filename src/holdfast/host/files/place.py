"""Where a path leads: a name in an open directory.

Every operation first opens the directory that holds its file, checks the real path of that descriptor against the
scope, and then names the file relative to it without following symlinks.  A symlink that is put in the way between
the check and the use changes nothing.
"""

from __future__ import annotations

import errno
import os
import posixpath
from typing import Final

from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import NotShown, Scope
from holdfast.host.uri import ForeignUri, InvalidUri, resolve_dots, uri_to_path
from holdfast.jsonrpc.messages import INVALID_PARAMS, RpcError

#: Symlinks followed before a path is declared a loop (the kernel's own number).
LINK_LIMIT: Final = 40

_O_PATH: Final = os.O_PATH | os.O_CLOEXEC
_DIRECTORY: Final = _O_PATH | os.O_DIRECTORY


class ForeignPath(RpcError):
    """The path cannot exist on this kind of machine."""

    def __init__(self, foreign: ForeignUri) -> None:
        super().__init__(INVALID_PARAMS, foreign.reason)
        #: The URI as a browser would write it.
        self.uri = foreign.uri


def path_of(uri: str) -> str:
    """The absolute path of a ``file:`` URI; ``.``, ``..`` and doubled slashes are resolved in the text, as in any URL.

    :raises ForeignPath: it is one of another kind of machine
    :raises RpcError: it is none
    """
    try:
        path = uri_to_path(uri)
    except ForeignUri as error:
        raise ForeignPath(error) from None
    except InvalidUri as error:
        raise RpcError(INVALID_PARAMS, error.message) from None
    return resolve_dots(path)


def content_path(uri: str, *, follow: bool) -> str:
    """The absolute path of a ``file:`` URI whose content is asked for.

    :raises RpcError: it is none, or without *follow* the root, which has no name to open it by
    """
    path = path_of(uri)
    if path == "/" and not follow:
        raise refused("path must name an entry")
    return path


def require_path(uri: str) -> None:
    """Check what can be checked of a URI without touching a file.  One of another kind of machine is one.

    :raises RpcError: it is no ``file:`` URI
    """
    try:
        path_of(uri)
    except ForeignPath:
        # To a file operation it is a file that cannot be had, not a parameter that cannot be read.
        pass


def mode_behind(entry: os.DirEntry[str], directory: str, scope: Scope) -> int:
    """The mode of what an entry of a directory leads to; what a symlink must not lead to is like what does not exist.

    :raises OSError: there is nothing, or there are too many symlinks on the way
    """
    if not scope.limited:
        return entry.stat().st_mode
    if not entry.is_symlink():
        return entry.stat(follow_symlinks=False).st_mode
    try:
        with locate(posixpath.join(directory, entry.name), scope) as place:
            return place.status().st_mode
    except RpcError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


def real_path(descriptor: int) -> str:
    """Where an open file lies now."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


class Place:
    """A name in an open directory; a context manager that closes the directory."""

    __slots__ = ("directory", "linked", "name", "path")

    def __init__(self, directory: int, name: str, path: str, *, linked: bool) -> None:
        #: Descriptor of the directory, good for ``dir_fd`` only.
        self.directory = directory
        #: The name in it; ``.`` for the root of the file system.  It may not exist.
        self.name = name
        #: The path as asked for.
        self.path = path
        #: Whether the path asked for was a symlink.
        self.linked = linked

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.directory)

    def status(self) -> os.stat_result:
        """``lstat`` of the file.

        :raises OSError: it does not exist, ...
        """
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def open(self, flags: int, mode: int = 0o666) -> int:
        """Open the file, never through a symlink and never waiting for the other end of a FIFO.

        :raises OSError: it cannot be opened
        """
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(self.name, flags, mode, dir_fd=self.directory)


def locate(path: str, scope: Scope, *, follow: bool = True, write: bool = False, tree: bool = False) -> Place:
    """Find the place of an absolute path.

    The scope is asked whether the file (with *tree* all that is below it) may be read, or changed with *write*.
    With *follow* symlinks on the way and at the end are followed, without it neither; a symlink at the end is then
    left to the caller to notice.

    :raises OSError: a directory on the way does not exist or is no directory
    :raises RpcError: the scope does not allow it
    """
    return _locate(path, scope, on_the_way=follow, at_the_end=follow, write=write, tree=tree)


def locate_entry(path: str, scope: Scope, *, follow: bool = True, write: bool = False, tree: bool = False) -> Place:
    """As :func:`locate`, but a symlink at the end is the place itself, also with *follow*."""
    return _locate(path, scope, on_the_way=follow, at_the_end=False, write=write, tree=tree)


def _locate(path: str, scope: Scope, *, on_the_way: bool, at_the_end: bool, write: bool, tree: bool) -> Place:
    try:
        return _follow(path, scope, on_the_way=on_the_way, at_the_end=at_the_end, write=write, tree=tree)
    except OSError as error:
        # What is missing out there must look like what is not.
        scope.require_inside(path, error)
        raise


def _follow(path: str, scope: Scope, *, on_the_way: bool, at_the_end: bool, write: bool, tree: bool) -> Place:
    asked, links = path, 0
    while True:
        parent, name = posixpath.split(path)
        if name in ("", ".", ".."):
            parent, name = path, "."
        if on_the_way and not scope.limited:
            directory = os.open(parent or "/", _DIRECTORY)
        else:
            directory = _walk_to(parent, scope, follow=on_the_way, name=name)
        try:
            real = _real_name(directory, name) if scope.limited else ""
            _require_way(real, scope, write=write)
            target = _link_target(name, directory) if at_the_end else None
            if target is None:
                scope.require(real, write=write, tree=tree)
                return Place(directory, name, asked, linked=links > 0)
            path = posixpath.join(real_path(directory), target)
        except BaseException:
            os.close(directory)
            raise
        os.close(directory)
        links += 1
        if links > LINK_LIMIT:
            raise _loop()


def _require_way(path: str, scope: Scope, *, write: bool) -> None:
    try:
        scope.require_way(path)
    except NotShown:
        if write:
            # There is nothing, and nothing may be made.
            scope.require(path, write=True)
        raise


def _loop() -> OSError:
    return OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _link_target(name: str, directory: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _real_name(directory: int, name: str) -> str:
    parent = real_path(directory)
    return parent if name == "." else posixpath.join(parent, name)


def _walk_to(path: str, scope: Scope, *, follow: bool, name: str) -> int:
    """Open a directory step by step, so that the scope is asked of each before anything is told of it.

    *name* is what is looked for in there.

    :raises NotADirectoryError: there is something else on the way, without *follow* a symlink
    :raises RpcError: the scope does not allow it
    """
    current, place = os.open("/", _DIRECTORY), "/"
    steps, links = path.split("/")[::-1], 0
    try:
        while steps:
            step = steps.pop()
            if step in ("", "."):
                continue
            following = posixpath.dirname(place) if step == ".." else posixpath.join(place, step)
            try:
                scope.require_way(following)
            except NotShown as hidden:
                hidden.lead_on([*reversed(steps), name])
                raise
            try:
                opened = os.open(step, _DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            except NotADirectoryError:
                target = _link_target(step, current) if follow else None
                if target is None:
                    raise
                links += 1
                if links > LINK_LIMIT:
                    raise _loop() from None
                steps += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                opened, following = os.open("/", _DIRECTORY), "/"
            os.close(current)
            current, place = opened, following
    except BaseException:
        os.close(current)
        raise
    return current


def linked_path() -> RpcError:
    """The path is (or leads through) a symlink, and none may be followed."""
    return refused("path contains a symbolic link")
