"""Where the process host begins: the process that is started becomes the keeper, as small as it can be.

It forks the server before anything is imported that only a server needs, the parsing of the options included.  With
stdio, where a connection cannot outlive the server, it is the server itself.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

# Not from typing: the keeper is as small as it can be.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where systemd listens, and which process it started with that (sd_notify(3), systemd.exec(5)).
_MANAGER = "NOTIFY_SOCKET"
_STARTED = "SYSTEMD_EXEC_PID"
#: The option by which a server becomes the keeper after the keeper's death; its value is a descriptor.
SUCCEED = "--succeed-keeper="


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``exec-server``; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wills = [word.removeprefix(SUCCEED) for word in given if word.startswith(SUCCEED)]
    given = [word for word in given if not word.startswith(SUCCEED)]
    if any("stdio" in word for word in given):
        from holdfast.host.command import serve_stdio

        status = serve_stdio(given)
        if status is not None:
            return status
    from holdfast.host.estate import Estate, inherit
    from holdfast.host.keeper import Keeper

    #: Part of the name of a state directory that goes when the host ends: the same for each server that tries to start.
    name = os.urandom(8).hex()

    def serve(channel: int, estate: Estate | None, announce: bool) -> int:
        from holdfast.host.command import run_server

        return run_server(given, channel, estate, name=name, child_descriptors=descriptors, announce=announce)

    if wills:
        estate, held = inherit(int(wills[-1]))
        descriptors = prepare_process()
        estate.sign(os.getpid())
        _tell_manager()
        keeper = Keeper(serve, estate, held)
    else:
        if os.environ.get(_STARTED) != str(os.getpid()):
            # Meant for somebody of whom we inherited it, and whose place is not ours to take.
            os.environ.pop(_MANAGER, None)
        descriptors = prepare_process()
        keeper = Keeper(serve)
    status = keeper.run()
    if keeper.estate is not None:
        keeper.estate.clean_up()
    return status


def _tell_manager() -> None:
    """Let systemd know that this process is now the one to ask for the end of the service."""
    address = os.environ.get(_MANAGER)
    if not address:
        return
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto(b"MAINPID=%d" % os.getpid(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            print(f"systemd could not be told of the new keeper: {error}", file=sys.stderr)


def prepare_process() -> int:
    """Inherit nothing to children, hear of their ends, and use all descriptors; returns how many there were before.

    The numbers of standard input, output and errors are never anything else's: what is closed becomes ``/dev/null``.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # What is opened gets the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                # The descriptor of the listing itself, closed meanwhile.
                pass
    # Where it is ignored nobody can know how a child ended, and where it is blocked nobody is told that it did.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft
