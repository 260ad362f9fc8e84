"""The daemon as a command sees it: what there is to say about it goes to standard error."""

from __future__ import annotations

from holdfast.api import daemon_access
from holdfast.cli import terminal
from holdfast.daemon.client import DaemonClient


class Daemon(daemon_access.Daemon):
    """The daemon for the life of one command."""

    def _tell(self, notice: str) -> None:
        terminal.tell(f"notice: {terminal.printable(notice)}")

    def _let_go(self, client: DaemonClient) -> None:
        client.close()
