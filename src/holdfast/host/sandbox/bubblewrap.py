"""Running a process in a sandbox with bubblewrap (``bwrap``), where it is installed and really works.

Two helpers of coreutils stand around it: ``bwrap`` waits for its child in the process group of the child, and a ^C for
the child must not end ``bwrap``.  So it is started with those signals ignored, and the child with them restored.

What stands around it runs outside of the sandbox, and so with nothing of the environment that the client wants:
``bwrap`` makes that for its child.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from holdfast.host.files.scope import is_below
from holdfast.host.sandbox.gate import OPTIONS, READY, Places, behind_gate
from holdfast.host.sandbox.handover import HELPERS_ENVIRONMENT, Given, SandboxedCommand
from holdfast.host.sandbox.machine import machine_files
from holdfast.host.sandbox.mount_points import TOOLS, can_be_made, with_mount_points
from holdfast.host.sandbox.permissions import Access
from holdfast.host.sandbox.policy import Grant, Policy, cannot_honour
from holdfast.host.sandbox.seccomp import is_known, program
from holdfast.jsonrpc.messages import RpcError

#: Seconds that the trial may take.
_TRIAL: Final = 10.0
_SIGNALS: Final = "INT,TERM,HUP,QUIT"
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
#: Words that ``bwrap`` takes, at most.
_WORDS: Final = 9000


@cache
def unusable() -> str | None:
    """Why there can be no sandbox here, None if there can; found out by running one, once."""
    if any(shutil.which(tool) is None for tool in ("bwrap", "env")):
        return "bubblewrap (bwrap) is not installed"
    if any(shutil.which(tool) is None for tool in ("sh", "cat", *TOOLS)):
        return "a shell, or one of the usual programs, is not installed"
    machine = os.uname().machine
    if not is_known(machine):
        return f"there is no filter of system calls for {machine}"
    trial = Policy((Grant("/", Access.READ, True),), network=False)
    try:
        with _command(trial, ["/bin/true"], cwd="/", env={}).handed_over() as (argv, descriptors):
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=HELPERS_ENVIRONMENT,
                pass_fds=descriptors,
                timeout=_TRIAL,
                text=True,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here: {error}"
    if done.returncode != 0:
        return f"bubblewrap does not work here: {done.stdout.strip()[:200] or f'exit status {done.returncode}'}"
    return None


def sandboxed(policy: Policy, argv: list[str], *, cwd: str, env: Mapping[str, str]) -> SandboxedCommand:
    """What runs the program ``argv[0]`` with the arguments ``argv[1:]`` and exactly *env* under *policy*.

    :raises RpcError: the policy cannot be enforced here
    :raises OSError: there is no such program
    :raises ValueError: a NUL byte in the environment
    """
    reason = unusable()
    if reason is not None:
        raise cannot_honour(reason)
    path = _find(argv[0], cwd, env)
    if "=" in path:
        raise cannot_honour(f"the name of the program `{path}` contains `=`")
    return _command(policy, [path, *argv[1:]], cwd=cwd, env=env)


def _find(program: str, cwd: str, env: Mapping[str, str]) -> str:
    if "/" in program:
        path = os.path.join(cwd, program)
    else:
        path = shutil.which(program, path=env.get("PATH", _DEFAULT_PATH)) or ""
    os.stat(path)
    return os.path.join(cwd, path)


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} was there before"
    return found


def _command(policy: Policy, argv: list[str], *, cwd: str, env: Mapping[str, str]) -> SandboxedCommand:
    setenv, shell = _tool("env"), _tool("sh")
    options = _environment(env)
    places = Places()
    covered = [grant.path for grant in policy.grants if _is_covered(policy, grant)]
    bwrap: list[str | Given] = [
        _tool("bwrap"),
        "--args",
        Given.OPTIONS,
        "--unshare-user",
        # In a user namespace of its own a command could take the mounts apart that protect what lies below them.
        "--disable-userns",
        "--unshare-pid",
        "--unshare-ipc",
        *([] if policy.network else ["--unshare-net"]),
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--seccomp",
        Given.FILTER,
        *_mounts(policy, covered, places),
        *OPTIONS,
        "--chdir",
        _inside(policy, cwd),
        "--",
        setenv,
        f"--default-signal={_SIGNALS}",
        *argv,
    ]
    if len(bwrap) + len(options) > _WORDS:
        raise cannot_honour(f"the command, its environment and the entries are more than {_WORDS} words for bubblewrap")
    words = with_mount_points(shell, covered, behind_gate(shell, places, bwrap, to_the_end=bool(covered)))
    return SandboxedCommand(
        [setenv, f"--ignore-signal={_SIGNALS}", *words],
        {
            Given.FILTER: program(os.uname().machine, network=policy.network),
            Given.OPTIONS: b"".join(os.fsencode(word) + b"\0" for word in options),
            Given.READY: READY,
        },
    )


def _inside(policy: Policy, cwd: str) -> str:
    """Where a command begins: in its directory, or as with the reference in ``/`` if the sandbox does not show that."""
    if _is_elsewhere(cwd):
        return cwd
    # The symlinks that lead there may not be shown.
    real = os.path.realpath(cwd)
    try:
        policy.require_way(real)
    except (FileNotFoundError, RpcError):
        return "/"
    return real


def _environment(env: Mapping[str, str]) -> list[str]:
    """The options that make an environment."""
    words = ["--clearenv"]
    for name, value in env.items():
        if "\0" in name or "\0" in value:
            raise ValueError("a NUL byte would end the word, and what follows it would be an option")
        words += ["--setenv", name, value]
    return words


def _mounts(policy: Policy, covered: list[str], places: Places) -> list[str]:
    """The file system of the sandbox: shorter paths first, so that longer ones lie on top.  Fills in *places*."""
    words: list[str] = []
    # Only at the end can nothing be put into them any more.
    closed: list[str] = []
    top = policy.access("/")
    if top is Access.DENY:
        words += ["--tmpfs", "/"]
        closed.append("/")
    else:
        words += ["--bind" if top is Access.WRITE else "--ro-bind", "/", "/"]
    words += ["--dev", "/dev", "--proc", "/proc"]
    for path in machine_files():
        words += ["--ro-bind", path, path]
    for mount in _ordered(policy, covered, places):
        words += mount
        match mount:
            case [*_, "--tmpfs", path]:
                closed.append(path)
                places.empty(path)
            case ["--bind" | "--ro-bind" as option, source, path]:
                places.bound(source, path, writable=option == "--bind")
            case _:
                pass
    for path in reversed(closed):
        words += ["--remount-ro", path]
    return words


def _ordered(policy: Policy, covered: list[str], places: Places) -> Iterator[list[str]]:
    """The mounts of all the grants, and of the directories that must stay above them."""
    mounts = {
        grant.path: _mount(policy, grant, covered)
        for grant in policy.grants
        if grant.path != "/" and not _is_elsewhere(grant.path)
    }
    for path in [path for path, mount in mounts.items() if mount]:
        above = os.path.dirname(path)
        while above != "/" and policy.access(above) is Access.WRITE and not mounts.get(above):
            # Else the command could move it, with what is protected in it, and make another one; a mount point stays.
            if not places.is_mount_point(above):
                mounts[above] = ["--bind", above, above]
            above = os.path.dirname(above)
    for path in sorted(mounts, key=len):
        yield mounts[path]


def _is_elsewhere(path: str) -> bool:
    """Whether *path* is in a file system that each sandbox has of its own."""
    return is_below(path, "/dev") or is_below(path, "/proc")


def _is_covered(policy: Policy, grant: Grant) -> bool:
    """Whether something is put on top of a path that does not exist, so that nobody makes it."""
    if not grant.reserved or _is_elsewhere(grant.path):
        return False
    return policy.access(os.path.dirname(grant.path)) is Access.WRITE and can_be_made(grant.path)


def _mount(policy: Policy, grant: Grant, covered: list[str]) -> list[str]:
    path = grant.path
    above = policy.access(os.path.dirname(path))
    if not grant.exists:
        if path in covered:
            return ["--perms", "0555", "--tmpfs", path]
        if grant.reserved or grant.access is Access.WRITE or above is not Access.WRITE:
            # It stays missing, or may be made where making is allowed.
            return []
        raise cannot_honour(f"`{path}` does not exist and cannot be protected")
    if grant.access is above:
        return []
    if os.path.islink(path):
        # Where it leads to has a grant of its own.
        if above is Access.DENY:
            return ["--symlink", os.readlink(path), path]
        if grant.access is Access.WRITE or above is not Access.WRITE:
            return []
        raise cannot_honour(f"`{path}` is a symlink in a writable directory and cannot be protected")
    if grant.access is not Access.DENY:
        return ["--bind" if grant.access is Access.WRITE else "--ro-bind", path, path]
    if stat.S_ISDIR(os.stat(path).st_mode):
        return ["--perms", "0111" if policy.leads_on(path) else "0000", "--tmpfs", path]
    return ["--ro-bind", "/dev/null", path]
