"""The budget of output that is kept: of closed processes in the host's namespace, oldest output goes first."""

from __future__ import annotations

import logging

from holdfast.host.process import HostedProcess

_log = logging.getLogger(__name__)


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
        size = process.log.stored_bytes()
        if not size:
            return
        self._sizes[process] = size
        self.kept += size
        while self.kept > self.budget and self._sizes:
            if not self._drop(next(iter(self._sizes))):
                break

    def _drop(self, process: HostedProcess) -> bool:
        """Delete the output of *process*; False if that is not possible now, and is tried again with the next log."""
        try:
            process.log.drop_output()
        except OSError as error:
            _log.warning("the output of process %r cannot be deleted: %s", process.process_id, error)
            return False
        _log.info("deleted the output of process %r: %d bytes", process.process_id, self._sizes[process])
        self.forget(process)
        return True

    def forget(self, process: HostedProcess) -> None:
        """Count it no more: its output is gone, or somebody else's now."""
        self.kept -= self._sizes.pop(process, 0)
