"""``capabilityRoots/discoverV1``: the skills and the plugin below directories that the client names.

The host finds the files and hands them over; what they mean is the client's business.  Which files, in which order and
within which limits is that of Codex CLI 0.169.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import Any, Final

import msgspec

from holdfast.host.dispatch import ClientConnection
from holdfast.host.files.parameters import OnePath, Walk, WalkOptions
from holdfast.host.files.place import ForeignPath, locate, path_of
from holdfast.host.files.reading import open_regular
from holdfast.host.files.refusal import reason_of
from holdfast.host.files.scope import Scope
from holdfast.host.files.service import FileService
from holdfast.host.files.walk import walk
from holdfast.host.methods import method
from holdfast.host.parameters import Parameters
from holdfast.host.uri import normalize, path_to_uri
from holdfast.jsonrpc.messages import INVALID_REQUEST, RpcError, encode_json

ROOT_LIMIT: Final = 128
#: Bytes of a file, of all files of a root, and (a limit of ours) of all roots of a request.
FILE_LIMIT: Final = 1024 * 1024
BUNDLE_LIMIT: Final = 16 * 1024 * 1024
ANSWER_LIMIT: Final = 64 * 1024 * 1024
_OPTIONS: Final = WalkOptions(max_depth=6, max_directories=2000, max_entries=20_000, follow_directory_symlinks=True)
#: Where a plugin may describe itself; the first one counts.
_MANIFESTS: Final = tuple(f"{name}/plugin.json" for name in (".codex-plugin", ".claude-plugin", ".cursor-plugin"))
_SKILL: Final = "SKILL.md"
_SKILL_METADATA: Final = "agents/openai.yaml"
_MCP_CONFIGURATION: Final = ".mcp.json"
_APPS_CONFIGURATION: Final = ".app.json"


class CapabilityRoot(OnePath, frozen=True, kw_only=True):
    """A directory to look into; ``id`` is the client's name for it."""

    id: str


class Discover(Parameters, frozen=True):
    """``capabilityRoots/discoverV1``."""

    roots: list[CapabilityRoot]


class _Entry(msgspec.Struct):
    path: str
    kind: str


class _Fault(msgspec.Struct):
    path: str
    message: str


class _Walked(msgspec.Struct):
    entries: list[_Entry]
    errors: list[_Fault]
    truncated: bool


class _Declarations(msgspec.Struct, rename="camel"):
    """What a plugin's manifest says of other files: a path, or what would be in the file."""

    mcp_servers: Any = None
    apps: Any = None


class TextFile(msgspec.Struct):
    """A file that was found."""

    #: Its URI.
    path: str
    contents: str


class Plugin(msgspec.Struct, rename="camel"):
    """The files of a plugin."""

    manifest: TextFile
    mcp_config: TextFile | None
    apps_config: TextFile | None


class Skill(msgspec.Struct):
    """The files of a skill."""

    instructions: TextFile
    metadata: TextFile | None


class Discovery(msgspec.Struct, rename="camel"):
    """What was found below one root; with ``error`` nothing."""

    id: str
    path: str
    plugin: Plugin | None = None
    #: In the order of their URIs.
    skills: list[Skill] = msgspec.field(default_factory=list[Skill])
    #: The manifests by whose plugins the skills are named, an enclosing one first.
    namespace_manifests: list[TextFile] = msgspec.field(default_factory=list[TextFile])
    warnings: list[str] = msgspec.field(default_factory=list[str])
    error: str | None = None


@method("capabilityRoots/discoverV1", Discover, "capability discovery")
async def discover(client: ClientConnection, params: Discover) -> bytes:
    """What there is below each root."""
    if len(params.roots) > ROOT_LIMIT:
        raise RpcError(INVALID_REQUEST, f"capability root discovery accepts at most {ROOT_LIMIT} roots")
    service = client.resource(FileService, FileService)
    return await service.in_thread(_discover_all, service, params.roots)


def _discover_all(service: FileService, roots: list[CapabilityRoot]) -> bytes:
    # If one of the sandboxes is refused, nothing is looked at.
    scopes = [service.scope(root) for root in roots]
    left = ANSWER_LIMIT
    found: list[Discovery] = []
    for root, scope in zip(roots, scopes, strict=True):
        try:
            search = RootSearch(root, scope, min(left, BUNDLE_LIMIT))
        except ForeignPath as foreign:
            error = f"failed to inspect capability root {foreign.uri}: {foreign.message}"
            found.append(Discovery(root.id, foreign.uri, error=error))
            continue
        search.run()
        left -= search.size
        found.append(search.found)
    return encode_json({"roots": found})


