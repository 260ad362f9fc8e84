"""Starting one child: three streams or a terminal, its own session, and nothing else inherited.

``posix_spawn`` is used because it never copies the host's address space and reports why an exec failed.  It has no
"change directory" and searches the wrong PATH, so both are done here: the host changes its own directory around the
call (only the event-loop thread ever uses relative paths), and the program is looked up in the child's PATH.

A terminal becomes the controlling one because the child, already a session leader, is the one who opens it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import struct
import termios
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.host.descriptor_limit import DescriptorLimit
from holdfast.host.log_format import EntryKind
from holdfast.host.pipe import enlarge_pipe
from holdfast.jsonrpc.messages import INTERNAL_ERROR, RpcError

#: Rows and columns of a new terminal (the reference implementation's).
TERMINAL_SIZE: Final = (24, 80)
#: Capacity of the pipe through which the output of a terminal goes, in bytes.
_GATHERED: Final = 256 * 1024
#: Where a program is looked for when the child has no PATH.
_DEFAULT_PATH: Final = "/usr/local/bin:/bin:/usr/bin"

#: What the keeper calls the streams.
_NAMES: Final = {EntryKind.STDOUT: "stdout", EntryKind.STDERR: "stderr", EntryKind.PTY: "pty"}
_OUTPUTS: Final = ((1, EntryKind.STDOUT), (2, EntryKind.STDERR))
#: All of them: a child must not inherit what this interpreter, or whoever started the host, ignores.  Each that is not
#: named here costs the child a system call more, because it looks before it resets what has a handler.
_RESET_SIGNALS: Final = tuple(signal.valid_signals())


def set_terminal_size(terminal: int, columns: int, rows: int) -> None:
    """Set the size of the terminal with the descriptor *terminal*."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@dataclass(slots=True)
class Streams:
    """The host's ends of a child's streams."""

    #: Where input is written (a pipe or the terminal), or -1.
    stdin: int
    #: Descriptor and kind of each stream that is read.
    outputs: dict[int, EntryKind]
    tty: bool
    #: Terminals only: read and write end of the pipe through which its output goes on its way to the log, so that at
    #: no moment it is only in the memory of this process.
    gather: tuple[int, int] | None = None

    def by_name(self) -> dict[str, int]:
        """The descriptors with the names under which the keeper holds them."""
        named = {_NAMES[kind]: descriptor for descriptor, kind in self.outputs.items()}
        if self.stdin >= 0 and self.stdin not in self.outputs:
            named["stdin"] = self.stdin
        if self.gather is not None:
            named["gather-read"], named["gather-write"] = self.gather
        return named

    @classmethod
    def from_names(cls, named: dict[str, int]) -> Streams:
        """The inverse of :meth:`by_name`."""
        outputs = {named[name]: kind for kind, name in _NAMES.items() if name in named}
        tty = "gather-read" in named
        gather = (named["gather-read"], named["gather-write"]) if tty else None
        return cls(named.get("pty", -1) if tty else named.get("stdin", -1), outputs, tty, gather)

    def close(self) -> None:
        """Close all of them."""
        for descriptor in {self.stdin, *self.outputs, *(self.gather or ())}:
            if descriptor >= 0:
                os.close(descriptor)


@dataclass(slots=True)
class Preparation:
    """The streams of a child that is about to be started, with the ends that it will get."""

    streams: Streams
    #: ``posix_spawn`` file actions.
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]]
    #: Descriptors that are closed once the child has its own copies.
    child_ends: list[int]

    def close(self) -> None:
        """Give up before the start."""
        self.streams.close()
        self.release()

    def release(self) -> None:
        """Close the child's ends."""
        for descriptor in self.child_ends:
            os.close(descriptor)
        self.child_ends = []


