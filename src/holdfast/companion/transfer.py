"""``transfer``: make a Codex thread of a Claude session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from holdfast.companion import codex_server, output
from holdfast.companion.arguments import Syntax
from holdfast.companion.availability import require_codex
from holdfast.companion.refusal import Refused
from holdfast.companion.task import environment
from holdfast.companion.workspace import TRANSCRIPT_VARIABLE, Workspace

SYNTAX: Final = Syntax(switches=("json",), values=("source",))


def run(arguments: Sequence[str]) -> int:
    """``transfer [--source FILE.jsonl]``."""
    given = SYNTAX.read(arguments)
    workspace = Workspace(given.value("cwd"))
    source = _transcript(workspace.cwd, given.value("source") or os.environ.get(TRANSCRIPT_VARIABLE))
    variables = environment()
    thread = codex_server.import_session(require_codex(variables), variables, source, workspace.cwd)
    resume = f"codex resume {thread}"
    payload = {
        "threadId": thread,
        "resumeCommand": resume,
        "sourcePath": source,
        "sessionId": os.path.basename(source).removesuffix(".jsonl"),
    }
    text = (
        "Transferred the Claude session into a Codex thread with visible turn history.\n"
        f"Codex session ID: {thread}\n"
        f"Resume in Codex: {resume}\n"
    )
    output.put(payload, text, as_json=given.switch("json"))
    return 0


def _transcript(cwd: str, name: str | None) -> str:
    """The real path of the transcript; only Claude's own are taken, because an import copies what it is given."""
    if not name:
        raise Refused("Could not identify the current Claude transcript. Retry with --source <path-to-claude-jsonl>.")
    path = os.path.join(cwd, os.path.expanduser(name))
    if not path.endswith(".jsonl"):
        raise Refused(f"Claude session source must be a JSONL file: {path}")
    projects = os.path.join(os.path.expanduser("~"), ".claude", "projects")
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        raise Refused(f"Claude session file not found: {path}")
    if not real.startswith(os.path.realpath(projects) + os.sep):
        raise Refused(f"Codex can import Claude sessions only from {projects}: {real}")
    return real
