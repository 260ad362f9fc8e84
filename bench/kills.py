"""One job after the other with the real Codex, and somebody who dies in each: whether every end is a true one.

    python -m bench.kills --codex PATH [--codex PATH ...] [--trials N] [--seed N] [--victim server] ...

In each trial ``holdfast companion task --json`` hands over a prompt to a model that answers with it after a moment, and
a victim is sent SIGKILL or SIGTERM at a random moment of it: the ``server`` of Codex, the ``daemon``, the ``host``,
the ``turn`` program, or the ``command`` itself.  A row of the table is counted over the trials of one victim;
those in which the command died before there was a job are left out:

answered     the command printed the answer, or (after its own death) ``result`` did
failed       it said why there is none, with an exit status that is not 0, and the record says the same
wrong        anything else: an exit status of 0 without the answer, a failure without a reason, a record that differs
hung         the job had no end within two minutes
twice        the model was asked more than once
stuck, left  jobs that are recorded as under way in the end, and processes that are left

The exit status is 0 only if the last five are 0, and nothing but the death of the server made a job fail.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.delegation import Bench
from bench.load import PATIENCE, ask, left_over, place, records, version
from tests.model_server import Echo

#: What each victim is killed with.  A host or a turn that is asked to end takes that to mean the work.
_SIGNALS = {
    "server": [signal.SIGKILL, signal.SIGTERM],
    "daemon": [signal.SIGKILL, signal.SIGTERM],
    "host": [signal.SIGKILL],
    "turn": [signal.SIGKILL],
    "command": [signal.SIGKILL, signal.SIGTERM],
}
MODEL_SECONDS = 0.3
#: Seconds after the start of the command within which the victim dies.
WITHIN = 1.5


@dataclass
class Row:
    """What became of the trials with one victim."""

    codex: str
    victim: str
    trials: int
    killed: int = 0
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    hung: int = 0
    twice: int = 0
    stuck: int = 0
    left: int = 0

    @property
    def is_true(self) -> bool:
        """No end was a false one, and nobody failed who need not."""
        return not (self.wrong or self.hung or self.twice or self.stuck or self.left) and (
            self.victim == "server" or self.answered == self.trials
        )

    def line(self) -> str:
        """The row, in Markdown."""
        counts = (self.trials, self.killed, self.answered, self.failed, self.wrong, self.hung, self.twice)
        return f"| {self.codex} | {self.victim} | {' | '.join(map(str, (*counts, self.stuck, self.left)))} |"


HEAD = (
    "| codex | victim | trials | killed | answered | failed | wrong | hung | twice | stuck | left |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def find(bench: Bench, victim: str, command: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that are *victim* at this moment."""
    if victim == "command":
        return [psutil.Process(command.pid)]
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if not any(str(bench.state.parent) in word for word in (*words, *process.environ().values())):
                continue
        except psutil.Error:
            continue
        is_victim = {
            "server": {"app-server", "--listen"} <= set(words),
            "daemon": {"up", "--foreground"} <= set(words),
            # Its parent keeps the pipes, and starts it again.
            "host": "holdfast.host" in words and "holdfast.host" in _words(process.ppid()),
            "turn": any(word.endswith("app_server/program.py") for word in words),
        }
        if is_victim[victim]:
            found.append(process)
    return found


def _words(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def trial(bench: Bench, row: Row, prompt: str, moment: float, number: signal.Signals) -> None:
    """One job, in which the victim gets signal *number* after *moment* seconds."""
    bench.model.script(Echo(delay=MODEL_SECONDS))
    known = set(records(bench, "companion"))
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", "companion", "task", "--json", prompt],
        cwd=bench.repository,
        env=bench.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        time.sleep(moment)
        victims = find(bench, row.victim, command)
        for process in victims:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        row.killed += bool(victims)
        try:
            out, err = command.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            command.kill()
            command.communicate()
            row.hung += 1
            print(f"{row.victim}, {number.name} after {moment:.2f} s: hung", file=sys.stderr)
            return
    status = command.returncode
    new = set(records(bench, "companion")) - known
    if status < 0:
        # The command itself died: with the job in nobody's hands yet, or with one that goes on.
        if not new:
            row.trials -= 1
            return
        [name] = new
        ask(bench, "companion", "status", name, "--wait")
        out = json.dumps(json.loads(ask(bench, "companion", "result", name, "--json"))["storedJob"]["result"])
        status = 0
    judge(bench, row, prompt, status, out, f"{number.name} after {moment:.2f} s: {status} {out} {err}")


def judge(bench: Bench, row: Row, prompt: str, status: int, out: str, told: str) -> None:
    """Count the end of a job that came to one."""
    try:
        document = json.loads(out)
    except ValueError:
        document = {}
    latest = json.loads(ask(bench, "companion", "status", "--json"))["latestFinished"] or {}
    if status == 0 and document.get("rawOutput") == prompt and latest.get("status") == "completed":
        row.answered += 1
    elif status != 0 and document.get("error", {}).get("message") and latest.get("status") == "failed":
        row.failed += 1
        if row.victim != "server":
            print(f"{row.victim}, {told}", file=sys.stderr)
    else:
        row.wrong += 1
        print(f"{row.victim}, {told}; recorded as {latest.get('status')}", file=sys.stderr)
    row.twice += sum(request.has_prompt(prompt) for request in bench.model.main_requests) > 1


def measure(codex: Path, row: Row, chance: random.Random) -> None:
    """Do all trials of *row*."""
    with place(codex) as bench:
        try:
            for each in range(row.trials):
                number = chance.choice(_SIGNALS[row.victim])
                trial(bench, row, f"Say that this is number {each}.", chance.uniform(0.0, WITHIN), number)
            row.stuck = sum(status in ("queued", "running") for status in records(bench, "companion").values())
        finally:
            ask(bench, "down", "--cancel")
            row.left = len(left_over(bench))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codex", type=Path, action="append", help="a codex command; may be given several times")
    parser.add_argument("--trials", type=int, default=20, help="with each victim")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of the moments and the signals")
    parser.add_argument("--victim", choices=_SIGNALS, action="append", help="who dies (each in turn)")
    given = parser.parse_args()
    found = shutil.which("codex")
    commands: list[Path] = given.codex or ([Path(found)] if found else [])
    if not commands:
        raise SystemExit("There is no codex on PATH; name one with --codex.")
    print(f"seed {given.seed}\n{HEAD}", flush=True)
    true = True
    for command in commands:
        for victim in given.victim or _SIGNALS:
            row = Row(version(command), victim, given.trials)
            measure(command.absolute(), row, random.Random(f"{given.seed} {victim}"))
            print(row.line(), flush=True)
            true = true and row.is_true
    sys.exit(0 if true else 1)


if __name__ == "__main__":
    main()
