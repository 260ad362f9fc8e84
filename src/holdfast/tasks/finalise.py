"""From facts, logs and files to the result of a task.

Everything here can be done again after a crash: reading changes nothing, files are replaced whole, and an output file
that was published already is recognised.
"""

from __future__ import annotations

import asyncio
import signal as signals
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from holdfast.agents.adapter import Agent, Sandbox
from holdfast.agents.events import TurnFailed, Usage, UsageReported
from holdfast.agents.failure import Failure, FailureClass, Remedy
from holdfast.clock import isoformat, wall
from holdfast.drivers.one_shot import tail, whole_stdout
from holdfast.errors import HoldfastError
from holdfast.host.port import Kind
from holdfast.tasks.acceptance import Acceptance, TaskFiles, replace_file
from holdfast.tasks.attempt import Hosts
from holdfast.tasks.facts import AttemptFacts, StopCause
from holdfast.tasks.ledger import AttemptRow, Ledger, TaskRow
from holdfast.tasks.outcome import Outcome, decide
from holdfast.tasks.output_file import OutputPathRefused, Published, publish
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
    UsagePart,
)
from holdfast.tasks.versions import Versions
from holdfast.tasks.workspace import observe_changes, reconcile_claims

#: An answer up to this size is in the result document itself; a longer one is cut there and whole in its file.
INLINE_MESSAGE_BYTES: Final = 1 << 20
_TAIL_BYTES: Final = 16_384
_TAIL_LINES: Final = 20
_TAIL_LINE_LENGTH: Final = 400


async def finalise(
    task: TaskRow,
    attempts: list[AttemptRow],
    *,
    agent: Agent | None,
    ledger: Ledger,
    hosts: Hosts,
    files: TaskFiles,
    versions: Versions,
    fault: Failure | None = None,
) -> Result:
    """Make the result of *task* and its files.

    With *fault* (Holdfast itself failed) the outcome is ``failed`` for that reason, and *agent* may be ``None``.
    """
    last = attempts[-1] if attempts else None
    facts = last.facts if last is not None else AttemptFacts()
    unknowns: dict[str, str] = {}
    tails = _Tails()
    if last is not None and facts.start_failure is None:
        tails = await _tails(last, hosts)
    plain_text = agent is not None and agent.plain_text
    if agent is not None and last is not None:
        await asyncio.to_thread(_learn_afterwards, facts, agent, task.acceptance, tails.stderr)
    message = await _message(last, plain_text, ledger, hosts, files)
    outcome = _outcome(task, facts, message, plain_text, fault)
    warnings = [*task.acceptance.warnings, *outcome.warnings]
    # Before anything of ours appears in the directory.
    changes = await _files(task, facts, ledger, warnings, unknowns)
    outcome, output = await _publish(task, outcome, files)
    message.complete = outcome.status is Status.COMPLETED or (
        outcome.failure is not None and outcome.failure.failure_class is FailureClass.OUTPUT_PATH
    )
    usage = _usage(task.acceptance, facts, outcome.status, unknowns)
    version = None if agent is None else await versions.of(agent, task.acceptance.command)
    if version is None:
        unknowns["backend.version"] = "the agent did not tell its version in time"
    if facts.ended_leftovers:
        warnings.append(f"processes outlived the agent and were ended: {', '.join(facts.ended_leftovers)}")
    request = task.acceptance.request
    if changes.changed and request.sandbox is Sandbox.READ_ONLY:
        warnings.append(f"{len(changes.changed)} files changed although the task was read-only")
    if outcome.status is Status.COMPLETED and changes.claimed_not_observed:
        warnings.append(
            f"{len(changes.claimed_not_observed)} files that the agent claims to have changed are unchanged"
        )
    ended = wall()
    result = Result(
        task_id=task.id,
        label=request.label,
        status=outcome.status,
        ok=outcome.status is Status.COMPLETED,
        marker="PATCH_APPLIED" if changes.changed and request.sandbox is not Sandbox.READ_ONLY else "FINDINGS_ONLY",
        message=message,
        tool_uses=ToolUses(
            total=None if plain_text else facts.tool_total,
            failed=None if plain_text else facts.tool_failed,
            by_type=facts.tools_by_type,
            hard_limit=request.limits.max_tool_uses,
        ),
        usage=usage,
        files=changes,
        exit=Exit(
            code=facts.exit_code if facts.signal is None else None,
            signal=None if facts.signal is None else _signal_name(facts.signal),
            wrapper_code=EXIT_CODES[outcome.status],
            leftover_pids=facts.survivors,
        ),
        thread=Thread(
            id=facts.thread_id,
            resumed_from=task.acceptance.resume_thread,
            resume_argv=None if facts.thread_id is None else ["holdfast", "run", request.agent, "--resume", task.id],
        ),
        backend=Backend(
            name=request.agent,
            path=task.acceptance.command[-1] if task.acceptance.command else None,
            version=version,
            model=request.model or facts.model,
            model_source="caller" if request.model else "backend_default",
            effort=request.effort,
            effort_source="caller" if request.effort else "backend_default",
            sandbox=request.sandbox,
            workdir=request.cwd,
            prompt_sha256=task.acceptance.prompt_sha256,
            prompt_bytes=task.acceptance.prompt_bytes,
        ),
        timing=_timing(task, attempts, facts, ended),
        limits=LimitsPart(
            total_s=request.limits.total_s,
            idle_s=request.limits.idle_s,
            start_s=request.limits.start_s,
            max_tool_uses=request.limits.max_tool_uses,
            hit=outcome.limit_hit,
        ),
        output=output,
        attempts=[_attempt_part(attempt, attempt is last, outcome.status) for attempt in attempts],
        error=None if outcome.failure is None else _error(outcome.failure, facts, tails),
        warnings=warnings,
        unknowns=unknowns,
    )
    if plain_text:
        unknowns["tool_uses"] = "this agent does not report its tool uses"
    if message.text is None and message.bytes == 0:
        unknowns.setdefault("message.text", "the agent gave no message")
    await asyncio.to_thread(replace_file, files.result, [msgspec.json.encode(result)])
    # The environment in it has secrets, and no attempt will need it any more.
    await asyncio.to_thread(files.launch.unlink, missing_ok=True)
    return result


