"""Where the process host begins: the process that is started becomes the keeper, as small as it can be.

It forks the server before anything is imported that only a server needs, the parsing of the options included.  With
stdio, where a connection cannot outlive the server, it is the server itself.
"""

from __future__ import annotations

import os
import resource
import sys

# Not from typing: the keeper is as small as it can be.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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

        return run_server(given, channel, estate, name=name, announce=announce)

    if wills:
        estate, held = inherit(int(wills[-1]))
        prepare_process()
        estate.sign(os.getpid())
        keeper = Keeper(serve, estate, held)
    else:
        prepare_process()
        keeper = Keeper(serve)
    status = keeper.run()
    if keeper.estate is not None:
        keeper.estate.clean_up()
    return status


def prepare_process() -> None:
    """Inherit nothing to children, and use all descriptors that the machine allows."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                # The descriptor of the listing itself, closed meanwhile.
                pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
