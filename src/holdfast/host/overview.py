"""What a host says of itself, as it goes over the wire: sizes in bytes, times in seconds."""

from __future__ import annotations

import msgspec


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the host's own processes."""

    server: int
    #: 0 when there is no keeper (stdio).
    keeper: int


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of the state directory."""

    #: What the logs of all processes take.
    logs: int
    #: What is left to this user.
    free: int


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """Output of closed processes in the namespace of the host."""

    kept: int
    #: Beyond it the oldest goes.
    budget: int


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How the host finds everything of a process that is to be ended."""

    #: ``cgroup``: by a cgroup for each persistent process, and by descent, session and marker; ``tree``: by those only.
    method: str
    #: Why there is no cgroup, if there is none.
    reason: str | None = None


class Overview(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``host/status``."""

    version: str
    instance_id: str
    state_directory: str
    server_pid: int
    #: None when there is no keeper (stdio).
    keeper_pid: int | None
    #: Since the host was started, and since its present server was.
    uptime: float
    server_uptime: float
    connections: int
    sessions: int
    #: How many processes are in each state, those of sessions included.
    processes: dict[str, int]
    memory: Memory
    disk: Disk
    retention: Retention
    ending: Ending = Ending(method="tree")


class Stopping(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to ``host/stop``."""

    #: Whether the host is about to end; if not, somebody needs it.
    stopping: bool
    #: The process whose end is the end of the host.
    pid: int
