"""The layers of Codex's configuration and requirements on this machine, from the lowest to the highest.

Which files count, in which order, and what a project may not say was measured on Codex CLI 0.169.  A configuration
that does not count (of a project that is not trusted) is not even read.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import Any, Final

from holdfast.host.configuration.project import Project, find_project, real
from holdfast.host.configuration.reading import Files, cannot_load
from holdfast.host.configuration.toml import Table, is_table
from holdfast.host.environment import shell_and_home
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import INTERNAL_ERROR, RpcError

#: Where the administrator's files are.
SYSTEM_DIRECTORY: Final = "/etc/codex"
#: What a project must not decide: where requests and reports go, and what is run beside it.
_NOT_FOR_PROJECTS: Final = frozenset(
    {
        "apps_mcp_product_sku",
        "chatgpt_base_url",
        "experimental_realtime_webrtc_call_base_url",
        "experimental_realtime_ws_base_url",
        "model_provider",
        "model_providers",
        "notify",
        "openai_base_url",
        "otel",
        "profile",
        "profiles",
        "responses_api_metadata",
    }
)
#: The members of ``approval_policy.granular``; the reference implementation writes all of them.
_GRANULAR: Final = ("sandbox_approval", "rules", "skill_approval", "request_permissions", "mcp_elicitations")
_GRANULAR_REQUIRED: Final = frozenset({"sandbox_approval", "rules", "mcp_elicitations"})
#: What ``managed_config.toml`` may say, and what it means where that is spelled differently.
_APPROVAL_POLICIES: Final = {name: name for name in ("untrusted", "on-request", "never")} | {"on-failure": "on-request"}
_REVIEWERS: Final = {
    "user": ["user"],
    "auto_review": ["auto_review", "user"],
    "guardian_subagent": ["auto_review", "user"],
}
_SANDBOX_MODES: Final = {
    "read-only": ["read-only"],
    "workspace-write": ["read-only", "workspace-write"],
    "danger-full-access": ["read-only", "danger-full-access"],
}


@dataclass(frozen=True, slots=True)
class Layer:
    """What one file says."""

    #: The file, and what it is, in the words of the protocol.
    source: str
    #: The directory to which its relative paths are relative.
    base: str
    table: Table


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers from the lowest to the highest, and how many of them are below what the cloud says."""

    layers: tuple[Layer, ...]
    below_cloud: int

    def select(self, paths: list[list[str]]) -> Layers:
        """What they say of some paths; a layer that says nothing is left out."""
        wanted = _selection(paths)
        found = [(index, layer, _select(layer.table, wanted)) for index, layer in enumerate(self.layers)]
        kept = [(index, Layer(layer.source, layer.base, table)) for index, layer, table in found if table]
        below = sum(index < self.below_cloud for index, _ in kept)
        return Layers(tuple(layer for _, layer in kept), below)


#: The keys that are wanted of a table; None for all of it.
_Selection = dict[str, Any]


def _selection(paths: list[list[str]]) -> _Selection:
    root: _Selection = {}
    for path in paths:
        node = root
        for key in path[:-1]:
            following = node.setdefault(key, {})
            if following is None:
                break
            node = following
        else:
            node[path[-1]] = None
    return root


def _select(value: Any, wanted: _Selection | None) -> Any:
    # What is no table hides the tables of lower layers, so it is kept.
    if wanted is None or not is_table(value):
        return value
    return {key: _select(below, wanted[key]) for key, below in value.items() if key in wanted}


def codex_home() -> str:
    """Where Codex keeps what belongs to the user.

    :raises RpcError: ``CODEX_HOME`` is set, and names no directory
    """
    given = os.environ.get("CODEX_HOME")
    if not given:
        return posixpath.join(os.path.abspath(user_home()), ".codex")
    if not os.path.isdir(given):
        state = "is not a directory" if os.path.exists(given) else "does not exist"
        reason = f'CODEX_HOME points to "{given}", but that path {state}'
        raise RpcError(INTERNAL_ERROR, f"failed to find Codex home: {reason}")
    return os.path.realpath(given)


def user_home() -> str:
    """The home directory, as the environment says or else the account."""
    return os.environ.get("HOME") or shell_and_home()[1]


