"""Codex CLI, run once per turn as ``codex exec --json`` with the prompt on standard input.

Facts measured on 0.169.0: with ``-`` the prompt arrives byte for byte, except that a leading byte order mark is taken
off; one that is empty, not UTF-8 or longer than 1,048,576 characters is refused.  The options ``-s``, ``-C`` and
``--add-dir`` belong to ``exec`` and must stand before ``resume``, which inherits neither sandbox nor directory from the
earlier run.  Exit status 2 is a command line that this version does not understand, 1 everything else that went wrong.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path

from holdfast.agents import codex_events, codex_rollout, options, program
from holdfast.agents.adapter import Installation, Launch, Login, Probe, Work
from holdfast.agents.environment import agent_environment
from holdfast.agents.events import Event, TurnFailed
from holdfast.agents.failure import Failure, FailureClass
from holdfast.agents.packaged import PackagedAgent

#: Names of the platform packages, as the npm package's own launcher knows them (codex 0.169, bin/codex.js).
_TARGETS: dict[tuple[str, str], tuple[str, str]] = {
    ("linux", "x86_64"): ("@openai/codex-linux-x64", "x86_64-unknown-linux-musl"),
    ("linux", "aarch64"): ("@openai/codex-linux-arm64", "aarch64-unknown-linux-musl"),
    ("darwin", "x86_64"): ("@openai/codex-darwin-x64", "x86_64-apple-darwin"),
    ("darwin", "arm64"): ("@openai/codex-darwin-arm64", "aarch64-apple-darwin"),
}

#: What Codex writes to standard error when it gives up before the first event.  Its errors carry no code there.
_STDERR: tuple[tuple[re.Pattern[str], FailureClass], ...] = (
    (re.compile(r"no rollout found for thread id|No saved session found"), FailureClass.THREAD_UNKNOWN),
    (re.compile(r"already has an active writer"), FailureClass.THREAD_BUSY),
    (re.compile(r'"input_error_code":"input_too_large"'), FailureClass.CONTEXT_EXCEEDED),
    (re.compile(r"^(Failed to read prompt from stdin|No prompt provided)", re.MULTILINE), FailureClass.BAD_REQUEST),
    (re.compile(r"^Error loading config\.toml", re.MULTILINE), FailureClass.BAD_REQUEST),
    (re.compile(r"^error: (unexpected argument|invalid value|unrecognized subcommand)", re.MULTILINE),
     FailureClass.BACKEND_INCOMPATIBLE),
)  # fmt: skip


class CodexAgent(PackagedAgent):
    """The ``codex`` command of the npm package ``@openai/codex``, or any native build of it."""

    name = "codex"
    title = "Codex CLI"
    install = "npm install -g @openai/codex"
    can_open_network = True
    can_forget = True

    def _executable(self, found: Path) -> Path:
        return native_binary(found) or found

    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        env = self._environment(installation, environment, Work(cwd=Path.cwd()))
        version = self._version(installation, env)
        if isinstance(version, Probe):
            return version
        name = version.removeprefix("codex-cli ")
        provider = codex_rollout.configured_provider(environment)
        if provider is not None:
            return Probe(
                version=name, login=Login.UNKNOWN, detail=f"Uses the model provider {provider!r} of its config.toml."
            )
        status = program.ask([*installation.command, "login", "status"], env)
        said = (status.stdout.strip() or status.stderr.strip()).splitlines()[-1:]
        if status.exit_code == 0:
            return Probe(version=name, login=Login.YES, detail=said[0] if said else "Logged in.")
        if status.exit_code is None:
            return Probe(version=name, login=Login.UNKNOWN, detail=f"codex login status: {status.stderr[-200:]}")
        return Probe(
            version=name, login=Login.NO, detail=said[0] if said else "Not logged in.", hint="Log in: codex login"
        )

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        options.check(work, self)
        argv = [*installation.command, "exec", "-s", work.sandbox.value, "-C", str(work.cwd)]
        for directory in work.add_dirs:
            argv += ["--add-dir", str(directory)]
        if work.resume is not None:
            argv += ["resume", options.require_uuid(work.resume, self.title)]
        if work.model is not None:
            argv += ["-m", work.model]
        if work.effort is not None:
            argv += ["-c", f'model_reasoning_effort="{work.effort}"']
        if work.network:
            argv += ["-c", "sandbox_workspace_write.network_access=true"]
        if work.ephemeral:
            argv.append("--ephemeral")
        if work.output_schema_file is not None:
            argv += ["--output-schema", str(work.output_schema_file)]
        argv += ["--json", "--skip-git-repo-check", "-"]
        return Launch(argv=argv, env=self._environment(installation, environment, work))

    def interpret(self, line: bytes) -> list[Event]:
        return codex_events.interpret(line)

    def diagnose(self, *, stderr_tail: str, exit_code: int | None) -> list[Event]:
        for pattern, failure_class in _STDERR:
            match = pattern.search(stderr_tail)
            if match is not None:
                return [_failed(failure_class, _line_at(stderr_tail, match.start()))]
        if exit_code == 2:
            return [_failed(FailureClass.BACKEND_INCOMPATIBLE, _first_error(stderr_tail))]
        message = _first_error(stderr_tail)
        if message and exit_code not in (None, 0):
            return [_failed(codex_events.by_message(message) or FailureClass.UNKNOWN, message)]
        return []

    def post_mortem(self, thread_id: str, environment: Mapping[str, str]) -> list[Event]:
        return codex_rollout.read(thread_id, environment)

    def _environment(self, installation: Installation, environment: Mapping[str, str], work: Work) -> dict[str, str]:
        keys = codex_rollout.provider_key_names(environment)
        chosen = agent_environment(
            environment,
            cwd=work.cwd,
            own=("OPENAI_*", "CODEX_*", "AZURE_OPENAI_*", *keys),
            passed=(*self._pass_env, *work.pass_env),
        )
        chosen.update(launcher_environment(Path(installation.command[0]), chosen))
        return chosen


def native_binary(command: Path) -> Path | None:
    """The native program that the npm package's JavaScript launcher *command* would start; ``None`` if it is no such
    launcher or its platform package is not there (then the launcher itself can say what is wrong).

    Starting it directly saves a node process (measured: 11 ms instead of 115 ms to ``--version``).
    """
    script = command.resolve()
    target = _TARGETS.get((platform.system().lower(), platform.machine().lower()))
    if script.suffix not in (".js", ".mjs", ".cjs") or target is None:
        return None
    package, triple = target
    # The order of node's own module resolution, then the layout of releases that carried every platform in one.
    roots = [above / "node_modules" / package for above in script.parents if above.name != "node_modules"]
    for root in [*roots, script.parent.parent]:
        for place in ("bin", "codex"):
            binary = root / "vendor" / triple / place / "codex"
            if binary.is_file():
                return binary
    return None


def launcher_environment(binary: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What the npm launcher adds to the environment of a native binary inside a package; empty for any other one.

    Codex uses it to tell people how to update; releases before 0.150 also need the tools beside the binary on PATH.
    """
    if len(binary.parents) < 5 or binary.parents[2].name != "vendor":
        return {}
    platform_package = binary.parents[3]
    wrapper = platform_package.parent / "codex"
    root = wrapper if (wrapper / "package.json").is_file() else platform_package
    manager = "CODEX_MANAGED_BY_NPM"
    if ".bun" in root.parts:
        manager = "CODEX_MANAGED_BY_BUN"
    elif ".pnpm" in root.parts:
        manager = "CODEX_MANAGED_BY_PNPM"
    added = {manager: "1", "CODEX_MANAGED_PACKAGE_ROOT": str(root.resolve())}
    tools = binary.parents[1] / "path"
    if tools.is_dir():
        added["PATH"] = f"{tools}:{environment.get('PATH', '')}".removesuffix(":")
    return added


def _failed(failure_class: FailureClass, message: str) -> TurnFailed:
    return TurnFailed(
        failure=Failure(
            failure_class=failure_class,
            message=message or "Codex ended without saying why.",
            remedy=codex_events.remedies(failure_class),
        )
    )


def _line_at(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()


def _first_error(stderr_tail: str) -> str:
    """The first line that begins with ``Error`` (what follows is usage or a stack backtrace), without its colon."""
    for line in stderr_tail.splitlines():
        if line.lower().startswith("error"):
            return line.strip()
    return ""
