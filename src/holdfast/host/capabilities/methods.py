"""Registers ``capabilities/discoverV2``.

The directories are those of Codex CLI 0.169: the user's and the administrator's skills, and installed plugins.  Those
of a project are found by the client itself, so the working directory changes nothing; it only has to be a URI.
"""

from __future__ import annotations

import posixpath
import stat
from typing import Final

from holdfast.host import discovery
from holdfast.host.capabilities.answer import BoundedAnswer
from holdfast.host.capabilities.plugins import find_installed, read_plugin
from holdfast.host.capabilities.skills import DiscoveryRoot, FreeSkill, read_skills
from holdfast.host.configuration.layers import SYSTEM_DIRECTORY, codex_home, user_home
from holdfast.host.dispatch import ClientConnection
from holdfast.host.files.parameters import FileParameters
from holdfast.host.files.place import locate, require_path
from holdfast.host.files.refusal import from_os_error
from holdfast.host.files.scope import Scope
from holdfast.host.files.service import FileService
from holdfast.host.methods import method
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import RpcError

_LOCATIONS_MISSING: Final = "some capability locations could not be resolved; discovery may be incomplete"
_METADATA_MISSING: Final = "some capability metadata could not be loaded; discovery may be incomplete"


class DiscoverCapabilities(FileParameters, frozen=True):
    """``capabilities/discoverV2``."""

    #: URI of a directory; it need not exist, nor be one of this machine.
    cwd: str

    def __post_init__(self) -> None:
        require_path(self.cwd)


@method("capabilities/discoverV2", DiscoverCapabilities, "capability discovery")
async def discover_capabilities(client: ClientConnection, params: DiscoverCapabilities) -> bytes:
    """Plugins, skills that are part of none, and warnings; 4 MiB of them at most."""
    service = client.resource(FileService, FileService)
    return await service.in_thread(_discover, service, params)


def _discover(service: FileService, params: DiscoverCapabilities) -> bytes:
    scope = service.scope(params)
    home = codex_home()
    roots = (
        ("codex-home-skills", posixpath.join(home, "skills")),
        ("user-agent-skills", posixpath.join(user_home(), ".agents/skills")),
        ("system-skills", posixpath.join(SYSTEM_DIRECTORY, "skills")),
    )
    cache = posixpath.join(home, "plugins/cache")
    answer = BoundedAnswer()
    try:
        present = [DiscoveryRoot(name, path_to_uri(path)) for name, path in roots if _is_directory(path, scope)]
        installed, complete = find_installed(cache, scope) if _is_directory(cache, scope) else ([], True)
    except OSError as error:
        raise from_os_error(error) from None
    warnings = [] if complete else [_LOCATIONS_MISSING]
    for place in installed:
        plugin, complete = read_plugin(place, scope)
        if plugin is not None:
            answer.add("plugins", plugin)
        if not complete:
            warnings.append(_METADATA_MISSING)
    for root in present:
        search = discovery.RootSearch(discovery.CapabilityRoot(id=root.id, path=root.path), scope)
        search.run()
        skills, complete = read_skills(search.found)
        for skill in skills:
            answer.add("skills", FreeSkill.of(skill, root))
        if not complete:
            warnings.append(_METADATA_MISSING)
    for warning in warnings:
        answer.add("warnings", warning)
    return answer.finish()


def _is_directory(path: str, scope: Scope) -> bool:
    """Whether there is a directory to look into.

    :raises OSError: nobody can say
    """
    try:
        with locate(path, scope) as place:
            return stat.S_ISDIR(place.status().st_mode)
    except FileNotFoundError:
        return False
    except RpcError:
        # What a sandbox does not see is not there.
        return False
