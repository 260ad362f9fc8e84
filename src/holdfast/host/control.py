"""What a client does to a process: write to it, signal it, end it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from holdfast.host import parameters
from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.methods import Reply, method
from holdfast.host.process import HostedProcess
from holdfast.host.status import describe_member
from holdfast.host.tree import OsProcess, end_tree
from holdfast.host.writes import WriteState
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_PARAMS, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

_EMPTY: Final = b"{}"


@method("process/write", parameters.Write)
def write(client: ClientConnection, params: parameters.Write) -> Reply:
    """Write to stdin, in order and once for each write id."""
    try:
        data = decode_base64(params.chunk)
    except ValueError:
        raise RpcError(INVALID_PARAMS, base64_fault(params.chunk)) from None
    if not params.write_id:
        raise RpcError(INVALID_PARAMS, "writeId must not be empty")
    process = client.find(params.process_id)
    if process is None:
        return b'{"status":"unknownProcess"}'
    if (known := _known_write(process, params.write_id)) is not None:
        return known
    if not process.accepts_input:
        return b'{"status":"stdinClosed"}'
    waiter = process.input.write(data, write_id=params.write_id, until_written=params.until_written)
    return b'{"status":"accepted"}' if waiter is None else _written(waiter)


def _known_write(process: HostedProcess, write_id: str) -> bytes | None:
    state = process.writes.state(write_id)
    if state is WriteState.UNCERTAIN:
        raise RpcError(INTERNAL_ERROR, "the server was killed during this write; how much of it arrived is not known")
    return b'{"status":"accepted"}' if state is WriteState.TAKEN else None


async def _written(waiter: asyncio.Future[bool]) -> bytes:
    # Not cancelled with the request: what was queued is written even if the client goes away.
    return b'{"status":"accepted"}' if await asyncio.shield(waiter) else b'{"status":"stdinClosed"}'


@method("process/closeStdin", parameters.OneProcess)
def close_stdin(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: end of file on stdin."""
    client.require(params.process_id).close_stdin()
    return _EMPTY


@method("process/signal", parameters.Signal)
def send_signal(client: ClientConnection, params: parameters.Signal) -> Reply:
    """Send a signal to the process group; a process that is gone is no error."""
    if isinstance(params.signal, int):
        if not 0 < params.signal < signal.NSIG:
            raise RpcError(INVALID_PARAMS, f"no such signal: {params.signal}")
        number = params.signal
    elif params.signal == "interrupt":
        number = signal.SIGINT
    else:
        raise RpcError(INVALID_PARAMS, f"unknown variant `{params.signal}`, expected `interrupt`")
    process = client.find(params.process_id)
    if process is not None and not process.closed:
        identity = f"signal {params.signal_id}"
        if params.signal_id is None or process.writes.state(identity) is WriteState.NEW:
            if params.signal_id is not None:
                process.writes.begin(identity)
            process.signal_group(number)
    return _EMPTY


@method("process/terminate", parameters.Terminate)
def terminate(client: ClientConnection, params: parameters.Terminate) -> Reply:
    """Kill the process group at once; as an extension, end the whole tree with grace."""
    process = client.find(params.process_id)
    if process is None:
        return b'{"running":false}'
    if params.tree:
        return _terminate_tree(process, params.grace_ms / 1000)
    return b'{"running":true}' if process.kill_group() else b'{"running":false}'


async def _terminate_tree(process: HostedProcess, grace: float) -> bytes:
    was_running = process.running
    tree = process.tree
    ended: list[OsProcess] = []
    survivors: list[OsProcess] = []
    if tree is not None:
        process.terminating = True
        ending = await end_tree(tree, grace=grace)
        ended, survivors = ending.ended, ending.survivors
    return encode_json(
        {
            "running": was_running,
            "ended": [describe_member(one) for one in ended],
            "survivors": [describe_member(one) for one in survivors],
        }
    )
