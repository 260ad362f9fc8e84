"""Mount points for what does not exist and must not be made: empty directories, for as long as somebody needs them.

A name can be kept from a sandbox only by a mount on top of it, and a mount needs something to lie on.  Removing a
mount point takes away the mounts on it in every other sandbox; so the last one who uses those of a directory removes
them, and a lock on that directory tells who is the last.  What is made here is known by its sticky bit, which means
nothing else for a directory that only its owner writes to.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from typing import Final

from holdfast.host.sandbox.handover import Given

#: The programs that this takes, next to ``flock`` to tidy up.
TOOLS: Final = ("mkdir", "rmdir", "sleep")

#: Makes the mount points ``$6`` of the directory ``$5``, runs the rest of the arguments, and tidies up.  The lock is
#: kept from what runs: through its descriptor it would reach what lies below the mounts.  Who tidies up holds it for
#: a moment; whoever holds it longer is not waited for.  A symlink in the place of the directory is not followed.
_SCRIPT: Final = """
lock=$1 make=$2 remove=$3 pause=$4 directory=$5 names=$6
shift 6
fail() {
    echo "the sandbox cannot be set up: $directory$1" >&2
    exit 1
}
cd -P "$directory" && [ "$PWD" = "$directory" ] && exec 4<. || fail " is not what it was"
tries=200
while [ -n "$lock" ] && ! "$lock" -s -n 4; do
    [ $((tries -= 1)) -gt 0 ] || fail " is locked by somebody else"
    "$pause" 0.05
done
"$make" -m 1755 $names 2>/dev/null
for name in $names; do
    [ -d "./$name" ] && [ ! -L "./$name" ] || fail "/$name is no directory"
done
"$@" 4<&-
status=$?
if [ -n "$lock" ] && "$lock" -x -n 4; then
    ours=
    for name in $names; do
        [ ! -k "./$name" ] || ours="$ours $name"
    done
    [ -z "$ours" ] || "$remove" $ours 2>/dev/null
fi
exit $status
"""


def is_missing(path: str) -> bool:
    """Whether there is nothing at *path*, or only the mount point of another sandbox."""
    try:
        status = os.lstat(path)
        return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX) and not os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        # Or there no longer is: that one has just tidied up.
        return True
    except PermissionError:
        # Whatever is there is nothing of ours.
        return False


def can_be_made(path: str) -> bool:
    """Whether the account could make *path*, at least after it changed the mode of the directory above."""
    above = os.path.dirname(path)
    if not os.path.isdir(above) or os.statvfs(above).f_flag & os.ST_RDONLY:
        return False
    return os.stat(above).st_uid == os.geteuid() or os.access(above, os.W_OK)


def with_mount_points(shell: str, paths: Iterable[str], argv: list[str | Given]) -> list[str | Given]:
    """The command line that runs *argv* while there is a directory at each of *paths*.

    The last component of a path is a plain word.  Without ``flock`` nobody can know who is the last, and they stay.
    """
    names: dict[str, list[str]] = {}
    for path in paths:
        directory, name = os.path.split(path)
        names.setdefault(directory, []).append(name)
    tools = [shutil.which(tool) or "" for tool in ("flock", *TOOLS)]
    for directory, made in names.items():
        argv = [shell, "-c", _SCRIPT, "sh", *tools, directory, " ".join(made), *argv]
    return argv
