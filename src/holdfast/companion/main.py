"""The companion's commands, and what their words mean."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Final, cast

from holdfast.companion import output
from holdfast.companion.refusal import Refused
from holdfast.errors import HoldfastError

#: A command does what follows its name and returns the exit status.
Command = Callable[[Sequence[str]], int]

#: Command, and the module and function that do it; a command imports only its own.
COMMANDS: Final = {
    "setup": "setup.run",
    "review": "review.run",
    "adversarial-review": "review.run_adversarial",
    "task": "task.run",
    "transfer": "transfer.run",
    "status": "inspection.status",
    "result": "inspection.result",
    "cancel": "cancellation.run",
    "task-resume-candidate": "inspection.resume_candidate",
    "task-worker": "worker.run",
    "session-hook": "session_hook.run",
    "stop-hook": "stop_gate.run",
}

USAGE: Final = """\
Usage:
  holdfast companion setup [--enable-review-gate|--disable-review-gate] [--json]
  holdfast companion review [--wait|--background] [--base <ref>] [--scope <auto|working-tree|branch>] [--json]
  holdfast companion adversarial-review [--wait|--background] [--base <ref>] [--scope <auto|working-tree|branch>] \
[focus text]
  holdfast companion task [--background] [--write] [--resume-last|--resume|--fresh] [--model <model|spark>] \
[--effort <none|minimal|low|medium|high|xhigh>] [--prompt-file <file>] [--json] [prompt]
  holdfast companion transfer [--source <claude-jsonl>] [--json]
  holdfast companion status [job-id] [--wait] [--timeout-ms <ms>] [--all] [--json]
  holdfast companion result [job-id] [--json]
  holdfast companion cancel [job-id] [--json]
  holdfast companion task-resume-candidate [--json]
  holdfast companion session-hook [SessionStart|SessionEnd]
  holdfast companion stop-hook

Every command takes --cwd <directory>.  Options stand before a prompt: everything from its first word on is text.
"""


def run(arguments: Sequence[str]) -> int:
    """Do one command line of the companion and return its exit status."""
    name, *rest = arguments or ("help",)
    if name in ("help", "--help", "-h"):
        output.write(USAGE)
        return 0
    try:
        if name not in COMMANDS:
            raise Refused(f"Unknown subcommand: {name}", hint="See: holdfast companion --help")
        if rest[:1] == ["--help"]:
            output.write(USAGE)
            return 0
        module, function = COMMANDS[name].split(".")
        command = cast(Command, getattr(importlib.import_module(f"holdfast.companion.{module}"), function))
        return command(rest)
    except HoldfastError as error:
        return output.complain(error, as_json=_wants_json(rest))


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, told from its words because reading them may be what failed."""
    from holdfast.companion.arguments import split

    words = split(arguments[0]) if len(arguments) == 1 else list(arguments)
    return "--json" in words[: words.index("--") if "--" in words else None]
