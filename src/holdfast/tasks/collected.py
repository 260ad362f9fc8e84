"""What may be deleted of finished tasks, and what was."""

from __future__ import annotations

import msgspec


class CollectionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What may go; body of ``POST /v1/gc``."""

    #: Only tasks that finished at least so many seconds ago; ``None``: no task, only what belongs to none.
    older_than_s: float | None
    #: And of those, not the newest so many of all finished tasks.
    keep: int = 0
    #: Delete nothing, only say what would be deleted.
    dry_run: bool = False


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted (or, in a dry run, would be)."""

    dry_run: bool
    #: Ids of tasks, oldest first.
    tasks: list[str]
    #: Processes whose logs were deleted, those of no task included.
    processes: int
    #: Processes among them that belonged to no task.
    orphaned_processes: int
    #: Processes among them that were shared servers of agents.
    ended_servers: int = 0
    #: Directories that belonged to no task.
    orphaned_directories: int
    #: Bytes of disk: logs on the host, and files of tasks.
    log_bytes: int
    file_bytes: int
    #: Finished tasks that were left because something of their processes is still open.
    still_open: list[str]
    #: Processes of no task that are still running and were left alone.
    still_running: list[str]

    #: Worktrees of deleted tasks that were left because there is work in them that is nowhere else.
    worktrees_kept: list[str] = []

    @property
    def bytes(self) -> int:
        """All of the bytes."""
        return self.log_bytes + self.file_bytes
