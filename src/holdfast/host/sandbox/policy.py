"""The meaning of a sandbox's permissions on this machine: real paths, and what may be done below each."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import Final

from holdfast.host.sandbox.permissions import Access, Entry, GlobPattern, PlainPath, SandboxContext, Special
from holdfast.host.uri import InvalidUri, uri_to_path
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


@dataclass(frozen=True, slots=True)
class Policy:
    """A managed sandbox.  It is also a rule of a :class:`holdfast.host.files.scope.Scope`."""

    #: Shorter paths first; None when all files are allowed.
    grants: tuple[Grant, ...] | None
    network: bool

    def access(self, path: str) -> Access:
        """What may be done with a real path: the longest grant above it decides; nothing is said means deny."""
        found = Access.DENY
        for grant in self.grants or ():
            if is_below(path, grant.path):
                found = grant.access
        return found

    def require(self, path: str, *, write: bool, tree: bool = False) -> None:
        """Check a real path, and with *tree* everything below it.

        :raises RpcError: not allowed
        """
        if self.grants is None:
            return
        allowed = (Access.WRITE,) if write else (Access.READ, Access.WRITE)
        below = [grant.access for grant in self.grants if tree and is_below(grant.path, path)]
        if any(access not in allowed for access in (self.access(path), *below)):
            verb = "writing" if write else "reading"
            raise RpcError(INVALID_REQUEST, f"the sandbox does not allow {verb} `{path}`")


def is_below(path: str, top: str) -> bool:
    """Whether *path* is *top* or in it; both absolute, without ``..``."""
    return top == "/" or path == top or path.startswith(top + "/")


def policy_of(context: SandboxContext) -> Policy | None:
    """What a sandbox context asks for; None if it asks for no sandbox.

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
        return None if network else Policy(None, network)
    grants: dict[str, Grant] = {}
    for entry in files.entries:
        for path in _paths(entry, context):
            for grant in _grants(path, entry):
                before = grants.get(grant.path)
                if before is None or _STRICTNESS[before.access] < _STRICTNESS[grant.access]:
                    grants[grant.path] = grant
    return Policy(tuple(sorted(grants.values(), key=lambda grant: len(grant.path))), network)


def _grants(path: str, entry: Entry) -> list[Grant]:
    """One for the path, and if it is a symlink one for where it leads to."""
    path = posixpath.normpath(path)
    parent, name = posixpath.split(path)
    place = posixpath.join(_real(parent), name) if name else "/"
    if os.path.lexists(place):
        return [Grant(found, entry.access, True) for found in {place, _real(place)}]
    # A missing path is left alone if the client says so; then what is above it decides.
    return [] if entry.missing_path_behavior == "skip" else [Grant(place, entry.access, False)]


def _real(path: str) -> str:
    return "/" + posixpath.normpath(os.path.realpath(path)).lstrip("/")


def _paths(entry: Entry, context: SandboxContext) -> list[str]:
    named = entry.path
    if isinstance(named, GlobPattern):
        raise cannot_honour(f"the pattern `{named.pattern}`: patterns are not supported")
    if isinstance(named, PlainPath):
        return [_native(named.path)]
    places = _special(named.value, context)
    subpath = named.value.subpath
    if not subpath:
        return places
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise cannot_honour(f"the subpath `{subpath}`")
    return [posixpath.join(place, subpath) for place in places]


def _special(value: Special, context: SandboxContext) -> list[str]:
    match value.kind:
        case "root":
            return ["/"]
        case "project_roots" | "current_working_directory":
            roots = context.workspace_roots or ([context.cwd] if context.cwd else [])
            return [_native(root) for root in roots]
        case "slash_tmp":
            return ["/tmp"] if os.path.isdir("/tmp") else []
        case "tmpdir":
            directory = os.environ.get("TMPDIR", "")
            return [directory] if directory.startswith("/") and os.path.isdir(directory) else []
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
