"""``stop-hook``: when Claude is about to stop, Codex looks at what it did in its last turn, and may object.

Only an objection keeps Claude at work.  When Codex is missing, fails, takes too long or answers something else, Claude
stops, and standard error says what happened: a broken reviewer must not hold a session captive.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Final

from holdfast.companion import hook_input, output, task
from holdfast.companion.arguments import Syntax
from holdfast.companion.jobs import Jobs
from holdfast.companion.outcome import Outcome
from holdfast.companion.refusal import CodexMissing
from holdfast.companion.view import GATE, is_active
from holdfast.companion.workspace import Workspace
from holdfast.errors import HoldfastError

SYNTAX: Final = Syntax()
#: Claude Code gives the hook 15 minutes; the review has to be over before, seconds.
TOTAL: Final = 780.0
#: How often in a row a stop may be blocked; Claude Code tells a hook when it was blocked before.
ROUNDS_VARIABLE: Final = "HOLDFAST_STOP_GATE_ROUNDS"
_ROUNDS: Final = "stopReviewRounds"

_PROMPT: Final = f"""\
<task>
{task.GATE_MARKER}
Only review the work from the previous Claude turn.
What counts is what that turn itself changed in the files. A report, a status, a plan, a setup check, or the output of a
command that changed nothing is no work to review: answer ALLOW at once and look no further.
Otherwise ask of those changes, and of the design behind them, whether they should be left as they are.
{{response}}
</task>

<compact_output_contract>
The first line of the answer is exactly one of:
- ALLOW: <short reason>
- BLOCK: <short reason>
Nothing stands before it.
</compact_output_contract>

<grounding>
Believe the repository, not the description above: see for yourself what was changed before you block.
Block only for something that must be put right before the work can be left, that this turn brought in, and whose place
in the code you can name. Older faults are not reasons. Look at the second glance too: empty and missing values,
repeated and half-finished runs, stale state, the way back.
</grounding>
"""


def run(arguments: Sequence[str]) -> int:
    """``stop-hook``, with the hook's input on standard input."""
    given = SYNTAX.read(arguments)
    told = hook_input.read()
    cwd = hook_input.text(told, "cwd") or os.environ.get("CLAUDE_PROJECT_DIR") or given.value("cwd")
    jobs = Jobs(Workspace(cwd, session=hook_input.text(told, "session_id")))
    try:
        if any(is_active(each) for each in jobs.view.records()):
            _note_running(jobs)
        if not jobs.view.config.get(GATE):
            return 0
        objection = _review(jobs, told)
    except CodexMissing as error:
        output.note(f"Codex is not set up for the review gate. {error.hint or ''} Run /codex:setup.")
        return 0
    except HoldfastError as error:
        _let_go(error.message)
        return 0
    finally:
        jobs.daemon.close()
    if objection is not None:
        output.write(json.dumps({"decision": "block", "reason": objection}, ensure_ascii=False) + "\n")
    return 0


def _note_running(jobs: Jobs) -> None:
    for record in jobs.of_session():
        if is_active(record):
            output.note(
                f"Codex task {record['id']} is still running. Check /codex:status and use /codex:cancel {record['id']} "
                "if you want to stop it before ending the session."
            )
            return


def _review(jobs: Jobs, told: dict[str, Any]) -> str | None:
    """The objection of Codex, or ``None``."""
    session = jobs.workspace.session or ""
    rounds = dict(jobs.view.config.get(_ROUNDS) or {})
    done = rounds.get(session, 0) if told.get("stop_hook_active") is True else 0
    if told.get("stop_hook_active") is True and done >= _most_rounds():
        output.note("The review gate has had its say about this turn; the stop is not blocked again.")
        return None
    said = hook_input.text(told, "last_assistant_message")
    response = f"\nPrevious Claude response:\n{said}\n" if said else ""
    work = task.Work(
        prompt=_PROMPT.format(response=response),
        title="Codex Stop Gate Review",
        summary="Stop-gate review of previous Claude turn",
        total_s=TOTAL,
        fields={"ephemeral": True},
    )
    record = task.hand_over(jobs, work)
    objection = _judge(task.attend(jobs, record, as_json=True))
    if objection is not None and session:
        jobs.with_view(lambda: jobs.view.configure(_ROUNDS, {session: done + 1}))
    return objection


def _judge(end: Outcome) -> str | None:
    if end.reason is not None:
        return _let_go(end.reason)
    answer = str(end.payload["rawOutput"]).strip()
    verdict, _, reason = answer.partition("\n")[0].strip().partition(":")
    if verdict == "ALLOW":
        return None
    if verdict != "BLOCK":
        return _let_go("the review began neither with ALLOW: nor with BLOCK:.")
    return (
        "Codex stop-time review found issues that still need fixes before ending the session: "
        f"{reason.strip() or answer}"
    )


def _let_go(why: str) -> None:
    reason = why.strip()
    output.note(
        f"The stop-time Codex review could not be done, so the stop is not blocked: "
        f"{reason if reason.endswith('.') else f'{reason}.'} "
        "Run /codex:review --wait by hand, or switch the gate off with /codex:setup --disable-review-gate."
    )


def _most_rounds() -> int:
    text = os.environ.get(ROUNDS_VARIABLE, "1")
    return int(text) if text.isdecimal() else 1
