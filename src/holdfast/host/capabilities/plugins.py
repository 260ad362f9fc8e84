"""The plugins that Codex has installed on this machine, in ``plugins/cache/MARKETPLACE/PLUGIN/VERSION`` of its home.

Which directories count, and which version of several, was measured on Codex CLI 0.169.  Whether a plugin is enabled
is the client's business, as it is there.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from holdfast.host import discovery
from holdfast.host.capabilities.manifest import InvalidManifest, Manifest, parse_object, read_manifest
from holdfast.host.capabilities.skills import Skill, read_skills
from holdfast.host.files.parameters import Walk, WalkOptions
from holdfast.host.files.place import locate, path_of
from holdfast.host.files.reading import open_regular
from holdfast.host.files.scope import Scope
from holdfast.host.files.walk import walk
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import RpcError

#: What the client said when it installed a plugin that the cloud knows; beside the versions.
_REMOTE: Final = ".codex-remote-plugin-install.json"
#: Bytes of that file, and of the name of the plugin in the cloud.
_REMOTE_LIMIT: Final = 16 * 1024
_REMOTE_ID_LIMIT: Final = 1024
_OPTIONS: Final = WalkOptions(max_depth=1, max_directories=2000, max_entries=20_000, follow_directory_symlinks=True)
_MARKETPLACE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLUGIN: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_VERSION: Final = re.compile(r"[A-Za-z0-9._+-]+")
#: The version of a plugin that somebody works on; it counts more than any other.
_LOCAL: Final = "local"
_NUMBER: Final = r"(0|[1-9][0-9]*)"
_SEMANTIC: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


class _Entry(msgspec.Struct):
    path: str
    kind: str


class _Walked(msgspec.Struct):
    entries: list[_Entry]
    errors: list[msgspec.Raw]
    truncated: bool


class Plugin(msgspec.Struct, rename="camel"):
    """A plugin as it is told."""

    id: str
    display_name: str
    remote_plugin_id: str | None
    version: str
    #: URI of its directory.
    root: str
    files: discovery.Plugin
    skills: list[Skill]


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a plugin lies."""

    id: str
    version: str
    path: str
    remote_id: str | None


def find_installed(cache: str, scope: Scope) -> tuple[list[Installed], bool]:
    """The plugins below a directory that exists, by their ids, and whether all of it could be looked at.

    :raises OSError: the directory cannot be looked at
    """
    walked = msgspec.json.decode(walk(scope, Walk(path=path_to_uri(cache), options=_OPTIONS)), type=_Walked)
    complete = not walked.errors and not walked.truncated
    found: list[Installed] = []
    for path in (path_of(entry.path) for entry in walked.entries if entry.kind == "directory"):
        marketplace, _, name = path.removeprefix(cache.rstrip("/") + "/").partition("/")
        if not _MARKETPLACE.fullmatch(marketplace) or not _PLUGIN.fullmatch(name):
            continue
        try:
            version = _version_of(path, scope)
        except RpcError:
            # What a sandbox does not see is not there.
            continue
        except OSError:
            complete = False
            continue
        if version is None:
            continue
        remote, understood = _remote_id(path, scope)
        complete = complete and understood
        found.append(Installed(f"{name}@{marketplace}", version, posixpath.join(path, version), remote))
    return sorted(found, key=lambda plugin: plugin.id), complete


def read_plugin(installed: Installed, scope: Scope) -> tuple[Plugin | None, bool]:
    """A plugin, None if it says nothing of itself; and whether all that was found in it could be understood."""
    search = discovery.RootSearch(discovery.CapabilityRoot(id="", path=path_to_uri(installed.path)), scope)
    search.run()
    found = search.found
    if found.plugin is None:
        return None, False
    try:
        manifest = read_manifest(found.plugin.manifest.contents)
    except InvalidManifest:
        return None, False
    files, understood = _files(found.plugin, manifest)
    skills, complete = read_skills(found)
    name = manifest.display_name or manifest.name or installed.version
    return (
        Plugin(installed.id, name, installed.remote_id, installed.version, found.path, files, skills),
        complete and understood,
    )


def _files(plugin: discovery.Plugin, manifest: Manifest) -> tuple[discovery.Plugin, bool]:
    """The files of a plugin, and whether those are there that its manifest names."""
    mcp = plugin.mcp_config
    if manifest.mcp_servers is not None:
        mcp = discovery.TextFile(plugin.manifest.path, manifest.mcp_servers)
    complete = (mcp is not None or not manifest.names_mcp_file) and (
        plugin.apps_config is not None or not manifest.names_apps_file
    )
    return discovery.Plugin(plugin.manifest, mcp, plugin.apps_config), complete


def _version_of(plugin: str, scope: Scope) -> str | None:
    """The version of a plugin that counts; None if there is none.

    :raises OSError: the directory cannot be listed
    :raises RpcError: nothing is to be known of it
    """
    with locate(posixpath.join(plugin, "."), scope) as place:
        descriptor = place.open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as listing:
            names = sorted(entry.name for entry in listing if entry.is_dir(follow_symlinks=False))
    finally:
        os.close(descriptor)
    versions = [name for name in names if _VERSION.fullmatch(name)]
    if _LOCAL in versions:
        return _LOCAL
    return functools.reduce(_newer, versions) if versions else None


def _newer(one: str, other: str) -> str:
    """The newer of two versions: by their numbers if both have them, else by the text."""
    ranks = _rank(one), _rank(other)
    if ranks[0] is not None and ranks[1] is not None:
        return other if ranks[1] >= ranks[0] else one
    return max(one, other)


_Identifier = tuple[int, int, int, str]
_Rank = tuple[tuple[int, ...], bool, tuple[_Identifier, ...], tuple[_Identifier, ...]]


def _rank(version: str) -> _Rank | None:
    found = _SEMANTIC.fullmatch(version)
    if found is None:
        return None
    early = found[4].split(".") if found[4] else []
    numbers = tuple(int(found[index]) for index in (1, 2, 3) if len(found[index]) <= 20)
    if len(numbers) < 3 or max(numbers) >= 2**64 or any(part.isdigit() and part[0] == "0" != part for part in early):
        return None
    build = found[5].split(".") if found[5] else []
    return numbers, not early, tuple(map(_identifier, early)), tuple(map(_identifier, build))


def _identifier(part: str) -> _Identifier:
    """A part of what follows the numbers: numbers before texts."""
    return (0, int(part), len(part), "") if part.isdigit() else (1, 0, 0, part)


def _remote_id(plugin: str, scope: Scope) -> tuple[str | None, bool]:
    """What a plugin is called in the cloud, and whether what is said of it could be understood."""
    try:
        with locate(posixpath.join(plugin, _REMOTE), scope) as place:
            descriptor = open_regular(place)
        with open(descriptor, "rb") as file:
            content = file.read(_REMOTE_LIMIT + 1)
        if len(content) > _REMOTE_LIMIT:
            return None, False
        said = parse_object(content.decode(), "schema_version", "remote_plugin_id")
    except FileNotFoundError:
        return None, True
    except (OSError, RpcError, InvalidManifest, UnicodeDecodeError):
        return None, False
    name = said.get("remote_plugin_id")
    name = name.strip() if isinstance(name, str) else ""
    if (
        said.get("schema_version") != msgspec.Raw(b"1")
        or not 0 < len(name.encode(errors="replace")) <= _REMOTE_ID_LIMIT
    ):
        return None, False
    return name, True
