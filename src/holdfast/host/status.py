"""Extensions that show processes: one, all of the host's namespace, or what is alive of one's tree."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from holdfast.clock import boot_id
from holdfast.host import parameters
from holdfast.host.methods import Reply, method
from holdfast.host.os_process import OsProcess
from holdfast.host.process import HostedProcess
from holdfast.jsonrpc.messages import INTERNAL_ERROR, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Characters of a command that a list of many shows.
_COMMAND: Final = 200


def describe_member(process: OsProcess) -> dict[str, Any]:
    """A member of a process's tree as the extensions show it."""
    return {"pid": process.pid, "command": process.command}


def describe(process: HostedProcess) -> dict[str, Any]:
    """A process as the extensions show it."""
    if process.lost:
        state = "lost"
    elif process.closed:
        state = "closed"
    else:
        state = "running" if process.exit is None else "exited"
    code, number = process.exit or (None, 0)
    return {
        "processId": process.process_id,
        "state": state,
        "pid": process.pid,
        "lastSeq": process.log.last_seq,
        "exitCode": code,
        "signal": number or None,
        "stalled": process.stalled,
    }


@method("process/status", parameters.OneProcess)
def status(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: a process as the host sees it, null if there is none."""
    process = client.find(params.process_id)
    return encode_json({"status": None if process is None else describe(process)})


@method("process/list", None)
def list_processes(client: ClientConnection, params: None) -> Reply:
    """Extension: the processes of the host's namespace."""
    return encode_json({"processes": [_listed(process) for process in client.host.persistent.values()]})


def _listed(process: HostedProcess) -> dict[str, Any]:
    description = process.description
    if description.boot_id == boot_id():
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - description.created_boottime_ns
    else:
        # The clock that nobody sets did not run all the time.
        age = max(0, time.time_ns() - description.created_ns)
    command = " ".join(word[:_COMMAND] for word in description.argv[:_COMMAND])[:_COMMAND]
    return {**describe(process), "command": command, "age": round(age / 1e9, 3)}


def cannot_tell(process: HostedProcess, error: OSError) -> RpcError:
    """That there are no descriptors to look with."""
    return RpcError(INTERNAL_ERROR, f"what is alive of process {process.process_id} cannot be told: {error.strerror}")


@method("process/members", parameters.OneProcess)
def members(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: what is alive of a process's tree."""
    return _members(client.require(params.process_id))


async def _members(process: HostedProcess) -> bytes:
    try:
        found = [] if process.tree is None else await asyncio.to_thread(process.tree.members)
    except OSError as error:
        raise cannot_tell(process, error) from None
    return encode_json({"members": [describe_member(process) for process in found]})
