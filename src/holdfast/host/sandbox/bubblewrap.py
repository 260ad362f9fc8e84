"""Running a process in a sandbox with bubblewrap (``bwrap``), where it is installed and really works.

Two helpers of coreutils stand around it: ``bwrap`` waits for its child in the process group of the child, and a ^C
for the child must not end ``bwrap``.  So it is started with those signals ignored, and the child with them restored.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Final

from holdfast.host.sandbox.permissions import Access
from holdfast.host.sandbox.policy import Grant, Policy, cannot_honour, is_below

#: Seconds that the trial may take.
_TRIAL: Final = 10.0
_SIGNALS: Final = "INT,TERM,HUP,QUIT"
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@cache
def unusable() -> str | None:
    """Why there can be no sandbox here, None if there can; found out by running one, once."""
    bwrap, env = shutil.which("bwrap"), shutil.which("env")
    if bwrap is None or env is None:
        return "bubblewrap (bwrap) is not installed"
    trial = Policy((Grant("/", Access.READ, True),), network=False)
    argv = [*_wrap(bwrap, env, trial, "/"), "/bin/true"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TRIAL, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here: {error}"
    if done.returncode != 0:
        return f"bubblewrap does not work here: {done.stdout.strip()[:200] or f'exit status {done.returncode}'}"
    return None


def sandboxed(policy: Policy, program: str, argv: list[str], *, cwd: str, env: Mapping[str, str]) -> list[str]:
    """The command line that runs *program* with the arguments ``argv[1:]`` under *policy*.

    :raises RpcError: the policy cannot be enforced here
    :raises OSError: there is no such program
    """
    reason = unusable()
    if reason is not None:
        raise cannot_honour(reason)
    bwrap, helper = shutil.which("bwrap"), shutil.which("env")
    assert bwrap is not None and helper is not None
    path = _find(program, cwd, env)
    if "=" in path:
        raise cannot_honour(f"the name of the program `{path}` contains `=`")
    return [*_wrap(bwrap, helper, policy, cwd), path, *argv[1:]]


def _find(program: str, cwd: str, env: Mapping[str, str]) -> str:
    if "/" in program:
        path = os.path.join(cwd, program)
    else:
        path = shutil.which(program, path=env.get("PATH", _DEFAULT_PATH)) or ""
    os.stat(path)
    return os.path.join(cwd, path)


def _wrap(bwrap: str, env: str, policy: Policy, cwd: str) -> list[str]:
    return [
        env,
        f"--ignore-signal={_SIGNALS}",
        bwrap,
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        *([] if policy.network else ["--unshare-net"]),
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        *_mounts(policy),
        "--chdir",
        cwd,
        "--",
        env,
        f"--default-signal={_SIGNALS}",
    ]


def _mounts(policy: Policy) -> list[str]:
    """The file system of the sandbox: shorter paths first, so that longer ones lie on top."""
    if policy.grants is None:
        return ["--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    words: list[str] = []
    top = policy.access("/")
    if top is Access.DENY:
        words += ["--tmpfs", "/"]
    else:
        words += ["--bind" if top is Access.WRITE else "--ro-bind", "/", "/"]
    words += ["--dev", "/dev", "--proc", "/proc"]
    for grant in policy.grants:
        if grant.path != "/" and not is_below(grant.path, "/dev") and not is_below(grant.path, "/proc"):
            words += _mount(policy, grant)
    if top is Access.DENY:
        words += ["--remount-ro", "/"]
    return words


def _mount(policy: Policy, grant: Grant) -> list[str]:
    path = grant.path
    above = policy.access(os.path.dirname(path))
    if not grant.exists:
        if grant.access is Access.WRITE or above is not Access.WRITE:
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
        return ["--perms", "0000", "--tmpfs", path, "--remount-ro", path]
    return ["--ro-bind", "/dev/null", path]
