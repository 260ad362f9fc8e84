"""``fs/createDirectory``, ``fs/readDirectory`` and ``fs/remove``."""

from __future__ import annotations

import os
import stat
from typing import Final

import msgspec

from holdfast.host.files.parameters import CreateDirectory, Directory, Remove
from holdfast.host.files.place import Place, linked_path, locate, locate_entry, mode_behind, path_of, real_path
from holdfast.host.files.refusal import refused
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import INTERNAL_ERROR, RpcError, encode_json

#: Entries of the largest directory that is listed in one answer (the reference implementation's number).
ENTRY_LIMIT: Final = 50_000

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def create_directory(scope: Scope, params: CreateDirectory) -> bytes:
    """Make a directory, with its parents unless ``recursive`` is false; then one that exists is no error.

    :raises OSError: it cannot be made
    """
    path = path_of(params.path)
    follow = params.follow_symlinks is not False
    if params.recursive is False:
        with locate_entry(path, scope, follow=follow, write=True) as place:
            os.mkdir(place.name, dir_fd=place.directory)
        return b"{}"
    make_directories(path, scope, follow=follow)
    return b"{}"


def make_directories(path: str, scope: Scope, *, follow: bool) -> None:
    """Make a directory and those that are missing on the way to it; one that exists is no error.

    :raises OSError: it cannot be made
    :raises RpcError: the scope does not allow it
    """
    missing: list[str] = []
    while True:
        try:
            with locate(path, scope, follow=follow) as place:
                mode = place.status().st_mode
        except FileNotFoundError:
            missing.append(path)
            path = os.path.dirname(path)
            continue
        except OSError:
            if missing or not follow:
                raise
            # A symlink that leads nowhere is something of that name, whatever is wrong with it.
            with locate_entry(path, scope) as place:
                place.status()
            raise FileExistsError(17, "") from None
        if not stat.S_ISDIR(mode):
            raise (FileExistsError(17, "") if follow and not missing else NotADirectoryError(20, ""))
        break
    for path in reversed(missing):
        with locate_entry(path, scope, follow=follow, write=True) as place:
            try:
                os.mkdir(place.name, dir_fd=place.directory)
            except FileExistsError:
                if not stat.S_ISDIR(place.status().st_mode):
                    raise


class _Entry(msgspec.Struct, rename="camel"):
    file_name: str
    is_directory: bool
    is_file: bool


def read_directory(scope: Scope, params: Directory) -> bytes:
    """Names and kinds of what is in a directory; symlinks count as what they lead to, broken ones are left out.

    :raises OSError: it cannot be read
    :raises RpcError: it has too many entries
    """
    with locate(path_of(params.path), scope, follow=params.follow_symlinks is not False) as place:
        descriptor = place.open(os.O_RDONLY | os.O_DIRECTORY)
    found: list[_Entry] = []
    try:
        top = real_path(descriptor)
        with os.scandir(descriptor) as entries:
            for count, entry in enumerate(entries, 1):
                if count > ENTRY_LIMIT:
                    break
                try:
                    mode = mode_behind(entry, top, scope)
                except OSError:
                    # A broken link, a loop, one that must not be followed, or gone meanwhile.
                    continue
                name = os.fsencode(entry.name).decode("utf-8", "replace")
                found.append(_Entry(name, stat.S_ISDIR(mode), stat.S_ISREG(mode)))
            else:
                return encode_json({"entries": found})
        count = len(os.listdir(descriptor))
    finally:
        os.close(descriptor)
    raise RpcError(INTERNAL_ERROR, f"fs/readDirectory returned {count} entries; limit is {ENTRY_LIMIT}")


def remove(scope: Scope, params: Remove) -> bytes:
    """Remove a file, a symlink (never what it leads to) or a directory, with its content unless told otherwise.

    :raises OSError: it cannot be removed, or with ``force`` false does not exist
    :raises RpcError: it is the root, or the combination of options is not supported
    """
    path = path_of(params.path)
    follow = params.follow_symlinks is not False
    recursive = params.recursive is not False
    if recursive and not follow:
        raise RpcError(INTERNAL_ERROR, "recursive no-follow removal is unsupported")
    if path == "/":
        raise refused("the root of the file system cannot be removed")
    try:
        if scope.limited:
            # What is not there is not refused: there is nothing to change.
            with locate_entry(path, scope, follow=follow) as place:
                place.status()
        with locate_entry(path, scope, follow=follow, write=True, tree=True) as place:
            _remove(place, recursive=recursive, follow=follow)
    except FileNotFoundError:
        if params.force is False:
            raise
    return b"{}"


def _remove(place: Place, *, recursive: bool, follow: bool) -> None:
    mode = place.status().st_mode
    if not stat.S_ISDIR(mode):
        if stat.S_ISLNK(mode) and not follow:
            raise linked_path()
        os.unlink(place.name, dir_fd=place.directory)
        return
    if recursive:
        _empty(place)
    os.rmdir(place.name, dir_fd=place.directory)


def _empty(place: Place) -> None:
    """Remove everything below a directory, depth first, by descriptors only: a symlink never leads out of it."""
    stack = [os.open(place.name, _OPEN, dir_fd=place.directory)]
    pending: list[list[str]] = [os.listdir(stack[0])]
    names: list[str] = []
    try:
        while stack:
            if not pending[-1]:
                os.close(stack.pop())
                pending.pop()
                if stack:
                    os.rmdir(names.pop(), dir_fd=stack[-1])
                continue
            name = pending[-1].pop()
            try:
                os.unlink(name, dir_fd=stack[-1])
            except (IsADirectoryError, PermissionError) as error:
                # Which of the two a directory gives depends on the file system.
                try:
                    inner = os.open(name, _OPEN, dir_fd=stack[-1])
                except NotADirectoryError:
                    raise error from None
                stack.append(inner)
                names.append(name)
                pending.append(os.listdir(inner))
            except FileNotFoundError:
                # Somebody else removed it.
                continue
    finally:
        for descriptor in stack:
            os.close(descriptor)
