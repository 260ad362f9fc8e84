"""What sub-agents do is told in a job's log in the words that its readers know, and is never its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.agents.events import SubagentReported, SubagentStep
from holdfast.companion.narration import Entry, narrate, preview
from holdfast.tasks.facts import AttemptFacts, fold
from holdfast.tasks.progress import line_of
from tests.conftest import locate_agent
from tests.model_server import Decide, ModelServer, Say, Shell, Tool
from tests.model_server.script import Step

from .conftest import Installation, User


def narrated(step: SubagentStep, text: str) -> Entry:
    event = SubagentReported(thread_id="7", label="Boyle", step=step, text=text)
    line = line_of(event, AttemptFacts())
    assert line is not None
    document: dict[str, Any] = {"kind": line[0], "text": line[1], "subagent": "Boyle"}
    entry = narrate(document, review=False)
    assert entry is not None
    return entry


def test_each_step_has_its_words() -> None:
    started = narrated(SubagentStep.STARTED, "spawnAgent")
    assert started.message == "Starting subagent Boyle via collaboration tool: spawnAgent."
    assert narrated(SubagentStep.ENDED, "completed").message == "Subagent Boyle completed."
    said = narrated(SubagentStep.MESSAGE, "It is made.\nAll of it.")
    assert said.message == "Subagent Boyle: It is made. All of it."
    assert (said.title, said.body, said.shown) == ("Subagent Boyle message", "It is made.\nAll of it.", False)
    thought = narrated(SubagentStep.REASONING, "**Looking**\n\nat it")
    assert thought.message == "Subagent Boyle reasoning: **Looking** at it"
    assert (thought.title, thought.body) == ("Subagent Boyle reasoning summary", "- **Looking** at it")
    log = "".join(f"[t] {line}\n" for line in (said.message, str(said.title), thought.message, str(thought.title)))
    assert preview(log) == [said.message, thought.message]


def test_it_is_progress_and_no_answer() -> None:
    facts = AttemptFacts()
    for step in SubagentStep:
        event = SubagentReported(thread_id="7", label="Boyle", step=step, text="Made.")
        assert fold(facts, event, 5.0) is None
    assert (facts.messages, facts.completions, facts.failures, facts.thread_id) == (0, 0, 0, None)
    assert facts.last_progress_at == 5.0
    assert facts.evidence == "subagent Boyle ended: Made."


@pytest.mark.real_agent
def test_a_job_tells_of_those_of_the_real_codex(
    installation: Installation, tmp_path: Path, codex_environment: dict[str, str], model_server: ModelServer
) -> None:
    user = User(installation, tmp_path, locate_agent("codex").parent)
    user.environment["CODEX_HOME"] = codex_environment["CODEX_HOME"]

    def choose(results: list[str]) -> Step:
        if not results:
            return Shell("true")
        if "agent_id" not in results[0]:
            return Say("It is there.")
        if len(results) > 1:
            return Say("All is well.")
        targets = [json.loads(results[0])["agent_id"]]
        return Tool("wait_agent", {"targets": targets, "timeout_ms": 60_000}, namespace="multi_agent_v1")

    spawn = Tool("spawn_agent", {"message": "Look.", "agent_type": "explorer"}, namespace="multi_agent_v1")
    model_server.script(spawn, *[Decide(choose)] * 6)
    done = user.run("task", "--json", "Have it looked at.")
    assert done.json["rawOutput"] == "All is well."
    (job,) = user.state["jobs"]
    log = Path(job["logFile"]).read_text()
    (started,) = [line for line in log.splitlines() if "via collaboration tool: spawnAgent." in line]
    name = started.partition("Starting subagent ")[2].partition(" via")[0]
    for entry in (
        f"Subagent {name}: It is there.",
        f"Subagent {name} message\nIt is there.",
        f"Subagent {name} completed.",
    ):
        assert f"] {entry}\n" in log, log
    assert f"Running: Subagent {name}: " in log
