"""What ``holdfast run`` adds to an agent's own time: the same agent bare and through Holdfast, in turn.

    python -m bench.overhead [--runs N]

The agent is the rehearsal agent with one answer.  Bare means its own command line with the prompt on standard input;
through Holdfast means a warm daemon, a git repository as working directory, and the answer read to its end.  Bars: the
median overhead stays below 300 ms on a machine with two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from holdfast.agents.adapter import Work
from holdfast.agents.catalogue import find_agent

PROMPT = b"rehearse: say done\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="counted runs of each, after two that are not")
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        measure(Path(name), runs)


def measure(directory: Path, runs: int) -> None:
    repository = directory / "repository"
    repository.mkdir()
    (repository / "README.md").write_text("# A repository\n")
    author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "begin"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    environment = {**os.environ, "HOLDFAST_STATE_DIR": str(directory / "state")}
    agent = find_agent("rehearsal")
    launch = agent.launch(agent.find(environment), Work(cwd=repository), environment)
    holdfast = [sys.executable, "-m", "holdfast"]
    through = [*holdfast, "run", "rehearsal", "--prompt-file", "-", "--quiet"]
    subprocess.run([*holdfast, "up", "--detach"], env=environment, check=True, capture_output=True)
    try:
        bare_times: list[float] = []
        through_times: list[float] = []
        for number in range(runs + 2):
            bare = timed(launch.argv, launch.env, repository)
            whole = timed(through, environment, repository, expected=b"done")
            if number >= 2:
                bare_times.append(bare)
                through_times.append(whole)
    finally:
        subprocess.run([*holdfast, "down"], env=environment, check=True, capture_output=True)
    differences = [whole - bare for whole, bare in zip(through_times, bare_times, strict=True)]
    report("agent bare", bare_times)
    report("holdfast run", through_times)
    report("overhead", differences)
    print(f"ratio         {statistics.median(through_times) / statistics.median(bare_times):.2f}x the bare agent")


def timed(argv: list[str], environment: dict[str, str], cwd: Path, expected: bytes | None = None) -> float:
    began = time.perf_counter()
    completed = subprocess.run(argv, input=PROMPT, env=environment, cwd=cwd, capture_output=True, check=True)
    seconds = time.perf_counter() - began
    if expected is not None and completed.stdout.strip() != expected:
        raise SystemExit(f"wrong answer: {completed.stdout!r}")
    return seconds


def report(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    print(
        f"{name:13} median {statistics.median(ordered) * 1000:7.1f} ms   "
        f"min {ordered[0] * 1000:7.1f}   max {ordered[-1] * 1000:7.1f}   ({len(ordered)} runs)"
    )


if __name__ == "__main__":
    main()
