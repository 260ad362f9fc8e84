"""Many jobs at once with the real Codex: whether each comes to its own answer, is on record, and leaves nothing behind.

    python -m bench.load --codex PATH [--codex PATH ...] [--rounds N] [--door companion] [--door holdfast]

A round hands over eight tasks at the same moment, to a model that takes a second and answers each with its own prompt.
``cold`` rounds begin without a daemon, so that all eight want to start one; ``warm`` rounds find a daemon and a server
of Codex.  ``foreground`` waits within the command that begins the task, ``background`` with another one.  A row of the
table is counted over all its rounds:

answered     tasks whose own answer was printed: by the command itself, or by ``result`` after ``status --wait``
retrieved    tasks whose own answer ``result`` prints in the end, asked anew
recorded     jobs in the exported ``state.json`` (tasks in ``list`` for ``holdfast run`` and ``start``)
completed    those of them that are recorded as completed
stuck        those of them that are recorded as queued or running
left         processes that are there after ``holdfast down``

The exit status is 0 only if every task was answered, retrieved, recorded and completed, none is stuck, and no process
is left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.delegation import Bench
from tests.model_server import Echo, ModelServer

AT_ONCE = 8
MODEL_SECONDS = 1.0
#: Seconds after which a command hangs.
PATIENCE = 120.0
#: Seconds in which a process that was told of the end of the daemon has ended.
FAREWELL = 20.0

#: Begins a task with a prompt, in the foreground or not; returns its id, if it is told, and the answer.
Door = Callable[[Bench, str, bool], tuple[str | None, str]]


@dataclass
class Row:
    """What became of the tasks of all rounds of one kind."""

    codex: str
    door: str
    manner: str
    start: str
    rounds: int
    answered: int = 0
    retrieved: int = 0
    recorded: int = 0
    completed: int = 0
    stuck: int = 0
    left: int = 0
    seconds: float = 0.0

    @property
    def tasks(self) -> int:
        """How many were handed over."""
        return self.rounds * AT_ONCE

    @property
    def is_whole(self) -> bool:
        """Nothing was lost."""
        counts = (self.answered, self.retrieved, self.recorded, self.completed)
        return all(count == self.tasks for count in counts) and self.stuck == 0 and self.left == 0

    def line(self) -> str:
        """The row, in Markdown."""
        kind = f"| {self.codex} | {self.door} | {self.manner}, {self.start} | {self.rounds} x {AT_ONCE} "
        counts = " | ".join(
            str(count)
            for count in (self.answered, self.retrieved, self.recorded, self.completed, self.stuck, self.left)
        )
        return f"{kind}| {counts} | {self.seconds / self.rounds:.1f} |"


HEAD = (
    "| codex | command | manner | tasks | answered | retrieved | recorded | completed | stuck | left | s a round |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def ask(bench: Bench, *arguments: str) -> str:
    """What ``holdfast ARGUMENTS`` prints; a command that fails or hangs is told of, and has printed what it had."""
    command = [sys.executable, "-m", "holdfast", *arguments]
    with subprocess.Popen(
        command,
        cwd=bench.repository,
        env=bench.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\nIt was killed after {PATIENCE:g} seconds."
        if process.returncode != 0:
            print(f"holdfast {' '.join(arguments)}: {process.returncode}\n{err.strip()}", file=sys.stderr)
        return out


def through_companion(bench: Bench, prompt: str, background: bool) -> tuple[str | None, str]:
    """``holdfast companion task``."""
    if not background:
        return None, ask(bench, "companion", "task", prompt)
    name = json.loads(ask(bench, "companion", "task", "--background", "--json", prompt) or "{}").get("jobId")
    if name is None:
        return None, ""
    ask(bench, "companion", "status", name, "--wait", "--json")
    return name, result_of_job(bench, name)


def through_holdfast(bench: Bench, prompt: str, background: bool) -> tuple[str | None, str]:
    """``holdfast run`` and ``holdfast start``."""
    if not background:
        return None, ask(bench, "run", "codex", prompt)
    name = ask(bench, "start", "codex", prompt).strip()
    if not name:
        return None, ""
    ask(bench, "wait", "--quiet", name)
    return name, ask(bench, "result", name)


DOORS: dict[str, Door] = {"companion": through_companion, "holdfast": through_holdfast}


def result_of_job(bench: Bench, name: str) -> str:
    """The answer that ``companion result`` prints, without what it says of the thread."""
    return ask(bench, "companion", "result", name).partition("\n\nCodex session ID:")[0]


def records(bench: Bench, door: str) -> dict[str, str]:
    """The status of every job that is recorded, by id."""
    if door == "companion":
        found = [json.loads(path.read_text()) for path in bench.state.parent.glob("plugin-data/state/*/state.json")]
        return {job["id"]: job["status"] for state in found for job in state["jobs"]}
    listed = json.loads(ask(bench, "list", "--all", "--json"))["tasks"]
    return {task["id"]: task.get("status") or task["state"] for task in listed}


@contextmanager
def place(codex: Path) -> Iterator[Bench]:
    """A user of *codex* who has never used Holdfast."""
    # Below the temporary directory Codex does without its helper programs.
    homes = Path.home() / ".cache"
    homes.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-load-") as name,
        tempfile.TemporaryDirectory(prefix="holdfast-load-codex-", dir=homes) as home,
        ModelServer() as model,
    ):
        yield Bench(Path(name), Path(home), codex, model)


def measure(codex: Path, row: Row) -> None:
    """Do all rounds of *row*."""
    door, background = DOORS[row.door], row.manner == "background"
    with place(codex) as bench, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            warm = set[str]()
            if row.start == "warm":
                bench.model.script(Echo())
                door(bench, "Warm up.", False)
                warm = set(records(bench, row.door))
            prompts = [f"Say that this is number {number}." for number in range(row.tasks)]
            for first in range(0, row.tasks, AT_ONCE):
                if row.start == "cold":
                    ask(bench, "down")
                bench.model.script(*[Echo(delay=MODEL_SECONDS)] * AT_ONCE)
                some = prompts[first : first + AT_ONCE]
                began = time.perf_counter()
                answers = list(pool.map(lambda prompt: door(bench, prompt, background)[1].strip(), some))
                row.seconds += time.perf_counter() - began
                row.answered += sum(answer == prompt for answer, prompt in zip(answers, some, strict=True))
            recorded = {name: status for name, status in records(bench, row.door).items() if name not in warm}
            row.recorded = len(recorded)
            row.completed = sum(status == "completed" for status in recorded.values())
            row.stuck = sum(status in ("queued", "running") for status in recorded.values())
            again = result_of_job if row.door == "companion" else lambda bench, name: ask(bench, "result", name)
            row.retrieved = len({again(bench, name).strip() for name in recorded} & set(prompts))
        finally:
            ask(bench, "down", "--cancel")
            row.left = len(left_over(bench))


def left_over(bench: Bench) -> list[str]:
    """The processes that still work for *bench*; each is told of."""
    deadline = time.monotonic() + FAREWELL
    while True:
        left: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    words = [*process.cmdline(), *process.environ().values()]
                    if any(str(bench.state.parent) in word for word in words):
                        left.append(process)
            except psutil.Error:
                continue
        if not left or time.monotonic() > deadline:
            break
        psutil.wait_procs(left, timeout=0.5)
    told = [f"{process.pid} {' '.join(process.cmdline())}" for process in left]
    for each in told:
        print(f"left over: {each}", file=sys.stderr)
    return told


def version(codex: Path) -> str:
    """What *codex* says that it is."""
    said = subprocess.run([codex, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codex", type=Path, action="append", help="a codex command; may be given several times")
    parser.add_argument("--rounds", type=int, default=6, help="of each kind, with eight tasks each")
    parser.add_argument("--door", choices=DOORS, action="append", help="by which command (both)")
    given = parser.parse_args()
    found = shutil.which("codex")
    commands: list[Path] = given.codex or ([Path(found)] if found else [])
    if not commands:
        raise SystemExit("There is no codex on PATH; name one with --codex.")
    print(HEAD, flush=True)
    whole = True
    for command in commands:
        name = version(command)
        for door in given.door or DOORS:
            for manner in ("foreground", "background"):
                for start in ("cold", "warm"):
                    row = Row(name, door, manner, start, given.rounds)
                    measure(command.absolute(), row)
                    print(row.line(), flush=True)
                    whole = whole and row.is_whole
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
