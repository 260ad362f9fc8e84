"""Which of the caller's environment variables an agent gets.

Everything, except what looks like a secret of somebody else and what would make the agent believe that it runs inside
another agent's session.  An agent's own credentials are named by its adapter; anything more by the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

#: Names that look like secrets (compared without regard to case).
SECRET_PATTERNS: tuple[str, ...] = ("*KEY*", "*SECRET*", "*TOKEN*", "*PASSWORD*", "*CREDENTIAL*")

#: Variables that describe a running agent session to its children.  Inherited by another agent they lie: measured in
#: the tool processes of Claude Code 2.1.329 (first group) and Codex 0.169 (second); the third marks other agents.
SESSION_MARKERS: tuple[str, ...] = (
    "AI_AGENT",
    "CLAUDECODE",
    "CLAUDE_CODE_CHILD_NOTES_DIR",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH",
    "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS",
    "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_PARENT_*",
    "CLAUDE_CODE_REMOTE_SESSION_ID",
    "CLAUDE_CODE_RESTRICTED",
    "CLAUDE_CODE_SESSION_*",
    "CLAUDE_CODE_SSE_PORT",
    "CLAUDE_EFFORT",
    "CLAUDE_ENV_FILE",
    "CLAUDE_JOB_DIR",
    "CLAUDE_PID",
    "CLAUDE_PLUGIN_DATA",
    "CLAUDE_PLUGIN_ROOT",
    "CLAUDE_PROJECT_DIR",
    "CODEX_APPLY_PATCH_PRESERVE_LINE_ENDINGS",
    "CODEX_CI",
    "CODEX_INTERNAL_*",
    "CODEX_MANAGED_*",
    "CODEX_SESSION_ID",
    "CODEX_THREAD_ID",
    "CODEX_TOOL_CALL_ID",
    "CODEX_VERSION",
    "COPILOT_CLI",
    "CURSOR_AGENT",
    "GEMINI_CLI",
    "HOLDFAST_*",
)


def agent_environment(
    environment: Mapping[str, str],
    *,
    cwd: Path,
    own: Iterable[str] = (),
    passed: Iterable[str] = (),
) -> dict[str, str]:
    """The environment of an agent that works in *cwd*, made from the caller's *environment*.

    :param own: patterns (``OPENAI_*``) of the secrets that belong to the agent itself
    :param passed: patterns that the user wants passed on although they look like secrets

    Session markers are never passed on, whatever the patterns say.  A variable that is not UTF-8 is left out, because
    it could not travel to a host on another machine.
    """
    allowed = [pattern.upper() for pattern in (*own, *passed)]
    chosen = {
        name: value
        for name, value in environment.items()
        if not matches(name, SESSION_MARKERS)
        and (not matches(name, SECRET_PATTERNS) or matches(name, allowed))
        and _is_utf8(name + value)
    }
    chosen["PWD"] = str(cwd)
    chosen.pop("OLDPWD", None)
    return chosen


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether *name*, without regard to case, matches one of the upper-case *patterns*."""
    return _expression(tuple(patterns)).match(name.upper()) is not None


@lru_cache(maxsize=64)
def _expression(patterns: tuple[str, ...]) -> re.Pattern[str]:
    # One look at a name instead of one for each pattern: there are some hundred of either in a task.
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def _is_utf8(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
