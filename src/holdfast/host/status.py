"""Extensions that show processes: one, all of the host's namespace, or what is alive of one's tree."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from holdfast.host import parameters
from holdfast.host.methods import Reply, method
from holdfast.host.process import HostedProcess
from holdfast.host.tree import OsProcess, Tree
from holdfast.jsonrpc.messages import encode_json

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection


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
    return encode_json({"processes": [describe(process) for process in client.host.persistent.values()]})


@method("process/members", parameters.OneProcess)
def members(client: ClientConnection, params: parameters.OneProcess) -> Reply:
    """Extension: what is alive of a process's tree."""
    tree = client.require(params.process_id).tree
    return b'{"members":[]}' if tree is None else _members(tree)


async def _members(tree: Tree) -> bytes:
    found = await asyncio.to_thread(tree.members)
    return encode_json({"members": [describe_member(process) for process in found]})
