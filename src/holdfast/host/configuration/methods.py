"""Registers ``environmentConfig/read``."""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any

from holdfast.host.configuration.layers import Layers, codex_home, load, user_home
from holdfast.host.configuration.reading import Files, cannot_load
from holdfast.host.configuration.toml import InvalidToml, render
from holdfast.host.dispatch import ClientConnection
from holdfast.host.files.place import path_of, require_path
from holdfast.host.files.scope import Scope
from holdfast.host.files.service import FileService
from holdfast.host.methods import method
from holdfast.host.parameters import Parameters
from holdfast.host.uri import path_to_uri
from holdfast.jsonrpc.messages import INVALID_PARAMS, RpcError, encode_json


class ReadConfiguration(Parameters, frozen=True):
    """``environmentConfig/read``: which parts of the configuration that holds in a directory are wanted."""

    #: URI of the directory; it need not exist.
    cwd: str
    #: Each a path of keys through nested tables.
    config_paths: list[list[str]]
    requirements_paths: list[list[str]]

    def __post_init__(self) -> None:
        require_path(self.cwd)


@method("environmentConfig/read", ReadConfiguration, "environment config")
async def read_configuration(client: ClientConnection, params: ReadConfiguration) -> bytes:
    """Layers of configuration and requirements, as TOML texts."""
    paths = params.config_paths + params.requirements_paths
    if not paths:
        raise RpcError(INVALID_PARAMS, "at least one config or requirements path is required")
    if not all(paths):
        raise RpcError(INVALID_PARAMS, "TOML paths must contain at least one key segment")
    service = client.resource(FileService, FileService)
    return await service.in_thread(_read, params, Scope() if client.root is None else Scope.below(client.root))


def _read(params: ReadConfiguration, scope: Scope) -> bytes:
    directory = path_of(params.cwd)
    # What the user and the administrator say belongs to the host itself; only the project is the client's choice.
    scope.require(os.path.realpath(directory), write=False)
    home = codex_home()
    user = user_home()
    try:
        config, requirements = load(directory, home, Files(scope))
        return encode_json(
            {
                "userHomeDir": path_to_uri(user) if user.startswith("/") else None,
                "codexHomeDir": path_to_uri(home),
                "hostname": _hostname(),
                "config": _answer(config.select(params.config_paths)),
                "requirements": _answer(requirements.select(params.requirements_paths)),
            }
        )
    except InvalidToml as error:
        raise cannot_load(error.message) from None
    except RecursionError:
        raise cannot_load("it is nested too deeply") from None


def _answer(layers: Layers) -> dict[str, Any]:
    return {
        "layers": [
            {"source": layer.source, "baseDir": path_to_uri(layer.base), "toml": render(layer.table)}
            for layer in layers.layers
        ],
        "cloudInsertionIndex": layers.below_cloud,
    }


@cache
def _hostname() -> str | None:
    """The full name of this machine if its resolver knows one, else the short one, in lower case."""
    own = _name(socket.gethostname())
    if own is None:
        return None
    try:
        # As bytes, because the codec for international names is large.
        found = socket.getaddrinfo(own.encode(), None, flags=socket.AI_CANONNAME)
    except OSError:
        found = []
    names = (_name(canonical) for *_, canonical, _ in found)
    return next((name for name in names if name is not None and "." in name), own)


def _name(name: str) -> str | None:
    return name.strip().rstrip(".").lower() or None
