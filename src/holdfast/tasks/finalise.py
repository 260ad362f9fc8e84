"""From facts, logs and files to the result of a task.

Everything here can be done again after a crash: reading changes nothing, files are replaced whole, and an output file
that was published already is recognised.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

import msgspec

from holdfast.agents.adapter import Agent, Sandbox
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import isoformat, wall
from holdfast.tasks.acceptance import TaskFiles, replace_file
from holdfast.tasks.answer import keep_answer
from holdfast.tasks.appraisal import Appraisal, appraise, settled
from holdfast.tasks.continuation import continued
from holdfast.tasks.diagnosis import Tails, diagnose
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.marker import with_marker
from holdfast.tasks.observation import Observed, observe
from holdfast.tasks.outcome import Outcome, decide, reported_success, signal_name
from holdfast.tasks.output_file import OutputPathRefused, Published, publish
from holdfast.tasks.ports import Hosts
from holdfast.tasks.queries import Queries
from holdfast.tasks.result import (
    EXIT_CODES,
    AttemptPart,
    Backend,
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
    Verdict,
)
from holdfast.tasks.rows import AttemptRow, TaskRow
from holdfast.tasks.slots import no_slot
from holdfast.tasks.usage import usage_of_task
from holdfast.tasks.versions import Versions
from holdfast.tasks.worktree import left_behind


class Finalisation:
    """Makes the result of one task whose process tree is gone."""

    def __init__(
        self,
        task: TaskRow,
        attempts: list[AttemptRow],
        *,
        agent: Agent | None,
        ledger: Queries,
        hosts: Hosts,
        files: TaskFiles,
        versions: Versions,
        fault: Failure | None = None,
        revises: Result | None = None,
        observing: asyncio.Future[Observed] | None = None,
    ) -> None:
        """With *fault*, Holdfast itself failed: the outcome is ``failed`` for that reason; *agent* may be ``None``.

        *revises* is the result that this one knows more than.  *observing* is what changed, where that is on its way.
        """
        self._task = task
        self._request = task.acceptance.settled
        self._attempts = attempts
        self._last = attempts[-1] if attempts else None
        #: The last attempt and those that it continues, newest first.
        self._work = continued(attempts)
        self._facts = self._last.facts if self._last is not None else AttemptFacts()
        self._agent = agent
        self._plain_text = agent is not None and agent.plain_text
        self._ledger = ledger
        self._hosts = hosts
        self._files = files
        self._versions = versions
        self._fault = fault
        self._revises = revises
        self._observing = observing
        self._tails = Tails()
        self._warnings: list[str] = list(task.acceptance.warnings)
        self._unknowns: dict[str, str] = {}

    async def result(self) -> Result:
        """The result; its files are written, and what was kept for further attempts is removed."""
        # What takes longest, and needs nothing of the rest.
        observing = self._observing or asyncio.ensure_future(
            observe(self._task, self._facts, queries=self._ledger, kept=self._files.kept)
        )
        try:
            return await self._make(observing)
        finally:
            observing.cancel()

    async def _make(self, observing: asyncio.Future[Observed]) -> Result:
        if self._last is not None and not reported_success(self._facts, self._plain_text):
            self._tails = await diagnose(
                self._last,
                agent=self._agent,
                record_env=self._task.acceptance.record_env,
                hosts=self._hosts,
                warnings=self._warnings,
            )
        message = await self._message()
        appraisal = await appraise(self._request, message)
        message.ends_with_intent = appraisal.ends_with_intent
        tool_uses = self._tool_uses()
        outcome = self._decide(message, appraisal, tool_uses)
        self._warnings += outcome.warnings
        if appraisal.ends_with_intent and reported_success(self._facts, self._plain_text):
            self._warnings.append("the answer ends by announcing work instead of reporting it (ends_with_intent)")
        files, doubts, unknown = await observing
        self._warnings += doubts
        self._unknowns |= unknown
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
            verdict=self._verdict(appraisal, message, outcome),
            message=message,
            tool_uses=tool_uses,
            usage=usage_of_task(self._task.acceptance, self._telling_usage(), outcome.status, self._unknowns),
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
        await asyncio.to_thread(self._write, result)
        return result

    async def _message(self) -> MessagePart:
        """The last message: of the last attempt, or of one that it continues if it found none on record any more."""
        message = MessagePart()
        for attempt in self._work:
            if attempt.facts.start_failure is None:
                message = await keep_answer(
                    attempt, self._plain_text, self._ledger, self._hosts, self._files, self._unknowns
                )
            if message.path is not None:
                if attempt is not self._last:
                    self._warnings.append(
                        f"the answer is the last that attempt {attempt.number} heard before it broke off; "
                        "none was on record afterwards"
                    )
                return message
        self._unknowns.setdefault("message.text", "the agent gave no message")
        return message

    def _telling_usage(self) -> AttemptFacts:
        """The newest facts that tell what the work used."""
        return next((attempt.facts for attempt in self._work if attempt.facts.usage is not None), self._facts)

    def _write(self, result: Result) -> None:
        replace_file(self._files.result, [msgspec.json.encode(result)])
        # The environment in it has secrets, and no attempt will need it any more.
        self._files.launch.unlink(missing_ok=True)

    @property
    def _may_write(self) -> bool:
        return self._request.sandbox is not Sandbox.READ_ONLY

    def _marker(self, files: Files) -> Literal["PATCH_APPLIED", "FINDINGS_ONLY"]:
        return "PATCH_APPLIED" if files.changed and self._may_write else "FINDINGS_ONLY"

    def _decide(self, message: MessagePart, appraisal: Appraisal, tool_uses: ToolUses) -> Outcome:
        if self._fault is not None:
            return Outcome(status=Status.FAILED, failure=self._fault)
        if self._facts.start_failure is not None and len(self._work) > 1:
            # The work was begun, and nobody could look what became of it.
            return Outcome(status=Status.OUTCOME_UNKNOWN, failure=self._facts.start_failure)
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
            # Not plain "result": of a task that failed it does not print the answer.
            command = ["holdfast", "result", self._task.id, "--field", "message"]
            failure = Failure(
                failure_class=FailureClass.OUTPUT_PATH,
                message=f"The answer is complete, but the output file could not be written: {error}",
                remedy=[Remedy(text="Read it from the task.", argv=command)],
            )
            return msgspec.structs.replace(outcome, status=Status.FAILED, failure=failure), output
        output.path, output.bytes = published.path, published.bytes
        output.sha256, output.overwrote = published.sha256, published.overwrote
        if not published.atomic:
            self._warnings.append("the output file's file system has no hard links: its name was there before its text")
        return outcome, output

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

    def _verdict(self, appraisal: Appraisal, message: MessagePart, outcome: Outcome) -> Verdict:
        verdict = settled(appraisal.verdict, message, outcome.status)
        if message.complete and self._request.review is not None:
            verdict.structured = self._facts.review
        return verdict

    def _tool_uses(self) -> ToolUses:
        limits = self._request.limits
        if self._plain_text:
            self._unknowns["tool_uses"] = "this agent does not report its tool uses"
            return ToolUses(soft_limit=limits.soft_tool_uses, hard_limit=limits.max_tool_uses)
        # An attempt that concludes an earlier one goes on counting where that one stopped.
        works = [self._work]
        if self._facts.concludes is not None:
            works.append(continued(self._attempts[: -len(self._work)]))
        # One that collects counts from the beginning again, as far as that is still on record.
        counted = [max(work, key=lambda attempt: attempt.facts.tool_total) for work in works if work]
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
            stderr_tail=self._tails.stderr,
            stdout_tail=self._tails.stdout,
        )


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else isoformat(seconds)


def _milliseconds(begin: float, end: float) -> int:
    return max(0, round((end - begin) * 1000))
