"""The gate before a sandboxed command: it runs once the mounts of its sandbox are seen to lie where they were meant to.

``bwrap`` follows symlinks.  A command in another sandbox may put one in the place of a directory after the policy was
made of it, and something else would be mounted, or somewhere else.  So ``bwrap`` mounts everything, says that it is
done, and waits until what the kernel tells of its mounts is compared with what was meant.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Final

from holdfast.host.files.scope import is_below
from holdfast.host.mounts import Mount, read_mounts
from holdfast.host.sandbox.handover import Given
from holdfast.host.sandbox.policy import cannot_honour

#: The descriptor that ``bwrap`` keeps open as long as anything in its sandbox lives, and the command does not get.
_LIFE: Final = 6
#: The descriptor where ``bwrap`` tells its child.
_CHILD: Final = 5
#: What ``bwrap`` copies there when everything is mounted.
READY: Final = b"ready\n"

#: Runs the arguments, and opens the gate (descriptor ``$3``) if all the lines ``$4`` are in the mounts.  What becomes
#: the root of the sandbox is still ``/newroot`` then, or is not any more; and if it changes during the first look, the
#: kernel does not tell the rest.
#:
#: With ``$2`` it ends when nobody holds :data:`_LIFE` any more: ``bwrap`` itself ends with its first child, and what
#: that left in the sandbox is only about to be killed then.  What the sandbox may write there, by way of its first
#: process, goes nowhere.
#:
#: The shell stays in any case: the server may die and its processes go on, but ``bwrap`` dies with its parent.
_SCRIPT: Final = f"""
cat=$1 to_the_end=$2 gate=$3 places=$4
shift 4
exec 7>&1
status=$({{ {{ "$@" {_LIFE}>&1 {_CHILD}>&1 >&7 7>&- 8>&-; echo $? >&8; }} | {{
    while read -r word rest && [ "$word" != ready ]; do
        [ "$word" != '"child-pid":' ] || child=${{rest%,}}
    done
    if [ "$word" = ready ]; then
        IFS='
'
        set -f
        for look in first second; do
            exchanged=
            mounts=$("$cat" "/proc/$child/mountinfo")
            for place in $places; do
                source=${{place%%	*}} path=${{place#*	}}
                case $mounts in *" $source $path"* | *" $source /newroot$path"*) ;; *) exchanged=${{path%% *}} ;; esac
            done
            [ -n "$exchanged" ] || break
        done
        if [ -z "$exchanged" ]; then
            echo >"/proc/self/fd/$gate"
        else
            echo "nothing was run: something else was put in the place of $exchanged" >&2
            kill -s KILL "$child"
        fi
    fi
    [ -z "$to_the_end" ] || exec "$cat" >/dev/null
}} 7>&-; }} 8>&1)
exit "${{status:-1}}"
"""


class Places:
    """Where mounts have to be, as lines of ``mountinfo`` have it; there is a tab before the path."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._mounts = {mount.number: mount for mount in read_mounts()}

    def bound(self, source: str, path: str, *, writable: bool) -> None:
        """What has the real path *source* now is bound at *path*.

        :raises RpcError: it has no such path any more
        :raises OSError: it is not there any more
        """
        mount = self._mount_of(source)
        if not is_below(source, mount.point):
            raise cannot_honour(f"something else was put in the place of `{source}`")
        inside = mount.root.rstrip("/") + source.removeprefix(mount.point.rstrip("/"))
        # A file system that is read-only itself stays so.
        flag = mount.options[:2] if writable else "ro"
        self.lines.append(f"{mount.device} {_escaped(inside) or '/'}\t{_escaped(path)} {flag}")

    def empty(self, path: str) -> None:
        """An empty read-only directory is at *path*."""
        self.lines.append(f"/\t{_escaped(path)} ro,nosuid,nodev,relatime - tmpfs tmpfs ")

    def is_mount_point(self, path: str) -> bool:
        """Whether a file system of this machine is mounted at the real path *path*.

        :raises OSError: it is not there any more
        """
        return self._mount_of(path).point == path

    def _mount_of(self, path: str) -> Mount:
        # A mount may hide others, so its path alone does not tell which one it is.
        opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{opened}") as file:
                number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
        finally:
            os.close(opened)
        if number not in self._mounts:
            raise cannot_honour(f"the file systems at `{path}` changed at this moment")
        return self._mounts[number]


#: The options with which ``bwrap`` waits at the gate; they come after all its mounts.
OPTIONS: Final[tuple[str | Given, ...]] = (
    *("--info-fd", str(_CHILD)),
    *("--sync-fd", str(_LIFE)),
    *("--file", Given.READY, f"/proc/self/fd/{_LIFE}"),
    *("--block-fd", Given.GATE),
)


def behind_gate(shell: str, places: Places, bwrap: list[str | Given], *, to_the_end: bool) -> list[str | Given]:
    """The command line that runs *bwrap* with :data:`OPTIONS`, and lets it go on if its mounts are at *places*.

    *to_the_end*: it ends no sooner than everything in the sandbox has.
    """
    lines = "\n".join(places.lines)
    return [shell, "-c", _SCRIPT, "sh", shutil.which("cat") or "", str(to_the_end or ""), Given.GATE, lines, *bwrap]


def _escaped(path: str) -> str:
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", path)
