"""What delegating to Codex costs through Holdfast, measured against Codex by itself with a scripted model.

    python -m bench.delegation --codex PATH [--runs N] [--tasks N]

Three measurements, each in a repository and with a ``CODEX_HOME`` of its own, and a daemon that is warm:

ratio     a foreground ``holdfast companion task`` against ``codex exec`` with the same prompt, in turn.  Bar: the
          median of the whole time is at most 0.9 of Codex's own.
parallel  eight jobs at once whose model takes three seconds.  Bar: less than twice the time of one.
many      a thousand finished tasks, copies of two real ones in the store; then ``list``, ``companion status`` and
          ``companion result``.  Bar: 150 ms each.

In the end no process may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.model_server import ModelServer, Say

PROMPT = "Say that you are done."
ANSWER = "All done."
PARALLEL = 8
MODEL_SECONDS = 3.0


class Bench:
    """A user of Codex with a scripted model."""

    def __init__(self, directory: Path, home: Path, codex: Path, model: ModelServer) -> None:
        self.model = model
        self.codex = codex
        self.repository = directory / "repository"
        self.repository.mkdir()
        self.state = directory / "state"
        (home / "config.toml").write_text(
            f"""
            model = "gpt-5.5"
            model_provider = "scripted"
            check_for_update_on_startup = false
            [model_providers.scripted]
            name = "scripted"
            base_url = "{model.url}/v1"
            wire_api = "responses"
            requires_openai_auth = false
            supports_websockets = false
            """
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CODEX_", "CLAUDE"))},
            "HOLDFAST_STATE_DIR": str(self.state),
            "CLAUDE_PLUGIN_DATA": str(directory / "plugin-data"),
            "CODEX_HOME": str(home),
            "PATH": f"{codex.parent}{os.pathsep}{os.environ['PATH']}",
        }
        (self.repository / "README.md").write_text("# A repository\n")
        for words in (
            ["init", "-q"],
            ["add", "."],
            ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "b"],
        ):
            subprocess.run(["git", *words], cwd=self.repository, check=True)

    def run(self, *command: str | Path) -> str:
        """Run *command* to its end; what it printed."""
        done = subprocess.run(
            command,
            cwd=self.repository,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def holdfast(self, *arguments: str) -> str:
        """Run ``holdfast ARGUMENTS``."""
        return self.run(sys.executable, "-m", "holdfast", *arguments)

    def companion(self, *arguments: str) -> str:
        """Run ``holdfast companion ARGUMENTS``."""
        return self.holdfast("companion", *arguments)

    def script(self, number: int, delay: float = 0.0) -> None:
        """Let the model answer the next *number* requests."""
        self.model.script(*[Say(ANSWER, delay=delay)] * number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codex", type=Path, default=shutil.which("codex"), help="the codex command")
    parser.add_argument("--runs", type=int, default=15, help="counted runs of each, after two that are not")
    parser.add_argument("--tasks", type=int, default=1000, help="finished tasks before listing")
    given = parser.parse_args()
    if given.codex is None:
        raise SystemExit("There is no codex on PATH; name one with --codex.")
    # Below the temporary directory Codex does without its helper programs.
    homes = Path.home() / ".cache"
    homes.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-codex-", dir=homes) as home,
        ModelServer() as model,
    ):
        bench = Bench(Path(name), Path(home), given.codex.absolute(), model)
        try:
            ratio(bench, given.runs)
            parallel(bench)
            many(bench, given.tasks)
        finally:
            bench.holdfast("down", "--cancel")
        left_over(Path(name))


def ratio(bench: Bench, runs: int) -> None:
    """One turn, through the companion and by Codex itself."""
    bare: list[float] = []
    through: list[float] = []
    for number in range(runs + 2):
        bench.script(2)
        alone = timed(lambda: bench.run(bench.codex, "exec", "--skip-git-repo-check", "-s", "read-only", PROMPT))
        delegated = timed(lambda: bench.companion("task", PROMPT))
        if number >= 2:
            bare.append(alone)
            through.append(delegated)
    report("codex exec", bare)
    report("companion task", through)
    print(f"ratio           {statistics.median(through) / statistics.median(bare):.2f} of codex exec (bar 0.90)")


def parallel(bench: Bench) -> None:
    """Eight turns at once."""
    bench.script(1, MODEL_SECONDS)
    one = timed(lambda: bench.companion("task", PROMPT))
    bench.script(PARALLEL, MODEL_SECONDS)
    with ThreadPoolExecutor(PARALLEL) as pool:

        def all_at_once() -> None:
            answers = list(pool.map(lambda _: bench.companion("task", PROMPT), range(PARALLEL)))
            if answers != [f"{ANSWER}\n"] * PARALLEL:
                raise SystemExit(f"wrong answers: {answers}")

        together = timed(all_at_once)
    print(f"parallel        {together:.2f} s for {PARALLEL}, {one:.2f} s for one: {together / one:.2f} (bar 2.00)")


def many(bench: Bench, number: int) -> None:
    """Looking at a long past."""
    bench.script(1)
    bench.companion("task", PROMPT)
    bench.holdfast("run", "rehearsal", "rehearse: say hello")
    bench.holdfast("down")
    copy_finished(bench.state / "holdfast.db", number)
    bench.holdfast("up")
    for label, command in (
        ("list", lambda: bench.holdfast("list")),
        ("status", lambda: bench.companion("status")),
        ("result", lambda: bench.companion("result")),
    ):
        command()
        report(f"{label}, {number} tasks", [timed(command) for _ in range(15)], bar=150.0)
    report(f"list --all, {number}", [timed(lambda: bench.holdfast("list", "--all")) for _ in range(5)])


def copy_finished(path: Path, number: int) -> None:
    """Fill the store at *path*, which no daemon has open, up with *number* older copies of its two newest tasks.

    Running that many would take most of an hour and leave the same rows; only the files of the copies are missing.
    """
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        newest = database.execute("SELECT * FROM tasks ORDER BY created_at DESC LIMIT 2").fetchall()
        for each in range(number):
            task = newest[each % 2]
            old, new = task["id"], f"{task['id'][:-6]}{each:06d}"
            for table, key in (("tasks", "id"), ("attempts", "task_id"), ("processes", "task_id")):
                for row in database.execute(f"SELECT * FROM {table} WHERE {key} = ?", (old,)).fetchall():
                    values = {name: renamed(row[name], old, new) for name in row.keys()}  # noqa: SIM118
                    for name in values.keys() & {"created_at", "finished_at"}:
                        values[name] -= 60.0 * (1 + each)
                    columns, marks = ", ".join(values), ", ".join("?" * len(values))
                    database.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", [*values.values()])
        database.commit()


def renamed(value: Any, old: str, new: str) -> Any:
    """A column's *value* with the name of the task *old* changed to *new*."""
    if isinstance(value, bytes):
        return value.replace(old.encode(), new.encode())
    return value.replace(old, new) if isinstance(value, str) else value


def left_over(directory: Path) -> None:
    """No process that works for this benchmark is left."""
    left: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(directory) in process.environ().get("HOLDFAST_STATE_DIR", ""):
                left.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    print(f"left over       {len(left)} processes (bar 0) {left or ''}")


def timed(work: Callable[[], object]) -> float:
    """Seconds that *work* takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(name: str, seconds: list[float], bar: float | None = None) -> None:
    """One line of figures; *bar* is what the median has to stay below, milliseconds."""
    print(
        f"{name:22} median {statistics.median(seconds) * 1000:7.1f} ms   min {min(seconds) * 1000:7.1f}"
        f"   max {max(seconds) * 1000:7.1f}   ({len(seconds)} runs{'' if bar is None else f', bar {bar:g} ms'})"
    )


if __name__ == "__main__":
    main()
