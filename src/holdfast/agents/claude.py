"""Claude Code, run once per turn as ``claude -p --output-format stream-json`` with the prompt on standard input.

What the three sandboxes mean here, measured on 2.1.329 and the same on 2.1.260 and 2.1.197:

* *read-only*: the tools Bash, Glob, Grep and Read in the mode ``dontAsk``.  No tool that edits exists; a shell command
  runs only if Claude Code itself recognises it as one that only reads (``git log`` does, the same with
  ``--output=FILE`` does not); the settings of user and repository, whose rules and hooks could widen that, are not
  loaded (``--setting-sources ""``); no MCP server is started.  With the settings go CLAUDE.md files and credentials
  that live in a settings file (``apiKeyHelper``, ``env``): those belong into the environment or the managed settings.
* *workspace-write*: the mode ``acceptEdits`` with Bash allowed.  Edits outside the working directory are denied; what
  a shell command may touch is limited by Claude Code's own sandbox only if the user's settings enable it.
* *danger-full-access*: the mode ``bypassPermissions``, which Claude Code refuses to root.

Nobody is ever asked: without a terminal, what would need a person is denied, and reported as denied.
The prompt arrives byte for byte as long as it is UTF-8 (other bytes become U+FFFD); an empty one is refused.
One that consists of a command of Claude Code itself (``/clear``) never reaches a model, and counts as failed.

2.1.197 exits without waiting for its output to be read: of an answer larger than a pipe (64 KiB) the end can be
missing, the ``result`` included, with exit status 0.  2.1.260 and later do not.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdfast.agents import claude_events, claude_failures, claude_transcript, foreign, options, program
from holdfast.agents.adapter import Installation, Launch, Login, Probe, Sandbox, Work
from holdfast.agents.environment import agent_environment
from holdfast.agents.events import Event, TurnFailed
from holdfast.agents.failure import FailureClass
from holdfast.agents.packaged import PackagedAgent

_PERMISSIONS: dict[Sandbox, list[str]] = {
    # --tools and --allowedTools take any number of values, so an option has to follow them.
    Sandbox.READ_ONLY: [
        "--setting-sources", "", "--strict-mcp-config", "--tools", "Bash,Glob,Grep,Read",
        "--permission-mode", "dontAsk",
    ],
    Sandbox.WORKSPACE_WRITE: ["--allowedTools", "Bash", "--permission-mode", "acceptEdits"],
    Sandbox.DANGER_FULL_ACCESS: ["--permission-mode", "bypassPermissions"],
}  # fmt: skip

#: Clouds that can serve the model instead of Anthropic: the variable that chooses each, and the secrets it needs.
_CLOUDS: dict[str, tuple[str, ...]] = {
    "CLAUDE_CODE_USE_BEDROCK": ("AWS_*",),
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": ("AWS_*",),
    "CLAUDE_CODE_USE_MANTLE": ("AWS_*",),
    "CLAUDE_CODE_USE_VERTEX": ("GOOGLE_*", "GCLOUD_*", "CLOUDSDK_*"),
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD": ("GOOGLE_*", "GCLOUD_*", "CLOUDSDK_*"),
    "CLAUDE_CODE_USE_FOUNDRY": ("AZURE_*",),
}


class ClaudeAgent(PackagedAgent):
    """The ``claude`` command of the npm package ``@anthropic-ai/claude-code`` or of the native installer."""

    name = "claude"
    title = "Claude Code"
    install = "npm install -g @anthropic-ai/claude-code"

    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        env = self._environment(environment, Work(cwd=Path.cwd()))
        version = self._version(installation, env)
        if isinstance(version, Probe):
            return version
        name = version.removesuffix(" (Claude Code)")
        status = program.ask([*installation.command, "auth", "status"], env)
        try:
            said: object = msgspec.json.decode(status.stdout)
        except msgspec.DecodeError:
            said = None
        if not foreign.is_object(said) or foreign.flag(said, "loggedIn") is None:
            return Probe(version=name, login=Login.UNKNOWN, detail="This version cannot say whether it is logged in.")
        if foreign.flag(said, "loggedIn"):
            method = foreign.text(said, "authMethod") or "unknown method"
            provider = foreign.text(said, "apiProvider") or "unknown provider"
            return Probe(version=name, login=Login.YES, detail=f"Logged in: {method}, {provider}.")
        return Probe(version=name, login=Login.NO, detail="Not logged in.", hint="Log in: claude auth login")

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        options.check(work, self)
        thread_id = options.require_uuid(work.resume, self.title) if work.resume is not None else str(uuid.uuid4())
        argv = [*installation.command, "-p", "--output-format", "stream-json", "--verbose"]
        if work.add_dirs:
            argv += ["--add-dir", *(str(directory) for directory in work.add_dirs)]
        argv += _PERMISSIONS[work.sandbox]
        argv += ["--resume" if work.resume is not None else "--session-id", thread_id]
        if work.model is not None:
            argv += ["--model", work.model]
        if work.effort is not None:
            argv += ["--effort", work.effort]
        if work.output_schema is not None:
            # The answer is then the document, also in the field ``result`` (measured on 2.1.329).
            argv += ["--json-schema", msgspec.json.encode(work.output_schema).decode()]
        return Launch(argv=argv, env=self._environment(environment, work), thread_id=thread_id)

    def interpret(self, line: bytes) -> list[Event]:
        return claude_events.interpret(line)

    def diagnose(self, *, stderr_tail: str, exit_code: int | None) -> list[Event]:
        for line in stderr_tail.splitlines():
            if line.startswith("error: "):
                # The option parser's; everything that Claude Code itself has to say begins differently.
                return [TurnFailed(failure=claude_failures.failure(line, failure_class=_usage_error(line)))]
            known = claude_failures.by_message(line)
            if known is not None:
                return [TurnFailed(failure=claude_failures.failure(line, failure_class=known))]
        if exit_code in (None, 0):
            return []
        lines = [line.strip() for line in stderr_tail.splitlines() if line.startswith(("Error", "API Error"))]
        return [TurnFailed(failure=claude_failures.failure(lines[0]))] if lines else []

    def post_mortem(self, thread_id: str, environment: Mapping[str, str]) -> list[Event]:
        return claude_transcript.read(thread_id, environment)

    def _environment(self, environment: Mapping[str, str], work: Work) -> dict[str, str]:
        own = ["ANTHROPIC_*", "CLAUDE_*"]
        for switch, names in _CLOUDS.items():
            own += names if environment.get(switch) else ()
        chosen = agent_environment(environment, cwd=work.cwd, own=own, passed=(*self._pass_env, *work.pass_env))
        # Without it a refusal to start is told on standard error alone, in prose.
        chosen["CLAUDE_CODE_STARTUP_FAILURE_RESULTS"] = "1"
        # A run must not replace the program of the runs beside it.
        chosen.setdefault("DISABLE_AUTOUPDATER", "1")
        return chosen


def _usage_error(line: str) -> FailureClass:
    return FailureClass.BACKEND_INCOMPATIBLE if line.startswith("error: unknown option") else FailureClass.BAD_REQUEST
