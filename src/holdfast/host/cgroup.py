"""A cgroup for each persistent process, where the host was given a subtree of cgroup v2 to manage.

Membership in a cgroup is inherited and cannot be left by forking, by a session of one's own, or by an emptied
environment, so it proves what belongs to a process beyond what descent, session and marker tell; and ``cgroup.kill``
(Linux 5.14) ends all members at one stroke, however fast they fork.

The subtree must be ours: the one whom systemd told so by ``Delegate=yes``, or the root of a cgroup namespace, as in a
container.  Being able to write there is not enough: root can everywhere, and the subtree of another manager is not to
be touched.  systemd marks what it gives away with an attribute, but not every manager of a user's session does (that of
systemd 252 does not); so our units say in the environment which unit it is that has ``Delegate=yes``, and the cgroup of
a service has the name of its unit.  No controller is enabled, so that the host itself may stay where it is.

A process is moved into its cgroup right after its start, by a thread, because the kernel takes about ten milliseconds
for a move.  What it forks until then is moved after it; what has lost its parents by then is still found by session
and marker.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.clock import boot_id
from holdfast.host.mounts import TABLE, Mount, read_mounts
from holdfast.host.os_process import OsProcess, read_process
from holdfast.host.tree import Tree
from holdfast.jsonrpc.streams import EXHAUSTED

#: The file in the directory of a process that names its cgroup.
_NOTE: Final = "cgroup"
_PREFIX: Final = "holdfast-"
#: How systemd marks a cgroup that it has given away; the first for services of the system, written as root.
_DELEGATED: Final = ("trusted.delegate", "user.delegate")
#: The variable in which our units name themselves.
DELEGATED_UNIT: Final = "HOLDFAST_DELEGATED_UNIT"
#: Rounds of moving what was forked meanwhile, before whoever forks faster is left to the other proofs.
_ROUNDS: Final = 20


class Delegation(NamedTuple):
    """The subtree that is ours to manage, or why there is none."""

    directory: Path | None
    reason: str


def find_delegation(*, membership: Path = Path("/proc/self/cgroup"), mounts: Path = TABLE) -> Delegation:
    """Look for the cgroup of this process, and whether it was given to us."""
    try:
        paths = [line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")]
        table = read_mounts(mounts)
    except OSError as error:
        return Delegation(None, f"{error.filename} cannot be read")
    if not paths:
        return Delegation(None, "there is no cgroup v2")
    found = [place for mount in table if (place := _mounted(mount, paths[0])) is not None]
    if not found:
        return Delegation(None, "cgroup v2 is not mounted, or not so that the host's own cgroup can be seen")
    directory, is_root = found[0]
    if not (directory / "cgroup.type").exists():
        # Only the root of the whole hierarchy has none.
        return Delegation(None, "the host is in the root cgroup")
    if (directory / "cgroup.type").read_text().strip() != "domain":
        return Delegation(None, f"{directory} is a threaded cgroup")
    if not (directory / "cgroup.kill").exists():
        return Delegation(None, "the kernel has no cgroup.kill (it came with Linux 5.14)")
    if not is_root and not _is_delegated(directory):
        return Delegation(None, f"{directory} was not delegated to the host")
    if not os.access(directory, os.W_OK | os.X_OK) or not os.access(directory / "cgroup.procs", os.W_OK):
        return Delegation(None, f"{directory} cannot be written to")
    return Delegation(directory, "")


def _mounted(mount: Mount, path: str) -> tuple[Path, bool] | None:
    """Where the cgroup *path* is by this mount, and whether that is the top of what is mounted."""
    if mount.kind != "cgroup2":
        return None
    relative = os.path.relpath(path, mount.root)
    if relative.startswith("..") or "/.." in path:
        return None
    return Path(mount.point) / relative, relative == "."


def _is_delegated(directory: Path) -> bool:
    if directory.name == os.environ.get(DELEGATED_UNIT):
        return True
    for name in _DELEGATED:
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def contain(delegation: Path, place: str, tree: Tree) -> None:
    """Make a cgroup for the process of *tree*, whose directory is *place*, and move it there with all that it forked.

    :raises OSError: it cannot be made, or used; the tree is ended by the other proofs alone
    """
    cgroup = delegation / f"{_PREFIX}{os.path.basename(place)}"
    cgroup.mkdir(mode=0o700)
    try:
        # Noted first: a server that comes after a kill finds it.
        with open(os.open(f"{place}/{_NOTE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w") as note:
            note.write(str(cgroup))
        tree.cgroup = str(cgroup)
        for _ in range(_ROUNDS):
            inside = tree.cgroup_pids()
            outside = [process for process in _descent(tree) if process.pid not in inside]
            if not outside:
                break
            for process in outside:
                _move(cgroup, process)
        if not tree.cgroup_pids():
            # It has ended already.
            tree.release_cgroup()
    except OSError:
        tree.cgroup = str(cgroup)
        tree.release_cgroup()
        raise


def _descent(tree: Tree) -> list[OsProcess]:
    """The process and its descendants, as far as they are alive."""
    leader = read_process(tree.pid)
    if leader is None or leader.started != tree.started:
        return []
    found: list[OsProcess] = []
    pending = [leader]
    while pending:
        process = pending.pop()
        if process.alive:
            found.append(process)
        pending += [child for pid in _children(process.pid) if (child := read_process(pid)) is not None]
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children += map(int, file.read().split())
    except OSError:
        # It has ended, or the kernel has no such file: what it forked is found by the other proofs.
        pass
    return children


def _move(cgroup: Path, process: OsProcess) -> None:
    now = read_process(process.pid)
    # Looked at right before: for another process to get the number, all numbers would have to be used up in between.
    if now is None or now.started != process.started or not now.alive:
        return
    try:
        (cgroup / "cgroup.procs").write_text(str(process.pid))
    except ProcessLookupError:
        pass


def recall(place: str, boot: str) -> str | None:
    """The cgroup that an earlier server of this boot made for the process whose directory is *place*.

    :raises OSError: there are no descriptors to look with
    """
    if boot != boot_id():
        return None
    try:
        with open(f"{place}/{_NOTE}") as note:
            cgroup = Path(note.read())
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        return None
    known = cgroup.name == f"{_PREFIX}{os.path.basename(place)}" and (cgroup / "cgroup.kill").exists()
    return str(cgroup) if known else None