def _learn_afterwards(facts: AttemptFacts, agent: Agent, acceptance: Acceptance, stderr_tail: tuple[str, ...]) -> None:
    """Ask what the agent left behind why it failed; its own typed record outweighs what was guessed from text."""
    if facts.start_failure is not None or (facts.completions and not facts.failures and facts.exit_code == 0):
        return
    events = agent.diagnose(stderr_tail="\n".join(stderr_tail), exit_code=facts.exit_code)
    if facts.thread_id is not None:
        events += agent.post_mortem(facts.thread_id, acceptance.record_env)
    for event in events:
        if isinstance(event, TurnFailed) and (
            facts.failure is None
            or facts.failure.failure_class is FailureClass.UNKNOWN
            or event.failure.upstream_code is not None
        ):
            facts.failure = event.failure
        elif isinstance(event, UsageReported) and facts.usage is None:
            facts.usage, facts.usage_of_thread, facts.usage_source = event.usage, event.of_thread, event.source


class _Tails(NamedTuple):
    """The last lines that the process wrote."""

    stderr: tuple[str, ...] = ()
    stdout: tuple[str, ...] = ()


async def _tails(last: AttemptRow, hosts: Hosts) -> _Tails:
    try:
        host = await hosts.host()
        stderr = await tail(host, last.process_id, Kind.STDERR, _TAIL_BYTES)
        stdout = await tail(host, last.process_id, Kind.STDOUT, _TAIL_BYTES)
    except HoldfastError as error:
        return _Tails((f"(the log could not be read: {error})",))
    return _Tails(_lines(stderr), _lines(stdout))


def _lines(data: bytes) -> tuple[str, ...]:
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return tuple(line[:_TAIL_LINE_LENGTH] for line in lines[-_TAIL_LINES:])


async def _message(
    last: AttemptRow | None, plain_text: bool, ledger: Ledger, hosts: Hosts, files: TaskFiles
) -> MessagePart:
    if last is None:
        return MessagePart()
    if plain_text:
        host = await hosts.host()
        chunks = [chunk async for chunk in whole_stdout(host, last.process_id)]
    else:
        text = await ledger.message(last.task_id, last.number)
        if text is None:
            return MessagePart(segments=last.facts.messages)
        # A lone surrogate is legal in JSON and has no UTF-8 form of its own.
        chunks = [text.encode("utf-8", "surrogatepass")]
    size, digest = await asyncio.to_thread(replace_file, files.message, chunks)
    start = b"".join(chunks)[: INLINE_MESSAGE_BYTES + 1]
    return MessagePart(
        text=start[:INLINE_MESSAGE_BYTES].decode(errors="ignore" if size > INLINE_MESSAGE_BYTES else "replace"),
        bytes=size,
        sha256=digest,
        inline_truncated=size > INLINE_MESSAGE_BYTES,
        path=str(files.message),
        segments=last.facts.messages,
    )


def _outcome(
    task: TaskRow, facts: AttemptFacts, message: MessagePart, plain_text: bool, fault: Failure | None
) -> Outcome:
    if fault is not None:
        return Outcome(status=Status.FAILED, failure=fault)
    limits = task.acceptance.request.limits
    return decide(
        facts,
        cancel_requested=task.cancel_requested_at is not None,
        message_blank=not (message.text or "").strip(),
        plain_text=plain_text,
        limits={StopCause.TOTAL: limits.total_s, StopCause.IDLE: limits.idle_s, StopCause.START: limits.start_s},
    )