class RootSearch:
    """Looking into one root: what :meth:`run` finds is in ``found``."""

    def __init__(self, root: CapabilityRoot, scope: Scope, limit: int = BUNDLE_LIMIT) -> None:
        self._root = path_of(root.path)
        self.found = Discovery(root.id, normalize(root.path))
        #: Bytes that were read.
        self.size = 0
        self._scope = scope
        self._limit = limit

    def run(self) -> None:
        """Look; what is wrong becomes the ``error`` or a warning."""
        found = self.found
        try:
            with locate(self._root, self._scope) as place:
                directory = stat.S_ISDIR(place.status().st_mode)
            if not directory:
                found.error = f"capability root {found.path} is not a directory"
                return
            walked = msgspec.json.decode(walk(self._scope, Walk(path=found.path, options=_OPTIONS)), type=_Walked)
        except (OSError, RpcError) as error:
            found.error = f"failed to inspect capability root {found.path}: {reason_of(error)}"
            return
        for fault in walked.errors:
            found.warnings.append(f"failed to scan capability path {fault.path}: {fault.message}")
        if walked.truncated:
            found.warnings.append(f"capability scan reached its traversal limit (root: {found.path})")
        files = [path_of(entry.path) for entry in walked.entries if entry.kind == "file"]
        manifest = self._first_manifest(self._root)
        self._find_namespaces(files, manifest)
        if manifest is not None:
            found.plugin = self._plugin(manifest)
        for path in sorted((path for path in files if posixpath.basename(path) == _SKILL), key=path_to_uri):
            instructions = self._read(path)
            if instructions is not None:
                metadata = self._read(posixpath.join(posixpath.dirname(path), _SKILL_METADATA))
                found.skills.append(Skill(instructions, metadata))

    def _first_manifest(self, directory: str) -> TextFile | None:
        found = map(self._read, (f"{directory.rstrip('/')}/{name}" for name in _MANIFESTS))
        return next(filter(None, found), None)

    def _find_namespaces(self, files: list[str], own: TextFile | None) -> None:
        """The manifest of the root or else of the nearest directory around it, and those below it."""
        around: str = self._root
        while own is None and around != "/":
            around = os.path.dirname(around)
            own = self._first_manifest(around)
        seen: set[str] = set()
        if own is not None:
            seen.add(_plugin_root(path_of(own.path)))
            self.found.namespace_manifests.append(own)
        manifests = [path for path in files if path.endswith(tuple("/" + name for name in _MANIFESTS))]
        for path in sorted(manifests, key=_rank):
            if _plugin_root(path) not in seen:
                seen.add(_plugin_root(path))
                manifest = self._read(path)
                if manifest is not None:
                    self.found.namespace_manifests.append(manifest)

    def _plugin(self, manifest: TextFile) -> Plugin:
        try:
            declared = msgspec.json.decode(manifest.contents, type=_Declarations)
        except (msgspec.DecodeError, RecursionError):
            declared = _Declarations()
        mcp = self._declared("mcpServers", declared.mcp_servers, manifest)
        if mcp is None and not isinstance(declared.mcp_servers, dict):
            mcp = posixpath.join(self._root, _MCP_CONFIGURATION)
        apps = self._declared("apps", declared.apps, manifest) or posixpath.join(self._root, _APPS_CONFIGURATION)
        return Plugin(manifest, self._read(mcp) if mcp else None, self._read(apps))

    def _declared(self, name: str, value: object, manifest: TextFile) -> str | None:
        if not isinstance(value, str):
            return None
        below = value.removeprefix("./")
        if below == value:
            reason = "path must start with `./`"
        elif not below or below.startswith("/") or ".." in below.replace("\\", "/").split("/"):
            reason = "path must remain below the capability root"
        else:
            return posixpath.normpath(posixpath.join(self._root, below))
        self.found.warnings.append(f"ignoring {name} in {manifest.path}: {reason}")
        return None

    def _read(self, path: str) -> TextFile | None:
        """A text file; None if there is none, with a warning if there is one that cannot be had."""
        uri = path_to_uri(path)
        try:
            with locate(path, self._scope) as place:
                status = place.status()
                if not stat.S_ISREG(status.st_mode):
                    return None
                if status.st_size > FILE_LIMIT:
                    self._warn(f"capability file {uri} exceeds the {FILE_LIMIT}-byte limit")
                    return None
                if self.size + status.st_size > self._limit:
                    self._warn(f"capability root bundle exceeds the {BUNDLE_LIMIT}-byte limit")
                    return None
                descriptor = open_regular(place)
            with open(descriptor, "rb") as file:
                content = file.read(FILE_LIMIT + 1)
        except FileNotFoundError:
            return None
        except (OSError, RpcError) as error:
            self._warn(f"failed to inspect capability file {uri}: {reason_of(error)}")
            return None
        if len(content) > FILE_LIMIT or self.size + len(content) > self._limit:
            self._warn(f"capability file {uri} exceeded its read limit")
            return None
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            damage = f"{error.end - error.start} bytes from index {error.start}"
            self._warn(f"capability file {uri} is not UTF-8: invalid utf-8 sequence of {damage}")
            return None
        self.size += len(content)
        return TextFile(uri, text)

    def _warn(self, text: str) -> None:
        self.found.warnings.append(text)


def _plugin_root(manifest: str) -> str:
    return posixpath.dirname(posixpath.dirname(manifest))


def _rank(manifest: str) -> tuple[str, int]:
    """Sorts manifests by their plugin, and of one plugin the one first that counts."""
    return path_to_uri(_plugin_root(manifest)), _MANIFESTS.index(os.path.relpath(manifest, _plugin_root(manifest)))
