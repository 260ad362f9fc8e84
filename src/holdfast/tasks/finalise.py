"""From facts, logs and files to the result of a task.

Everything here can be done again after a crash: reading changes nothing, files are replaced whole, and an output file
that was published already is recognised.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final, Literal

import msgspec

from holdfast.agents.adapter import Agent, Sandbox
from holdfast.agents.events import TurnFailed, UsageReported
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import isoformat, wall
from holdfast.drivers.one_shot import tail
from holdfast.errors import HoldfastError
from holdfast.host.port import Kind
from holdfast.tasks.acceptance import TaskFiles, replace_file
from holdfast.tasks.answer import keep_answer
from holdfast.tasks.appraisal import Appraisal, appraise, settled
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.ledger import Ledger
from holdfast.tasks.marker import with_marker
from holdfast.tasks.outcome import Outcome, decide, reported_success, signal_name
from holdfast.tasks.output_file import OutputPathRefused, Published, publish
from holdfast.tasks.ports import Hosts
from holdfast.tasks.result import (
    EXIT_CODES,
    AttemptPart,
    Backend,
    ChangedFile,
    ErrorPart,
    Exit,
    Files,
    LimitsPart,
    MessagePart,
    Output,
    Result,
    Status,
    Thread,
    Timing,
    ToolUses,
)
from holdfast.tasks.rows import AttemptRow, TaskRow
from holdfast.tasks.slots import no_slot
from holdfast.tasks.usage import usage_of_task
from holdfast.tasks.versions import Versions
from holdfast.tasks.workspace import observe_changes, reconcile_claims
from holdfast.tasks.worktree import left_behind

_TAIL_BYTES: Final = 16_384
_TAIL_LINES: Final = 20
_TAIL_LINE_LENGTH: Final = 400


class Finalisation:
    """Makes the result of one task whose process tree is gone."""

    def __init__(
        self,
        task: TaskRow,
        attempts: list[AttemptRow],
        *,
        agent: Agent | None,
        ledger: Ledger,
        hosts: Hosts,
        files: TaskFiles,
        versions: Versions,
        fault: Failure | None = None,
        revises: Result | None = None,
    ) -> None:
        """With *fault*, Holdfast itself failed: the outcome is ``failed`` for that reason; *agent* may be ``None``.

        *revises* is the result that this one knows more than.
        """
        self._task = task
        self._request = task.acceptance.settled
        self._attempts = attempts
        self._last = attempts[-1] if attempts else None
        self._facts = self._last.facts if self._last is not None else AttemptFacts()
        self._agent = agent
        self._plain_text = agent is not None and agent.plain_text
        self._ledger = ledger
        self._hosts = hosts
        self._files = files
        self._versions = versions
        self._fault = fault
        self._revises = revises
        self._stderr_tail: list[str] = []
        self._stdout_tail: list[str] = []
        self._warnings: list[str] = list(task.acceptance.warnings)
        self._unknowns: dict[str, str] = {}

    async def result(self) -> Result:
        """The result; its files are written, and what was kept for further attempts is removed."""
        if self._last is not None and not reported_success(self._facts, self._plain_text):
            await self._learn_afterwards()
        message = MessagePart()
        if self._last is not None and self._facts.start_failure is None:
            message = await keep_answer(
                self._last, self._plain_text, self._ledger, self._hosts, self._files, self._unknowns
            )
        if message.path is None:
            self._unknowns.setdefault("message.text", "the agent gave no message")
        appraisal = await appraise(self._request, message)
        message.ends_with_intent = appraisal.ends_with_intent
        tool_uses = self._tool_uses()
        outcome = self._decide(message, appraisal, tool_uses)
        self._warnings += outcome.warnings
        if appraisal.ends_with_intent and reported_success(self._facts, self._plain_text):
            self._warnings.append("the answer ends by announcing work instead of reporting it (ends_with_intent)")
        files = await self._observe()
        marker = self._marker(files) if outcome.status is Status.COMPLETED else None
        outcome, output = await self._publish(outcome, marker)
        message.complete = outcome.status is Status.COMPLETED or (
            outcome.failure is not None and outcome.failure.failure_class is FailureClass.OUTPUT_PATH
        )
        self._compare(outcome, files)
        result = Result(
            revision=1 if self._revises is None else self._revises.revision + 1,
            task_id=self._task.id,
            label=self._request.label,
            status=outcome.status,
            ok=outcome.status is Status.COMPLETED,
            marker=marker,
            verdict=settled(appraisal.verdict, message, outcome.status),
            message=message,
            tool_uses=tool_uses,
            usage=usage_of_task(self._task.acceptance, self._facts, outcome.status, self._unknowns),
            files=files,
            exit=self._exit(outcome.status),
            thread=self._thread(),
            backend=await self._backend(),
            timing=self._timing(),
            limits=LimitsPart(
                total_s=self._request.limits.total_s,
                idle_s=self._request.limits.idle_s,
                start_s=self._request.limits.start_s,
                max_tool_uses=self._request.limits.max_tool_uses,
                hit=outcome.limit_hit,
            ),
            output=output,
            attempts=[self._attempt(attempt, outcome.status) for attempt in self._attempts],
            error=None if outcome.failure is None else self._error(outcome.failure),
            warnings=self._warnings,
            unknowns=self._unknowns,
        )
        await asyncio.to_thread(replace_file, self._files.result, [msgspec.json.encode(result)])
        # The environment in it has secrets, and no attempt will need it any more.
        await asyncio.to_thread(self._files.launch.unlink, missing_ok=True)
        return result

    @property
    def _may_write(self) -> bool:
        return self._request.sandbox is not Sandbox.READ_ONLY

    async def _learn_afterwards(self) -> None:
        """Find out why there was no success: from the tails of the log, and from what the agent itself recorded."""
        facts, agent, last = self._facts, self._agent, self._last
        if last is None or facts.start_failure is not None:
            return
        try:
            host = await self._hosts.host()
            self._stderr_tail = _lines(await tail(host, last.process_id, Kind.STDERR, _TAIL_BYTES))
            if not facts.terminal:
                # After an orderly end the output is the agent's event stream, and its failure says it better.
                self._stdout_tail = _lines(await tail(host, last.process_id, Kind.STDOUT, _TAIL_BYTES))
        except HoldfastError as error:
            self._warnings.append(f"the log could not be read: {error}")
        if agent is None:
            return
        events = agent.diagnose(stderr_tail="\n".join(self._stderr_tail), exit_code=facts.exit_code)
        if facts.thread_id is not None:
            events += await asyncio.to_thread(agent.post_mortem, facts.thread_id, self._task.acceptance.record_env)
        for event in events:
            if isinstance(event, TurnFailed):
                known = facts.failure
                # The agent's own typed record outweighs what was read from prose.
                if known is None or known.failure_class is FailureClass.UNKNOWN or event.failure.upstream_code:
                    facts.failure = event.failure
            elif isinstance(event, UsageReported) and facts.usage is None:
                facts.usage, facts.usage_of_thread, facts.usage_source = event.usage, event.of_thread, event.source

    def _marker(self, files: Files) -> Literal["PATCH_APPLIED", "FINDINGS_ONLY"]:
        return "PATCH_APPLIED" if files.changed and self._may_write else "FINDINGS_ONLY"

    def _decide(self, message: MessagePart, appraisal: Appraisal, tool_uses: ToolUses) -> Outcome:
        if self._fault is not None:
            return Outcome(status=Status.FAILED, failure=self._fault)
        slot_s = self._request.limits.slot_s
        if self._last is None and slot_s is not None and self._task.cancel_requested_at is None:
            # Nobody wanted its end and nothing went wrong: it may not wait any longer.
            return Outcome(status=Status.UNAVAILABLE, failure=no_slot(slot_s))
        limits = self._request.limits
        return decide(
            self._facts,
            cancel_requested=self._task.cancel_requested_at is not None,
            message_blank=not (message.text or "").strip(),
            plain_text=self._plain_text,
            limits={StopCause.TOTAL: limits.total_s, StopCause.IDLE: limits.idle_s, StopCause.START: limits.start_s},
            lack=appraisal.lack,
            verdict_missing=appraisal.verdict.required and not appraisal.verdict.present,
            unfinished=tool_uses.soft_limit_reached or appraisal.ends_with_intent,
        )

    async def _publish(self, outcome: Outcome, marker: str | None) -> tuple[Outcome, Output]:
        """Publish the answer where the caller wanted it: whole and only after success, or not at all."""
        output = Output(result_path=str(self._files.result))
        reservation = self._task.reservation
        if reservation is None:
            return outcome, output
        if outcome.status is not Status.COMPLETED:
            await asyncio.to_thread(reservation.abandon)
            return outcome, output

        def publish_file() -> Published:
            with self._files.message.open("rb") as file:
                chunks = iter(lambda: file.read(1 << 20), b"")
                if marker is not None and self._request.append_marker:
                    chunks = with_marker(chunks, marker)
                return publish(reservation, chunks)

        try:
            published = await asyncio.to_thread(publish_file)
        except (OutputPathRefused, OSError) as error:
            failure = Failure(
                failure_class=FailureClass.OUTPUT_PATH,
                message=f"The answer is complete, but the output file could not be written: {error}",
                remedy=[Remedy(text="Read it from the task.", argv=["holdfast", "result", self._task.id])],
            )
            return msgspec.structs.replace(outcome, status=Status.FAILED, failure=failure), output
        output.path, output.bytes = published.path, published.bytes
        output.sha256, output.overwrote = published.sha256, published.overwrote
        if not published.atomic:
            self._warnings.append("the output file's file system has no hard links: its name was there before its text")
        return outcome, output

    async def _observe(self) -> Files:
        cwd = self._request.cwd
        concurrent = await self._ledger.concurrent_in(cwd, self._task.created_at, self._task.id)
        if self._task.baseline is None:
            self._unknowns["files"] = "nothing was started"
            return Files(concurrent_tasks_in_workdir=concurrent)
        reservation = self._task.reservation
        # Ours, not the agent's.  The output file is there already if the result is being made for a second time.
        # A worktree may lie among it, and is what we look at.
        kept = self._files.directory.parent.parent
        leave_out = [] if Path(cwd).is_relative_to(kept) else [kept]
        if reservation is not None:
            leave_out.append(Path(reservation.path))
        changes = await observe_changes(self._task.baseline, leave_out=leave_out)
        claims = await asyncio.to_thread(reconcile_claims, changes, self._facts.claimed_files, Path(cwd))
        if changes.reason is not None:
            self._unknowns["files"] = changes.reason
        self._warnings += changes.notes
        if changes.omitted:
            self._warnings.append(f"{changes.omitted} more files changed than are listed")
        return Files(
            method=changes.method.value,
            dirty_before=changes.dirty_before,
            changed=[
                ChangedFile(
                    path=change.path,
                    change=change.change.value,
                    renamed_from=change.renamed_from,
                    was_dirty_before=change.was_dirty_before,
                    claimed=change.path in claims.claimed,
                )
                for change in changes.changed
            ],
            claimed_not_observed=claims.not_observed,
            outside_workdir=claims.outside_workdir,
            head_before=changes.head_before,
            head_after=changes.head_after,
            concurrent_tasks_in_workdir=concurrent,
        )

    def _compare(self, outcome: Outcome, files: Files) -> None:
        """Warn where what was observed is not what was asked for, or claimed."""
        if self._facts.ended_leftovers:
            leftovers = ", ".join(self._facts.ended_leftovers)
            self._warnings.append(f"processes outlived the agent and were ended: {leftovers}")
        if files.changed and not self._may_write:
            self._warnings.append(f"{len(files.changed)} files changed although the task was read-only")
        if outcome.status is Status.COMPLETED and files.claimed_not_observed:
            count = len(files.claimed_not_observed)
            self._warnings.append(f"{count} files are unchanged although the agent claims otherwise")

    def _tool_uses(self) -> ToolUses:
        limits = self._request.limits
        if self._plain_text:
            self._unknowns["tool_uses"] = "this agent does not report its tool uses"
            return ToolUses(soft_limit=limits.soft_tool_uses, hard_limit=limits.max_tool_uses)
        # An attempt that concludes an earlier one goes on counting where that one stopped.
        counted = self._attempts[-2:] if self._facts.concludes is not None else self._attempts[-1:]
        by_type: Counter[str] = Counter()
        for attempt in counted:
            by_type.update(attempt.facts.tools_by_type)
        total = sum(attempt.facts.tool_total for attempt in counted)
        return ToolUses(
            total=total,
            failed=sum(attempt.facts.tool_failed for attempt in counted),
            by_type=dict(by_type),
            soft_limit=limits.soft_tool_uses,
            hard_limit=limits.max_tool_uses,
            soft_limit_reached=limits.soft_tool_uses is not None and total >= limits.soft_tool_uses,
        )

    def _exit(self, status: Status) -> Exit:
        facts = self._facts
        return Exit(
            code=facts.exit_code if facts.signal is None else None,
            signal=None if facts.signal is None else signal_name(facts.signal),
            wrapper_code=EXIT_CODES[status],
            leftover_pids=facts.survivors,
        )

    def _thread(self) -> Thread:
        thread = self._facts.thread_id
        resume = ["holdfast", "run", self._request.agent, "--resume", self._task.id]
        return Thread(
            id=thread,
            resumed_from=self._task.acceptance.resume_thread,
            resume_argv=None if thread is None else resume,
        )

    async def _backend(self) -> Backend:
        acceptance, request = self._task.acceptance, self._request
        version = None if self._agent is None else await self._versions.of(self._agent, acceptance.command)
        if version is None:
            self._unknowns["backend.version"] = "the agent did not tell its version in time"
        worktree = acceptance.worktree
        return Backend(
            name=request.agent,
            path=acceptance.command[-1] if acceptance.command else None,
            version=version,
            model=request.model or self._facts.model,
            model_source=acceptance.choice.model_source.value,
            effort=request.effort,
            effort_source=acceptance.choice.effort_source.value,
            worktree=None if worktree is None else worktree.path,
            branch=None if worktree is None else worktree.branch,
            worktree_kept=None if worktree is None else await asyncio.to_thread(left_behind, worktree) is not None,
            sandbox=request.sandbox,
            workdir=request.cwd,
            prompt_sha256=acceptance.prompt_sha256,
            prompt_bytes=acceptance.prompt_bytes,
        )

    def _timing(self) -> Timing:
        facts, created, ended = self._facts, self._task.created_at, wall()
        started = self._attempts[0].started_at if self._attempts else None
        return Timing(
            created=isoformat(created),
            started=_instant(started),
            ready=_instant(started),
            first_event=_instant(facts.first_event_at),
            last_progress=_instant(facts.last_progress_at),
            ended=isoformat(ended),
            wall_ms=_milliseconds(created, ended),
            queue_wait_ms=_milliseconds(created, started or ended),
        )

    def _attempt(self, attempt: AttemptRow, status: Status) -> AttemptPart:
        began = attempt.started_at or attempt.created_at
        return AttemptPart(
            n=attempt.number,
            reason=attempt.reason,
            # An attempt that was followed by another one had failed.
            status=status.value if attempt is self._last else Status.FAILED.value,
            wall_ms=_milliseconds(began, attempt.ended_at or began),
        )

    def _error(self, failure: Failure) -> ErrorPart:
        return ErrorPart(
            error_class=failure.failure_class,
            message=failure.message,
            upstream_code=failure.upstream_code,
            http_status=failure.http_status,
            retryable=failure.retryable,
            retry_after_s=failure.retry_after_s,
            remedy=failure.remedy,
            stderr_tail=self._stderr_tail,
            stdout_tail=self._stdout_tail,
        )


def _lines(data: bytes) -> list[str]:
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return [line[:_TAIL_LINE_LENGTH] for line in lines[-_TAIL_LINES:]]


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else isoformat(seconds)


def _milliseconds(begin: float, end: float) -> int:
    return max(0, round((end - begin) * 1000))
