"""What sub-agents do is told in a job's log in the words that its readers know, and is never its answer."""

from __future__ import annotations

from typing import Any

from holdfast.agents.events import SubagentReported, SubagentStep
from holdfast.companion.narration import Entry, narrate, preview
from holdfast.tasks.facts import AttemptFacts, fold
from holdfast.tasks.progress import line_of


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