async def _publish(task: TaskRow, outcome: Outcome, files: TaskFiles) -> tuple[Outcome, Output]:
    """Publish the answer where the caller wanted it: whole and only after success, or not at all."""
    output = Output(result_path=str(files.result))
    if task.reservation is None:
        return outcome, output
    if outcome.status is not Status.COMPLETED:
        await asyncio.to_thread(task.reservation.abandon)
        return outcome, output
    try:
        published = await asyncio.to_thread(_publish_file, task, files.message)
    except (OutputPathRefused, OSError) as error:
        failure = Failure(
            failure_class=FailureClass.OUTPUT_PATH,
            message=f"The answer is complete, but the output file could not be written: {error}",
            remedy=[Remedy(text="Read the answer from the task itself.", argv=["holdfast", "result", task.id])],
        )
        return msgspec.structs.replace(outcome, status=Status.FAILED, failure=failure), output
    output.path, output.bytes = str(published.path), published.bytes
    output.sha256, output.overwrote = published.sha256, published.overwrote
    return outcome, output


def _publish_file(task: TaskRow, message: Path) -> Published:
    assert task.reservation is not None
    with message.open("rb") as file:
        return publish(task.reservation, iter(lambda: file.read(1 << 20), b""))


async def _files(
    task: TaskRow, facts: AttemptFacts, ledger: Ledger, warnings: list[str], unknowns: dict[str, str]
) -> Files:
    request = task.acceptance.request
    concurrent = await ledger.concurrent_in(request.cwd, task.created_at, task.id)
    if task.baseline is None:
        unknowns["files"] = "nothing was started"
        return Files(concurrent_tasks_in_workdir=concurrent)
    changes = await observe_changes(task.baseline)
    claims = await asyncio.to_thread(reconcile_claims, changes, facts.claimed_files, Path(request.cwd))
    if changes.reason is not None:
        unknowns["files"] = changes.reason
    warnings += changes.notes
    if changes.omitted:
        warnings.append(f"{changes.omitted} more files changed than are listed")
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


def _usage(acceptance: Acceptance, facts: AttemptFacts, status: Status, unknowns: dict[str, str]) -> UsagePart:
    usage = facts.usage
    if usage is None:
        unknowns["usage"] = "the agent did not report it"
        return UsagePart()
    part = UsagePart(complete=status in (Status.COMPLETED, Status.NO_SIGNAL), source=facts.usage_source)
    before: Usage | None = Usage(input_tokens=0, cached_input_tokens=0, output_tokens=0, reasoning_output_tokens=0)
    if facts.usage_of_thread:
        part.thread_total_tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if acceptance.resume_thread is not None:
            before = acceptance.usage_before
    if before is None:
        unknowns["usage"] = "the agent counts the whole thread, and what it had used before is not known here"
        return part
    for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens"):
        value = getattr(usage, name)
        setattr(part, name, None if value is None else max(0, value - (getattr(before, name) or 0)))
    part.cost_usd = usage.cost_usd
    return part


def _timing(task: TaskRow, attempts: list[AttemptRow], facts: AttemptFacts, ended: float) -> Timing:
    first = attempts[0] if attempts else None
    started = first.started_at if first is not None else None
    return Timing(
        created=isoformat(task.created_at),
        started=_instant(started),
        ready=_instant(started),
        first_event=_instant(facts.first_event_at),
        last_progress=_instant(facts.last_progress_at),
        ended=isoformat(ended),
        wall_ms=max(0, round((ended - task.created_at) * 1000)),
        queue_wait_ms=max(0, round(((started or ended) - task.created_at) * 1000)),
    )


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else isoformat(seconds)


def _attempt_part(attempt: AttemptRow, is_last: bool, status: Status) -> AttemptPart:
    began = attempt.started_at or attempt.created_at
    return AttemptPart(
        n=attempt.number,
        reason=attempt.reason,
        status=status.value if is_last else Status.FAILED.value,
        wall_ms=max(0, round(((attempt.ended_at or began) - began) * 1000)),
    )


def _error(failure: Failure, facts: AttemptFacts, tails: _Tails) -> ErrorPart:
    return ErrorPart(
        error_class=failure.failure_class,
        message=failure.message,
        upstream_code=failure.upstream_code,
        http_status=failure.http_status,
        retryable=failure.retryable,
        retry_after_s=failure.retry_after_s,
        remedy=failure.remedy,
        stderr_tail=list(tails.stderr),
        # After an orderly end the output is the agent's event stream, and the message above says it better.
        stdout_tail=[] if facts.terminal else list(tails.stdout),
    )


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
