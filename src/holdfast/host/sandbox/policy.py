"""The meaning of a sandbox's permissions on this machine: real paths, and what may be done below each."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.host.files.scope import NotShown, is_below
from holdfast.host.sandbox.metadata import METADATA, git_directory
from holdfast.host.sandbox.mount_points import is_missing
from holdfast.host.sandbox.own_places import own_places
from holdfast.host.sandbox.permissions import (
    Access,
    Entry,
    GlobPattern,
    PlainPath,
    SandboxContext,
    Special,
    SpecialPath,
)
from holdfast.host.uri import InvalidUri, resolve_dots, uri_to_path
from holdfast.jsonrpc.messages import INVALID_PARAMS, INVALID_REQUEST, RpcError

#: What the special place ``minimal`` stands for: what programs need to start.
_MINIMAL: Final = ("/bin", "/sbin", "/usr", "/etc", "/lib", "/lib32", "/lib64", "/nix/store", "/run/current-system/sw")

_STRICTNESS: Final = {Access.READ: 0, Access.WRITE: 1, Access.DENY: 2}


def cannot_honour(what: str) -> RpcError:
    """Refuse a sandbox: to run without what it asks for would be worse."""
    return RpcError(INVALID_PARAMS, f"this exec-server cannot honour `sandbox` and will not ignore it: {what}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What may be done with a path and everything below it that no longer grant names."""

    #: A real path, except that it may not exist.
    path: str
    access: Access
    #: Whether it exists; one that does not protects nothing if the client said so.
    exists: bool
    #: Whether nobody may make it as long as it does not exist.
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """A managed sandbox.  It is also a rule of a :class:`holdfast.host.files.scope.Scope`."""

    #: Shorter paths first.
    grants: tuple[Grant, ...]
    network: bool

    def access(self, path: str) -> Access:
        """What may be done with a real path: the longest grant above it decides; nothing is said means deny."""
        decides = self._deciding(path)
        return Access.DENY if decides is None else decides.access

    def _deciding(self, path: str) -> Grant | None:
        found = None
        for grant in self.grants:
            if is_below(path, grant.path):
                found = grant
        return found

    def leads_on(self, path: str) -> bool:
        """Whether something at or below a real path is not denied: then the directories on the way to it are there."""
        return any(
            grant.exists and grant.access is not Access.DENY and is_below(grant.path, path) for grant in self.grants
        )

    def require(self, path: str, *, write: bool, tree: bool = False) -> None:
        """Check a real path, and with *tree* everything below it.

        :raises RpcError: not allowed
        """
        _refuse_proc(path)
        allowed = (Access.WRITE,) if write else (Access.READ, Access.WRITE)
        below = [grant.access for grant in self.grants if tree and is_below(grant.path, path)]
        if any(access not in allowed for access in (self.access(path), *below)):
            verb = "writing" if write else "reading"
            raise RpcError(INVALID_REQUEST, f"the sandbox does not allow {verb} `{path}`")

    def require_way(self, path: str) -> None:
        """Check that a real path can be seen at all, as a command in the sandbox would see it.

        The root always is there, and what nobody named is not.  What is denied is not there either if there is a way
        through the directory that is denied; else nothing can be known of what is in it.

        :raises NotShown: it is not there
        :raises RpcError: it is denied
        """
        _refuse_proc(path)
        decides = self._deciding(path)
        if path == "/" or (decides is not None and decides.access is not Access.DENY) or self.leads_on(path):
            return
        if decides is None or (path != decides.path and self.leads_on(decides.path)):
            raise NotShown(path)
        raise RpcError(INVALID_REQUEST, f"the sandbox does not allow reading `{path}`")


def _refuse_proc(path: str) -> None:
    if is_below(path, "/proc"):
        # A command has a /proc of its own; this one shows the memory and the environment of the host.
        raise RpcError(INVALID_REQUEST, f"the sandbox does not allow access to `{path}`")


