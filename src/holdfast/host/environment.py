"""What the host tells of its machine, and the environment that a child gets."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from holdfast import __version__
from holdfast.host.cgroup import DELEGATED_UNIT
from holdfast.host.uri import path_to_uri, resolve_dots
from holdfast.jsonrpc.messages import INVALID_PARAMS, RpcError

#: Capabilities of the protocol (Codex CLI 0.169); a client never calls what is false here.
CAPABILITIES: Final = (
    "networkProxyLaunch",
    "networkProxyReviewDomains",
    "credentialMasking",
    "credentialMaskingCustomProviders",
    "capabilityDiscoverySandbox",
    "fsWatchMissing",
    "capabilityDiscoveryV2",
    "environmentConfigRead",
    "httpHeaderEnvVars",
    "sandboxedFileStreaming",
    "fileWriteStreaming",
    "shellSnapshotV2",
    "windowsMxc",
    "linuxRootWritePreservesDevices",
    "linuxApprovedRootWritePreservesRestrictions",
)
#: What the version of an executor is compared with: that of the protocol, and after it what it is a build of.
EXECUTOR_VERSION: Final = f"0.169.0+holdfast.{__version__}"
#: Those of them that are implemented here.
IMPLEMENTED: Final = frozenset(
    {
        "capabilityDiscoveryV2",
        "environmentConfigRead",
        "fsWatchMissing",
        "httpHeaderEnvVars",
        "sandboxedFileStreaming",
        "fileWriteStreaming",
    }
)

#: Shells that clients know, the best first, and where they are.
_SHELLS: Final = ("bash", "zsh", "sh")
_SHELL_DIRECTORIES: Final = ("/usr/local/bin", "/usr/bin", "/bin")
#: The environment variables of ``inherit: core``.
_CORE: Final = frozenset(
    ["PATH", "SHELL", "TMPDIR", "TEMP", "TMP", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "USER"]
)
_DEFAULT_EXCLUDES: Final = ("*KEY*", "*SECRET*", "*TOKEN*")
#: Never inherited: what is between systemd and the host.
_OWN: Final = frozenset({DELEGATED_UNIT, "NOTIFY_SOCKET"})
#: Never handed to a child, in upper or lower case and whoever says so: secrets of the orchestrator itself.
_ALWAYS_DROPPED: Final = frozenset(
    {
        "CODEX_EXEC_SERVER_EXIT_ON_STDIN_CLOSE",
        "CODEX_EXEC_SERVER_NOISE_AUTH_TOKEN",
        "NODE_REPL_AUTH_TOKEN",
        "OPENAI_FEDERATION_RULE_ID",
        "OPENAI_IDENTITY_TOKEN_FILE",
        "OPENAI_WORKLOAD_IDENTITY_CONTEXT",
    }
)
#: Characters of patterns times characters of names that one start may take the time of all clients for, and to how many
#: of names it comes to read a pattern.
_COMPARISONS: Final = 16 * 1024 * 1024
_READING: Final = 1024


class EnvironmentPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """``envPolicy`` of ``process/start``: which of the host's variables a child inherits."""

    inherit: Literal["core", "all", "none"]
    ignore_default_excludes: bool
    exclude: list[str]
    set: dict[str, str]
    include_only: list[str]


def _lowered(text: str) -> str:
    """The text as the reference implementation compares it: each character by itself, where it has one lower case."""
    if text.isascii():
        return text.lower()
    return "".join(lower if len(lower := sign.lower()) == 1 else sign for sign in text)


@lru_cache(maxsize=16)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """What matches a lowered name if one of *patterns* does; each star is decided once, and never reconsidered."""
    # Only "*" and "?" have a meaning: a bracket stands for itself.
    return re.compile("|".join(translate(_lowered(pattern).replace("[", "[[]")) for pattern in patterns))


def _matching(names: Mapping[str, str], patterns: Sequence[str]) -> set[str]:
    """Those of *names* that one of *patterns* matches.

    :raises RpcError: that is too much to ask for
    """
    if not patterns:
        return set()
    if sum(map(len, patterns)) * (_READING + sum(map(len, names))) > _COMPARISONS:
        raise RpcError(INVALID_PARAMS, "envPolicy has too many or too long patterns for so many variables")
    matches = _any_of(tuple(patterns)).fullmatch
    return {name for name in names if matches(_lowered(name))}


