"""The sandbox that a client of the host may ask for, as Codex does for its commands."""

from __future__ import annotations

from holdfast.doctor.check import BlockingCheck, Finding, Level
from holdfast.host.sandbox.bubblewrap import unusable


class SandboxCheck(BlockingCheck):
    """Bubblewrap is installed and works: found out by running it."""

    id = "host.sandbox"
    title = "Sandbox"

    def look(self) -> Finding:
        reason = unusable()
        if reason is None:
            return Finding(level=Level.OK, summary="bubblewrap works")
        return Finding(
            level=Level.INFO,
            summary="A host refuses what a client wants to run in a sandbox.",
            detail=reason,
            hint="Install bubblewrap and coreutils, and allow user namespaces, if a Codex uses your host.",
        )
