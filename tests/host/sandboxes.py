"""Asking for a sandbox as Codex does, and what is run in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.host.sandbox.bubblewrap import unusable

from .harness import WireClient

bubblewrap = pytest.mark.skipif(unusable() is not None, reason=f"no sandbox on this machine: {unusable()}")


def plain(path: Path, access: str) -> dict[str, Any]:
    return {"path": {"type": "path", "path": f"file://{path}"}, "access": access}


def special(kind: str, access: str, subpath: str | None = None, **more: str) -> dict[str, Any]:
    value = {"kind": kind} if subpath is None else {"kind": kind, "subpath": subpath}
    return {"path": {"type": "special", "value": value}, "access": access, **more}


def sandbox(workspace: Path, *entries: dict[str, Any], network: str = "restricted") -> dict[str, Any]:
    """What Codex sends for ``-s workspace-write`` (or, with *entries*, something else)."""
    protected = [special("project_roots", "read", name, missing_path_behavior="skip") for name in (".git", ".codex")]
    usual = [special("root", "read"), special("project_roots", "write"), *protected]
    return {
        "permissions": {
            "type": "managed",
            "file_system": {"type": "restricted", "entries": list(entries) or usual},
            "network": network,
        },
        "cwd": f"file://{workspace}",
        "workspaceRoots": [f"file://{workspace}"],
        "windowsSandboxLevel": "disabled",
        "windowsSandboxProxySettingsMode": "reconcile",
        "useLegacyLandlock": False,
    }


async def run_in(
    client: WireClient, workspace: Path, what: str | list[str], asked: dict[str, Any], **params: Any
) -> str:
    """Run a script, or a program with its arguments, in the sandbox that is *asked* for; returns its output."""
    argv = ["/bin/sh", "-c", what] if isinstance(what, str) else what
    name = f"p{len(client.replies)}"
    await client.start(name, *argv, cwd=f"file://{workspace}", sandbox=asked, **params)
    await client.until_closed(name)
    return client.output(name).decode()