def load(directory: str, home: str, projects: Files, system: str = SYSTEM_DIRECTORY) -> tuple[Layers, Layers]:
    """Configuration and requirements that hold in *directory*; files of projects are read through *projects*.

    :raises RpcError: one of the files cannot be read, or does not say what it has to
    """
    files = Files(Scope())
    managed_file = posixpath.join(system, "managed_config.toml")
    managed = files.table(managed_file)
    layers: list[Layer] = []
    merged: Table = {}
    for kind, base in (("system", system), ("user", home)):
        path = posixpath.join(base, "config.toml")
        table = files.table(path) or {}
        layers.append(Layer(f"{kind} ({path})", base, table))
        merged = _merge(merged, table)
    requirements = _requirements(files, system, managed_file, managed)
    merged = _merge(merged, managed or {})
    project = find_project(projects, directory, merged)
    layers += _project_layers(projects, project, home, _has_broker(merged))
    if managed is not None:
        layers.append(Layer(f"legacy managed_config.toml ({managed_file})", system, managed))
    return Layers(tuple(layers), 1), requirements


def _merge(low: Table, high: Table) -> Table:
    merged = dict(low)
    for key, value in high.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if is_table(under) and is_table(value) else value
    return merged


def _project_layers(files: Files, project: Project, home: str, broker: bool) -> list[Layer]:
    layers: list[Layer] = []
    for directory in project.directories:
        base = posixpath.join(directory, ".codex")
        if not files.is_directory(base) or real(base) == home or not project.is_trusted(directory):
            continue
        path = posixpath.join(base, "config.toml")
        table = _for_project(files.table(path, "project config file") or {}, broker)
        main = project.main_directory(directory)
        if main is None:
            layers.append(Layer(f"project ({path})", base, table))
            continue
        # Hooks of a linked worktree are those of the main checkout.
        table.pop("hooks", None)
        layers.append(Layer(f"project ({path})", base, table))
        base = posixpath.join(main, ".codex")
        path = posixpath.join(base, "config.toml")
        found = files.table(path, "project hooks config file") or {}
        if "hooks" in found:
            layers.append(Layer(f"project ({path})", base, {"hooks": found["hooks"]}))
    return layers


def _for_project(table: Table, broker: bool) -> Table:
    """What a project may say."""
    allowed = {key: value for key, value in table.items() if key not in _NOT_FOR_PROJECTS}
    _drop(allowed, "features", "respect_system_proxy")
    if broker:
        # Neither the broker nor the variables that it fills; the reference implementation leaves those that it
        # knows to be none of its own.
        _drop(allowed, "features", "network_proxy")
        _drop(allowed, "features", "shell_snapshot")
        _drop(allowed, "shell_environment_policy", "experimental_use_profile")
        _drop(allowed, "shell_environment_policy", "set")
    return allowed


def _drop(table: Table, group: str, key: str) -> None:
    if isinstance(table.get(group), dict):
        table[group].pop(key, None)


def _has_broker(configuration: Table) -> bool:
    """Whether the user has Codex put in credentials for the programs that it starts."""
    value: Any = configuration
    for key in ("features", "network_proxy", "credential_broker"):
        value = value.get(key) if is_table(value) else None
    return value is True


def _requirements(files: Files, system: str, managed_file: str, managed: Table | None) -> Layers:
    path = posixpath.join(system, "requirements.toml")
    table = files.table(path, "requirements file")
    layers = [] if table is None else [Layer(path, system, table)]
    if managed is not None:
        layers.append(Layer(managed_file, system, _managed_requirements(managed)))
    return Layers(tuple(layers), int(table is not None))


def _managed_requirements(managed: Table) -> Table:
    """What ``managed_config.toml``, the older way, demands: the values that it sets are the only ones allowed."""
    demands: Table = {}
    if "approval_policy" in managed:
        demands["allowed_approval_policies"] = [_approval_policy(managed["approval_policy"])]
    for key, values, demand in (
        ("approvals_reviewer", _REVIEWERS, "allowed_approvals_reviewers"),
        ("sandbox_mode", _SANDBOX_MODES, "allowed_sandbox_modes"),
    ):
        if key in managed:
            demands[demand] = _one_of(key, managed[key], values)
    return demands


def _approval_policy(value: Any) -> Any:
    if not is_table(value):
        return _one_of("approval_policy", value, _APPROVAL_POLICIES)
    granular = value.get("granular")
    if len(value) != 1 or not is_table(granular):
        raise _not_understood("approval_policy")
    flags = {name: granular.get(name, False) for name in _GRANULAR}
    if not granular.keys() >= _GRANULAR_REQUIRED or not all(isinstance(flag, bool) for flag in flags.values()):
        raise _not_understood("approval_policy.granular")
    return {"granular": flags}


def _one_of(key: str, value: Any, values: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in values:
        raise _not_understood(key)
    return values[value]


def _not_understood(key: str) -> RpcError:
    return cannot_load(f"managed_config.toml: the value of `{key}` is not one of those that there are")
