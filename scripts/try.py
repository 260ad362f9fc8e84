"""What ./try shows: an agent mends a bug in a scratch repository, and then a daemon dies in the middle of a task."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HOLDFAST = [sys.executable, "-m", "holdfast"]

BROKEN = '''\
def total(prices, discount=0.0):
    """The sum of all prices, less the discount (0.1 is ten percent)."""
    return sum(prices) * discount
'''
MENDED = BROKEN.replace("* discount", "* (1 - discount)")
TEST = """\
import unittest
from total import total


class TotalTest(unittest.TestCase):
    def test_discount(self):
        self.assertEqual(total([10, 20]), 30)
        self.assertEqual(total([10, 20], 0.5), 15)


unittest.main()
"""
PROMPT = "test_total.py fails. Find the mistake, mend it, run the test, and say in one sentence what was wrong."
ANSWER = "total() multiplied by the discount instead of by what is left of the price; test_total.py passes now."


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="holdfast-try-"))
    os.environ["HOLDFAST_STATE_DIR"] = str(directory / "state")
    repository = directory / "shop"
    try:
        make_repository(repository)
        agent = sys.argv[1] if len(sys.argv) > 1 else choose_agent()
        status = mend_a_bug(agent, repository)
        survive(repository)
        title("What else there is")
        print("The scratch repository is gone again. In one of yours:\n")
        print(f'  {sys.executable.removesuffix("python")}holdfast run {agent} "Explain this repository"')
        print("\nREADME.md shows more; holdfast --help lists everything.")
        return status
    finally:
        subprocess.run([*HOLDFAST, "down", "--cancel"], stdout=subprocess.DEVNULL, check=False)
        shutil.rmtree(directory, ignore_errors=True)


def make_repository(repository: Path) -> None:
    repository.mkdir()
    (repository / "total.py").write_text(BROKEN)
    (repository / "test_total.py").write_text(TEST)
    (repository / ".gitignore").write_text("__pycache__/\n")
    author = ["-c", "user.name=You", "-c", "user.email=you@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "A small shop"]):
        subprocess.run(["git", *command], cwd=repository, check=True)


def choose_agent() -> str:
    answer = subprocess.run([*HOLDFAST, "agents", "--check", "--json"], stdout=subprocess.PIPE, check=True).stdout
    ready = [agent["name"] for agent in json.loads(answer)["agents"] if agent["login"] == "yes"]
    # The rehearsal is always ready; anybody else is worth more.
    return next((name for name in ready if name != "rehearsal"), "rehearsal")


def mend_a_bug(agent: str, repository: Path) -> int:
    title(f"A piece of work for {agent}: a repository with a failing test")
    prompt = PROMPT
    if agent == "rehearsal":
        print(
            "(No other agent is installed and logged in, so the built-in rehearsal plays its part: no model is asked.)"
        )
        mended = MENDED.replace("\\", "\\\\").replace("\n", "\\n")
        prompt += f"\nrehearse: read test_total.py\nrehearse: edit total.py {mended}"
        prompt += f"\nrehearse: run {shlex.quote(sys.executable)} test_total.py\nrehearse: say {ANSWER}\\n"
    os.chdir(repository)
    status = show("run", agent, "--write", "--label", "try", prompt, shown=["run", agent, "--write", PROMPT])
    title("What really changed, as observed from outside")
    run(["git", "diff", "--unified=1"])
    task = json.loads(subprocess.check_output([*HOLDFAST, "list", "--json"]))["tasks"][0]["id"]
    show("result", task, "--field", "files.changed")
    return status


def survive(repository: Path) -> None:
    title("And when something dies: the daemon is killed in the middle of a task")
    prompt = "rehearse: sleep 2\nrehearse: say The answer, whole, from an agent that never noticed.\\n"
    task = subprocess.check_output([*HOLDFAST, "start", "rehearsal", prompt], text=True).strip()
    print(bold('$ holdfast start rehearsal "Take your time"'), task, sep="\n")
    daemon = json.loads(subprocess.check_output([*HOLDFAST, "status", "--json"]))["pid"]
    print(bold(f"$ kill -9 {daemon}    # the daemon"), flush=True)
    os.kill(daemon, signal.SIGKILL)
    show("wait", task)


def show(*arguments: str, shown: list[str] | None = None) -> int:
    """Print a command line of holdfast as a person would type it, and run it."""
    print(bold(f"$ {shlex.join(['holdfast', *(shown or arguments)])}"), flush=True)
    return run([*HOLDFAST, *arguments])


def run(command: list[str]) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def title(text: str) -> None:
    print(f"\n{bold(f'== {text} ==')}\n", flush=True)


def bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


if __name__ == "__main__":
    sys.exit(main())
