"""The rehearsal agent: built in, needs no account and no network, and does exactly as it is told.

For trying Holdfast out, and for tests: it behaves well by default and, directed by lines of the prompt, misbehaves in
every way that agents are known to (docs/agents.md lists the directions).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast import __version__
from holdfast.agents import neutral, options
from holdfast.agents.adapter import Agent, Installation, Launch, Login, Probe, Work
from holdfast.agents.environment import agent_environment
from holdfast.agents.events import Event
from holdfast.directories import state_directory

#: Where it remembers its threads, if not in the state directory.
HOME_VARIABLE = "HOLDFAST_REHEARSAL_HOME"


class RehearsalAgent(Agent):
    """The program in :mod:`holdfast.agents.rehearsal_program`, run by the interpreter that runs Holdfast."""

    name = "rehearsal"
    title = "Rehearsal"

    def __init__(self, *, pass_env: Sequence[str] = ()) -> None:
        self._pass_env = tuple(pass_env)

    def find(self, environment: Mapping[str, str]) -> Installation:
        program = Path(__file__).with_name("rehearsal_program.py")
        # Isolated and without site: 15 ms to the first event instead of 60 and more.
        return Installation(command=[sys.executable, "-I", "-S", str(program)])

    def probe(self, installation: Installation, environment: Mapping[str, str]) -> Probe:
        return Probe(version=__version__, login=Login.YES, detail="Built in; needs no login and asks no model.")

    def launch(self, installation: Installation, work: Work, environment: Mapping[str, str]) -> Launch:
        options.check(work, self)
        argv = [*installation.command, "--sandbox", work.sandbox.value]
        for directory in work.add_dirs:
            argv += ["--add-dir", str(directory)]
        for option, value in (("--model", work.model), ("--effort", work.effort)):
            argv += [option, value] if value is not None else []
        if work.resume is not None:
            argv += ["--resume", options.require_uuid(work.resume, self.title)]
        env = agent_environment(environment, cwd=work.cwd, passed=(*self._pass_env, *work.pass_env))
        env[HOME_VARIABLE] = environment.get(HOME_VARIABLE) or str(state_directory() / "rehearsal")
        return Launch(argv=argv, env=env)

    def interpret(self, line: bytes) -> list[Event]:
        return neutral.interpret(line)