def prepare(nothing: int, *, tty: bool, pipe_stdin: bool, stdin_file: str | None = None) -> Preparation:
    """Open the streams of a child; one without input reads from the descriptor *nothing*.

    :raises RpcError: *stdin_file* cannot be opened, is a symlink or is not a regular file
    :raises OSError: no descriptors are left
    """
    if tty:
        return _prepare_terminal()
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    preparation = Preparation(Streams(-1, {}, False), actions, [])
    try:
        if stdin_file is not None:
            source = _open_regular(stdin_file)
            preparation.child_ends.append(source)
            actions.append((os.POSIX_SPAWN_DUP2, source, 0))
        elif pipe_stdin:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            preparation.child_ends.append(read_end)
            preparation.streams.stdin = write_end
            os.set_blocking(write_end, False)
            actions.append((os.POSIX_SPAWN_DUP2, read_end, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, nothing, 0))
        for number, kind in _OUTPUTS:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            preparation.child_ends.append(write_end)
            # It may stay blocking: it is only ever spliced from, and each splice says that it does not wait.
            preparation.streams.outputs[read_end] = kind
            actions.append((os.POSIX_SPAWN_DUP2, write_end, number))
    except BaseException:
        preparation.close()
        raise
    return preparation


def _open_regular(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "is a symlink" if os.path.islink(path) else f"cannot be opened: {error.strerror}"
        raise RpcError(INTERNAL_ERROR, f"stdinFile {path} {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RpcError(INTERNAL_ERROR, f"stdinFile {path} is not a regular file")
    os.set_blocking(descriptor, True)
    return descriptor


def _prepare_terminal() -> Preparation:
    master, slave = os.openpty()
    try:
        rows, columns = TERMINAL_SIZE
        set_terminal_size(master, columns, rows)
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        gather = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        enlarge_pipe(gather[1], _GATHERED)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return Preparation(
        Streams(master, {master: EntryKind.PTY}, True, gather),
        [
            (os.POSIX_SPAWN_OPEN, 0, name, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ],
        [slave],
    )


def spawn(
    preparation: Preparation,
    argv: list[str],
    *,
    program: str,
    cwd: str,
    env: Mapping[str, str],
    home: int,
    limit: DescriptorLimit,
    descriptors: Collection[int] = (),
) -> int:
    """Start *program* with *argv* in *cwd* with exactly *env*; returns its pid.

    *home* is a descriptor of the directory that the host itself lives in, *limit* that of children.  The child leads a
    session and a process group of its own.  It has *descriptors* under the same numbers, which are above those of its
    streams.

    :raises OSError: with the reason of the operating system; nothing runs
    :raises ValueError: a NUL byte in an argument or in the environment
    """
    # Onto itself: that lets it stay open.
    actions = preparation.actions + [(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors]
    os.chdir(cwd)
    try:
        limit.lower(home)
        refusal: OSError | None = None
        candidates = _candidates(program, env)
        for candidate in candidates:
            # Not tried by starting: a server killed in a vain attempt would leave a child that only looks like one.
            if len(candidates) > 1 and not os.access(candidate, os.X_OK):
                if os.path.exists(candidate):
                    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                continue
            try:
                pid = os.posix_spawn(
                    candidate,
                    argv,
                    env,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_RESET_SIGNALS,
                )
                limit.give(pid)
                return pid
            except (FileNotFoundError, NotADirectoryError):
                if "/" in program:
                    raise
                continue
            except PermissionError as error:
                # As execvp does it: a later entry of PATH may still work, but this is the reason to report.
                refusal = error
        raise refusal or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    finally:
        limit.restore()
        os.fchdir(home)


def _candidates(program: str, env: Mapping[str, str]) -> list[str]:
    if "/" in program:
        return [program]
    return [os.path.join(entry, program) for entry in search_path(env)]


def search_path(env: Mapping[str, str]) -> list[str]:
    """The directories in which a child with *env* has its program looked for."""
    return env.get("PATH", _DEFAULT_PATH).split(":")
