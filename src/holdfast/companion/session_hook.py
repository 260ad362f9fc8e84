"""``session-hook``: the beginning and the end of a Claude session.

At the beginning, what later commands need to know of the session is exported to its shells.  At the end its jobs, and
no other session's, are ended, and leave the view; their results stay in Holdfast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from holdfast.companion import foreign, hook_input, job, output
from holdfast.companion.arguments import Syntax
from holdfast.companion.jobs import Jobs
from holdfast.companion.view import is_active
from holdfast.companion.workspace import PLUGIN_DATA_VARIABLE, SESSION_VARIABLE, TRANSCRIPT_VARIABLE, Workspace
from holdfast.errors import HoldfastError

SYNTAX: Final = Syntax()
#: A file that shells read; its name is in this variable.
_ENVIRONMENT_FILE: Final = "CLAUDE_ENV_FILE"


def run(arguments: Sequence[str]) -> int:
    """``session-hook [SessionStart|SessionEnd]``; without a word the event is the one that the input names."""
    given = SYNTAX.read(arguments)
    told = hook_input.read()
    event = given.words[0] if given.words else hook_input.text(told, "hook_event_name")
    if event == "SessionStart":
        _start(hook_input.text(told, "session_id"), hook_input.text(told, "transcript_path"))
    elif event == "SessionEnd":
        workspace = Workspace(
            hook_input.text(told, "cwd") or given.value("cwd"), session=hook_input.text(told, "session_id")
        )
        if workspace.session is not None:
            _end(Jobs(workspace), workspace.session)
    return 0


def _start(session: str | None, transcript: str | None) -> None:
    path = os.environ.get(_ENVIRONMENT_FILE)
    if not path:
        return
    values = (
        (SESSION_VARIABLE, session),
        (TRANSCRIPT_VARIABLE, transcript),
        (PLUGIN_DATA_VARIABLE, os.environ.get(PLUGIN_DATA_VARIABLE)),
    )
    lines = [f"export {name}={_quoted(value)}" for name, value in values if value]
    # The hook runs again at every resumption of the session, with the same file; what holds already is not repeated.
    current: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file.read().splitlines():
                current[line.partition("=")[0]] = line
    except FileNotFoundError:
        pass
    missing = [line for line in lines if current.get(line.partition("=")[0]) != line]
    if missing:
        # One write at the end: other hooks append to the same file at the same time.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, "".join(f"{line}\n" for line in missing).encode("utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)


def _end(jobs: Jobs, session: str) -> None:
    # No daemon need be started to learn that nothing is under way.
    shown = jobs.view.records() if jobs.view.directory.exists() else []
    busy = any(is_active(each) and each.get("sessionId") == session for each in shown) or jobs.daemon.answers()
    for record in jobs.of_session() if busy else []:
        if not is_active(record):
            continue
        if not job.is_ours(record, jobs.home):
            foreign.end(record)
            continue
        try:
            # The end of a session has five seconds; a job that takes longer to end does so without us.
            jobs.daemon.post(f"/v1/tasks/{record['id']}/cancel", {}, timeout=3.0)
        except HoldfastError as error:
            output.note(f"{record['id']} may go on: {error.message}")
    if jobs.view.directory.exists():
        jobs.with_view(lambda: jobs.view.end_session(session, ours=lambda each: job.is_ours(each, jobs.home)))


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"