def child_environment(
    env: Mapping[str, str], policy: EnvironmentPolicy | None, *, terminal: bool = False
) -> dict[str, str]:
    """The environment of a child: *env*, or what *policy* lets through of the host's, overlaid with it.

    At a *terminal* there is always a ``SHELL``: if nobody says otherwise, that of the account.

    Names that no environment can hold (empty, or with ``=``) are left out, and so are the secrets of the orchestrator.

    :raises RpcError: the policy would take too long to be applied
    """
    result: dict[str, str] = {}
    if policy is not None:
        inherited = dict(os.environ) if policy.inherit != "none" else {}
        if policy.inherit == "core":
            inherited = {name: value for name, value in inherited.items() if name in _CORE}
        excluded = set[str]() if policy.ignore_default_excludes else _matching(inherited, _DEFAULT_EXCLUDES)
        excluded |= _matching(inherited, policy.exclude) | _OWN
        result = {name: value for name, value in inherited.items() if name not in excluded}
        result.update(policy.set)
        if policy.include_only:
            included = _matching(result, policy.include_only)
            result = {name: value for name, value in result.items() if name in included}
    result.update(env)
    if terminal and "SHELL" not in result:
        result["SHELL"] = shell_and_home()[0] or "/bin/sh"
    return {
        name: value
        for name, value in result.items()
        if name and "=" not in name and name.upper() not in _ALWAYS_DROPPED
    }


def shell_and_home() -> tuple[str, str]:
    """The shell of the account, empty if it has none, and its home directory, ``/`` if it has none."""
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        # In a container the host may run under any number.
        return "", "/"
    return account.pw_shell, account.pw_dir or "/"


def environment_info(capabilities: frozenset[str] = IMPLEMENTED) -> dict[str, Any]:
    """The ``environmentInfo`` object; *capabilities* names those that are implemented."""
    shell, own_home = shell_and_home()
    home = os.environ.get("HOME") or own_home
    temporary = os.environ.get("TMPDIR")
    return {
        "shell": _usable_shell(shell),
        "executorVersion": EXECUTOR_VERSION,
        "providerId": _provider_id(),
        "cwd": path_to_uri(_working_directory()),
        "userHomeDir": path_to_uri(resolve_dots(home)) if home.startswith("/") else None,
        "platformOs": "linux",
        "prependPathDirs": [],
        "temporaryDirectories": [_from_here(temporary)] if temporary else [],
        "tempDir": _from_here("/tmp" if temporary is None else temporary),
        "capabilities": {name: name in capabilities for name in CAPABILITIES},
    }


def _from_here(path: str) -> str:
    return path_to_uri(resolve_dots(os.path.join(_working_directory(), path)))


def _usable_shell(own: str) -> dict[str, str]:
    """The shell of the account if clients know how to use it, and it is there; else another one that they know.

    As the reference has it, what ``SHELL`` says does not count: who starts a host may use a shell of any kind.
    """
    name = os.path.basename(own)
    # Not in PATH, where a directory might hang.
    places = [f"{directory}/{known}" for known in _SHELLS for directory in _SHELL_DIRECTORIES]
    if name in _SHELLS:
        places = [own, *(place for place in places if os.path.basename(place) == name), *places]
    path = next(filter(os.path.isfile, places), "/bin/sh")
    return {"name": os.path.basename(path), "path": path}


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        # It was deleted, or may not be looked at any more: that keeps nobody from working elsewhere.
        return "/"


def _provider_id() -> str:
    """Stable for this machine and user, and says nothing about either."""
    identity = f"{os.uname().nodename}:{os.getuid()}"
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path) as file:
                identity = f"{file.read().strip()}:{os.getuid()}"
            break
        except OSError:
            continue
    return "sha256:" + hashlib.sha256(b"holdfast host " + identity.encode()).hexdigest()
