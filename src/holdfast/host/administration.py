"""Extension methods about the host itself: how it is (``host/status``), and its end (``host/stop``)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast import __version__
from holdfast.directories import stored_bytes
from holdfast.host.dispatch import ClientConnection
from holdfast.host.methods import Reply, method
from holdfast.host.os_process import start_time
from holdfast.host.overview import Disk, Ending, Memory, Overview, Retention, Stopping
from holdfast.host.parameters import Parameters
from holdfast.host.status import describe
from holdfast.jsonrpc.messages import INVALID_PARAMS, RpcError, encode_json

if TYPE_CHECKING:
    from holdfast.host.server import ProcessHost

STATES: Final = ("running", "exited", "closed", "lost")


class Stop(Parameters, frozen=True):
    """``host/stop``."""

    #: End only if no process lives and nobody but the asking client is connected; the only way that is offered.
    if_idle: bool


@method("host/status", None, "host")
def host_status(client: ClientConnection, params: None) -> Reply:
    """Extension: how the host is."""
    return _overview(client.host)


async def _overview(host: ProcessHost) -> bytes:
    keeper = host.keeper_pid
    states = Counter(describe(process)["state"] for process in host.processes())
    # Thousands of logs may be there: not on the loop's thread.
    logs = await asyncio.to_thread(stored_bytes, host.directory / "processes")
    free = os.statvfs(host.directory)
    return encode_json(
        Overview(
            version=__version__,
            instance_id=host.instance_id,
            state_directory=str(host.directory),
            server_pid=os.getpid(),
            keeper_pid=keeper,
            uptime=_age(keeper or os.getpid()),
            server_uptime=_age(os.getpid()),
            connections=host.connections,
            sessions=len(host.sessions),
            processes={state: states[state] for state in STATES},
            memory=Memory(server=_resident(os.getpid()), keeper=_resident(keeper) if keeper is not None else 0),
            disk=Disk(logs=logs, free=free.f_bavail * free.f_frsize),
            retention=Retention(kept=host.retention.kept, budget=host.retention.budget),
            ending=_ending(host),
        )
    )


@method("host/stop", Stop, "host")
def host_stop(client: ClientConnection, params: Stop) -> Reply:
    """Extension: end the host at once if nobody needs it."""
    if not params.if_idle:
        raise RpcError(INVALID_PARAMS, "only an idle host is stopped this way; SIGTERM ends any")
    host = client.host
    stopping = not host.live and not host.pending_starts and host.connections == 1
    if stopping:
        # The one orderly way to end; it is taken after the reply has been sent.
        os.kill(os.getpid(), signal.SIGTERM)
    return encode_json(Stopping(stopping=stopping, pid=host.keeper_pid or os.getpid()))


def _ending(host: ProcessHost) -> Ending:
    directory, reason = host.delegation
    return Ending(method="tree", reason=reason) if directory is None else Ending(method="cgroup")


def _age(pid: int) -> float:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, round(uptime - start_time(pid) / os.sysconf("SC_CLK_TCK"), 2))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        # A keeper that dies at this moment has none; the server is about to take its place.
        return 0
