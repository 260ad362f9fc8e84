"""What a client does to a process: write to it, signal it, end it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from holdfast.host import parameters
from holdfast.host.base64_text import base64_fault, decode_base64
from holdfast.host.input import INPUT_LIMIT
from holdfast.host.methods import Reply, method
from holdfast.host.os_process import OsProcess
from holdfast.host.process import HostedProcess, NotPermitted
from holdfast.host.status import cannot_tell, describe_member
from holdfast.host.tree import end_tree
from holdfast.host.writes import WriteState
from holdfast.jsonrpc.messages import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

_EMPTY: Final = b"{}"
_ACCEPTED: Final = b'{"status":"accepted"}'
_STDIN_CLOSED: Final = b'{"status":"stdinClosed"}'


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
    state = process.writes.state(params.write_id)
    if state is not WriteState.NEW:
        return _repeated(process, params, state)
    if not process.accepts_input:
        return _STDIN_CLOSED
    client.require_place()
    _tell_of_gap(process)
    if not process.input.has_room(data):
        text = f"process {params.process_id} does not read its input: no more than {INPUT_LIMIT} bytes wait for it"
        raise RpcError(INVALID_REQUEST, f"{text}; nothing of this write was taken, send it again later")
    waiter = process.input.write(data, write_id=params.write_id, until_written=params.until_written)
    return _ACCEPTED if waiter is None else _written(waiter)


def _repeated(process: HostedProcess, params: parameters.Write, state: WriteState) -> Reply:
    """The answer to a write that was made before: what became of that one."""
    _refuse_uncertain(process, params.write_id, state)
    if state is WriteState.FAILED:
        return _STDIN_CLOSED
    waiter = process.input.again(params.write_id, until_written=params.until_written)
    return _ACCEPTED if waiter is None else _written(waiter)


def _refuse_uncertain(process: HostedProcess, write_id: str, state: WriteState) -> None:
    if state is WriteState.UNCERTAIN:
        process.writes.tell(write_id)
        raise RpcError(INTERNAL_ERROR, "the server was killed during this write; how much of it arrived is not known")


def _tell_of_gap(process: HostedProcess) -> None:
    """Refuse, once, what would follow input that was accepted and may not have arrived.

    :raises RpcError: there is such input
    """
    if untold := process.writes.tell_all():
        raise RpcError(
            INTERNAL_ERROR,
            f"the server was killed before {untold} earlier write(s) were at their end, and how much of them arrived "
            "is not known; this request was not carried out, the next one will be",
        )


async def _written(waiter: asyncio.Future[bool]) -> bytes:
    # Not cancelled with the request: what was queued is written even if the client goes away.
    return _ACCEPTED if await asyncio.shield(waiter) else _STDIN_CLOSED


@method("process/closeStdin", parameters.CloseStdin)
def close_stdin(client: ClientConnection, params: parameters.CloseStdin) -> Reply:
    """Extension: end of file on stdin, after all that was written before; answered when that is done."""
    process = client.require(params.process_id)
    state = process.writes.state(params.write_id)
    if state is not WriteState.NEW:
        # It was typed at a terminal, where a second one would mean something else.
        _refuse_uncertain(process, params.write_id, state)
        waiter = process.input.again(params.write_id, until_written=True)
    elif process.accepts_input:
        client.require_place()
        _tell_of_gap(process)
        waiter = process.input.end(params.write_id)
    else:
        waiter = process.input.ending
    return _EMPTY if waiter is None else _ended(waiter)


async def _ended(waiter: asyncio.Future[bool]) -> bytes:
    await asyncio.shield(waiter)
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
    if process is None or process.closed:
        return _EMPTY
    if params.signal_id is None:
        process.signal_group(number)
    else:
        _signal_once(process, number, params.signal_id)
    return _EMPTY


def _signal_once(process: HostedProcess, number: int, signal_id: str) -> None:
    state = process.writes.signal_state(signal_id)
    if state is WriteState.UNCERTAIN:
        raise RpcError(INTERNAL_ERROR, "the server was killed during this signal; whether it arrived is not known")
    if state is not WriteState.NEW:
        return
    process.writes.begin_signal(signal_id)
    try:
        process.signal_group(number)
    except NotPermitted:
        process.writes.signal_refused(signal_id)
        raise
    process.writes.signal_done(signal_id)


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
    was_running = not process.has_ended
    ended: list[OsProcess] = []
    survivors: list[OsProcess] = []
    try:
        if process.tree is not None:
            process.terminating = True
            ending = await end_tree(process.tree, grace=grace)
            ended, survivors = ending.ended, ending.survivors
    except OSError as error:
        raise cannot_tell(process, error) from None
    return encode_json(
        {
            "running": was_running,
            "ended": [describe_member(one) for one in ended],
            "survivors": [describe_member(one) for one in survivors],
        }
    )
