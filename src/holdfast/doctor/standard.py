"""The checks that ``holdfast doctor`` runs, in the order in which people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.agents.catalogue import known_agents
from holdfast.directories import socket_path
from holdfast.doctor.agents import AgentCheck, AnyAgentCheck, BrokenCatalogueCheck
from holdfast.doctor.check import Check
from holdfast.doctor.database import DatabaseCheck
from holdfast.doctor.git import GitCheck, RepositoryCheck
from holdfast.doctor.installation import LibrariesCheck, PythonCheck, SqliteCheck
from holdfast.doctor.machine_clock import ClockCheck
from holdfast.doctor.sandbox import SandboxCheck
from holdfast.doctor.sockets import StaleSocketsCheck
from holdfast.doctor.state import (
    SocketPathCheck,
    SpaceCheck,
    StateDirectoryCheck,
    StateFilesCheck,
    WritableCheck,
)
from holdfast.errors import HoldfastError


def standard_checks(
    state: Path, directory: Path, environment: Mapping[str, str], reachable: Sequence[Check] = ()
) -> list[Check]:
    """All checks.

    :param state: the state directory
    :param directory: where tasks are to be given, usually the current directory
    :param environment: of the caller: agents and git are looked for as it would
    :param reachable: what asks the daemon and the host for a sign of life, which live above this floor
    """
    return [
        PythonCheck(),
        LibrariesCheck(),
        SqliteCheck(),
        ClockCheck(),
        StateDirectoryCheck(state),
        StateFilesCheck(state),
        WritableCheck(state),
        SpaceCheck(state),
        SocketPathCheck(state),
        DatabaseCheck(state),
        StaleSocketsCheck(_socket_directories(state)),
        *reachable,
        SandboxCheck(),
        GitCheck(environment),
        RepositoryCheck(directory, environment),
        *_agent_checks(environment),
    ]


def _socket_directories(state: Path) -> list[Path]:
    directories = [state]
    for owner in (state, state / "host"):
        try:
            replacement = socket_path(owner, "x.sock", make=False).parent
        except HoldfastError:
            continue  # its own check tells
        if replacement != owner:
            directories.append(replacement)
    return directories


def _agent_checks(environment: Mapping[str, str]) -> list[Check]:
    try:
        agents = known_agents()
    except HoldfastError as error:
        return [BrokenCatalogueCheck(error)]
    return [AnyAgentCheck(agents, environment), *(AgentCheck(agent, environment) for agent in agents)]