def policy_of(context: SandboxContext, temporary: str | None = None) -> Policy | None:
    """What a sandbox context asks for; None if it asks for no sandbox.

    *temporary* is the directory for temporary files of who is in the sandbox; None for the host's own.

    :raises RpcError: it asks for something that we do not know or cannot enforce
    """
    permissions = context.permissions
    if permissions.type in ("disabled", "external"):
        return None
    if permissions.type != "managed":
        raise cannot_honour(f"unknown kind of permissions `{permissions.type}`")
    if permissions.network not in ("restricted", "enabled"):
        raise cannot_honour(f"unknown network permission `{permissions.network}`")
    network = permissions.network == "enabled"
    files = permissions.file_system
    if files is None or files.type not in ("restricted", "unrestricted"):
        raise cannot_honour("unknown file system permission")
    if files.type == "unrestricted":
        return None if network else Policy(_ordered(_without_own({"/": Grant("/", Access.WRITE, True)})), network)
    if temporary is None:
        temporary = os.environ.get("TMPDIR", "")
    grants: dict[str, Grant] = {}
    writable: set[str] = set()
    named = [(entry, _paths(entry, context, temporary)) for entry in files.entries if not _is_base(entry)]
    base = [path for entry in files.entries if _is_base(entry) for path in _paths(entry, context, temporary)]
    for entry, paths in named:
        for path in paths:
            place = _place(path)
            if entry.access is Access.WRITE:
                writable |= {place, _real(place)}
            for grant in _grants(place, entry):
                before = grants.get(grant.path)
                if before is None or _STRICTNESS[before.access] < _STRICTNESS[grant.access]:
                    grants[grant.path] = grant
    grants = _without_hidden(_with_base(grants, base))
    if not _is_everything(named):
        for grant in _protecting(Policy(_ordered(grants), network), writable):
            grants[grant.path] = grant
    return Policy(_ordered(_without_own(grants)), network)


def _ordered(grants: dict[str, Grant]) -> tuple[Grant, ...]:
    return tuple(sorted(grants.values(), key=lambda grant: len(grant.path)))


def _place(path: str) -> str:
    """A path without symlinks, except that it may be one itself."""
    parent, name = posixpath.split(posixpath.normpath(path))
    return posixpath.join(_real(parent), name) if name else "/"


def _grants(place: str, entry: Entry) -> list[Grant]:
    """One for the place, and if it is a symlink one for where it leads to."""
    above, name = posixpath.split(place)
    if entry.access is Access.READ and name in METADATA and os.path.isdir(above) and is_missing(place):
        return [Grant(place, Access.READ, False, reserved=True)]
    if os.path.lexists(place):
        return [Grant(found, entry.access, True) for found in {place, _real(place)}]
    # A missing path is left alone if the client says so; then what is above it decides.
    return [] if entry.missing_path_behavior == "skip" else [Grant(place, entry.access, False)]


def _is_base(entry: Entry) -> bool:
    """Whether an entry says that programs can start; as with the reference that is all, also if it says write."""
    return _is_special(entry, "minimal") and entry.access is not Access.DENY


def _with_base(grants: dict[str, Grant], base: list[str]) -> dict[str, Grant]:
    """The grants, and those to read the paths *base* where the others allow nothing and none names the place."""
    given = Policy(_ordered(grants), network=False)
    places = {found for path in map(_place, base) for found in (path, _real(path))}
    return {path: Grant(path, Access.READ, True) for path in places if given.access(path) is Access.DENY} | grants


def _without_hidden(grants: dict[str, Grant]) -> dict[str, Grant]:
    """The grants without those for reading in a directory that an entry denies: only writing opens it again."""
    kept: dict[str, Grant] = {}
    for grant in _ordered(grants):
        above = [other for other in kept.values() if is_below(grant.path, other.path)]
        nearest = above[-1] if above else None
        denied = nearest is not None and nearest.path != "/" and nearest.access is Access.DENY
        if not denied or grant.access is not Access.READ:
            kept[grant.path] = grant
    return kept


