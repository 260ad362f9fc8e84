"""From the parameters of ``process/start`` to the command that runs in the sandbox they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from holdfast.host.methods import decode_params
from holdfast.host.parameters import Start
from holdfast.host.sandbox.bubblewrap import sandboxed
from holdfast.host.sandbox.handover import SandboxedCommand
from holdfast.host.sandbox.permissions import SandboxContext
from holdfast.host.sandbox.policy import cannot_honour, policy_of

_CONTEXT: Final = msgspec.json.Decoder(SandboxContext)


def command_line(params: Start, cwd: str, env: Mapping[str, str]) -> SandboxedCommand | None:
    """What to run; None if the client's sandbox is "no sandbox".  Runs in a worker thread.

    :raises RpcError: the sandbox is malformed, or cannot be had here
    :raises OSError: there is no such program
    :raises ValueError: a NUL byte where there cannot be one
    """
    policy = policy_of(decode_params(_CONTEXT, params.sandbox), env.get("TMPDIR", ""))
    if policy is None:
        return None
    if params.arg0 is not None:
        raise cannot_honour("together with `arg0`")
    if params.holdfast is not None and params.holdfast.persistent:
        raise cannot_honour("for a process that outlives its session")
    if params.holdfast is not None and params.holdfast.stdin_file is not None:
        raise cannot_honour("together with `stdinFile`, which is opened outside of it")
    return sandboxed(policy, params.argv, cwd=cwd, env=env)
