"""Where the companion works: the workspace, the Claude session it is called from, and the directory that callers read.

The names and the layout are those of openai/codex-plugin-cc 1.0.5, because other programs know them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

from holdfast.companion.refusal import Refused

SESSION_VARIABLE: Final = "CODEX_COMPANION_SESSION_ID"
TRANSCRIPT_VARIABLE: Final = "CODEX_COMPANION_TRANSCRIPT_PATH"
ENDPOINT_VARIABLE: Final = "CODEX_COMPANION_APP_SERVER_ENDPOINT"
PLUGIN_DATA_VARIABLE: Final = "CLAUDE_PLUGIN_DATA"

_NO_SLUG: Final = r"[^a-zA-Z0-9._-]+"


class Workspace:
    """One workspace: a git repository, or a directory outside of one.

    :ivar cwd: the directory that the caller named, or is in
    :ivar root: the top of the repository that it lies in, else itself
    :ivar session: the Claude session that calls, if one does
    """

    def __init__(self, cwd: str | None = None, session: str | None = None) -> None:
        """*cwd* and *session* default to those of this process.

        :raises Refused: there is no such directory
        """
        self.cwd = os.path.abspath(cwd or ".")
        if not os.path.isdir(self.cwd):
            raise Refused(f"There is no directory {self.cwd}.", hint="Give --cwd an existing directory.")
        self.root = repository_root(self.cwd) or self.cwd
        self.session = session or os.environ.get(SESSION_VARIABLE) or None

    @property
    def directory(self) -> Path:
        """The directory with ``state.json`` and ``jobs/`` that callers read."""
        slug = re.sub(_NO_SLUG, "-", os.path.basename(self.root) or "workspace").strip("-") or "workspace"
        digest = _sha256(os.fsencode(os.path.realpath(self.root)))[:16]
        return _state_root() / f"{slug}-{digest}"


def repository_root(directory: str) -> str | None:
    """The top of the git working tree that *directory* lies in, as git names it; ``None`` outside of one."""
    path = os.path.realpath(directory)
    while True:
        marker = os.path.join(path, ".git")
        # A directory in a clone, a file in a linked worktree or a submodule.
        if os.path.isfile(marker) or os.path.isfile(os.path.join(marker, "HEAD")):
            return path
        parent = os.path.dirname(path)
        if parent == path:
            return None
        path = parent


def _sha256(data: bytes) -> str:
    """The digest of *data* in hexadecimal."""
    # ``hashlib`` loads OpenSSL, which takes a fifth of what a whole command does; the interpreter has its own.
    for name in ("_sha2", "_sha256"):
        with suppress(ImportError, AttributeError):
            return str(import_module(name).sha256(data).hexdigest())
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _state_root() -> Path:
    plugin_data = os.environ.get(PLUGIN_DATA_VARIABLE)
    if plugin_data:
        return Path(os.path.abspath(plugin_data)) / "state"
    # As node has it, because that is where callers look.
    temporary = next((os.environ[name] for name in ("TMPDIR", "TMP", "TEMP") if os.environ.get(name)), "/tmp")
    return Path(os.path.abspath(temporary)) / "codex-companion"