def _is_everything(named: list[tuple[Entry, list[str]]]) -> bool:
    """Whether the client wants all to be writable and says nothing else of any place, be it there or not."""
    given = {posixpath.normpath(path) for entry, paths in named if entry.access is Access.WRITE for path in paths}
    return any(_is_special(entry, "root") and entry.access is Access.WRITE for entry, _ in named) and not any(
        _narrows(entry, paths, given) for entry, paths in named
    )


def _narrows(entry: Entry, paths: list[str], given: set[str]) -> bool:
    """Whether an entry takes something from the right to write everywhere; *given* is what others name as writable."""
    if entry.access is Access.WRITE:
        return False
    return entry.access is Access.DENY or not paths or not given.issuperset(map(posixpath.normpath, paths))


def _is_special(entry: Entry, kind: str) -> bool:
    return isinstance(entry.path, SpecialPath) and entry.path.value.kind == kind and not entry.path.value.subpath


def _protecting(policy: Policy, writable: set[str]) -> Iterator[Grant]:
    """The grants by which the metadata below each writable directory is read-only, except the paths *writable*."""
    given = {grant.path: grant.access for grant in policy.grants}
    for grant in policy.grants:
        top = grant.path
        usable = grant.access is Access.WRITE and grant.exists and not os.path.islink(top) and os.path.isdir(top)
        if not usable or posixpath.basename(top) in METADATA:
            continue
        for name in METADATA:
            place = posixpath.join(top, name)
            if place not in writable and given.get(place) is not Access.DENY:
                yield from _protecting_one(policy, place, writable)


def _protecting_one(policy: Policy, place: str, writable: set[str]) -> Iterator[Grant]:
    if is_missing(place):
        yield Grant(place, Access.READ, False, reserved=True)
        return
    yield Grant(place, Access.READ, True)
    target: str | None = _real(place)
    if target == place:
        target = git_directory(place) if os.path.isfile(place) else None
    # Nothing becomes readable by being protected.
    if target is None or target in writable or not os.path.exists(target):
        return
    if policy.access(target) is Access.WRITE:
        yield Grant(target, Access.READ, True)


def _without_own(grants: dict[str, Grant]) -> dict[str, Grant]:
    """The grants, and none of them for what is the host's own."""
    for own in own_places():
        inside = [grant.path for grant in grants.values() if grant.access is not Access.DENY]
        if any(is_below(path, own) for path in inside):
            raise cannot_honour(f"`{own}` belongs to this exec-server")
        if os.path.lexists(own):
            grants = {**grants, own: Grant(own, Access.DENY, True)}
    return grants


def _real(path: str) -> str:
    return resolve_dots(os.path.realpath(path))


def _paths(entry: Entry, context: SandboxContext, temporary: str) -> list[str]:
    named = entry.path
    if isinstance(named, GlobPattern):
        raise cannot_honour(f"the pattern `{named.pattern}`: patterns are not supported")
    if isinstance(named, PlainPath):
        return [_native(named.path)]
    places = _special(named.value, context, temporary)
    subpath = named.value.subpath
    if not subpath:
        return places
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise cannot_honour(f"the subpath `{subpath}`")
    return [posixpath.join(place, subpath) for place in places]


def _special(value: Special, context: SandboxContext, temporary: str) -> list[str]:
    match value.kind:
        case "root":
            return ["/"]
        case "project_roots" | "current_working_directory":
            return [_native(root) for root in context.workspace_roots or ()]
        case "slash_tmp":
            return ["/tmp"] if os.path.isdir("/tmp") else []
        case "tmpdir":
            return [temporary] if temporary.startswith("/") and os.path.isdir(temporary) else []
        case "minimal":
            return [path for path in _MINIMAL if os.path.exists(path)]
        case _:
            raise cannot_honour(f"unknown place `{value.kind}`")


def _native(path: str) -> str:
    if path.startswith("/"):
        return path
    try:
        return uri_to_path(path)
    except InvalidUri as error:
        raise cannot_honour(error.message) from None
