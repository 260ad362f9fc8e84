"""The budget of output that is kept: of closed processes in the host's namespace, oldest output goes first."""

from __future__ import annotations

from holdfast.host.process import HostedProcess


class Retention:
    """Counts what closed processes take, and deletes the oldest output that the budget has no room for."""

    def __init__(self, budget: int) -> None:
        #: Bytes that may be kept.
        self.budget = budget
        #: Bytes that are.
        self.kept = 0
        #: Closed processes that still have their output, oldest first, and its size.
        self._sizes: dict[HostedProcess, int] = {}

    def count(self, process: HostedProcess) -> None:
        """Count a closed log, and make room."""
        size = 0 if process.log.dropped else process.log.stored_bytes()
        if not size:
            return
        self._sizes[process] = size
        self.kept += size
        while self.kept > self.budget and self._sizes:
            oldest = next(iter(self._sizes))
            self.forget(oldest)
            oldest.log.drop_output()

    def forget(self, process: HostedProcess) -> None:
        """Count it no more: its output is gone, or somebody else's now."""
        self.kept -= self._sizes.pop(process, 0)
