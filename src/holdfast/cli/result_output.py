"""How a finished task is shown: the answer alone, a receipt, or the result document; and why it is not a success."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.agents.failure import FailureClass, Remedy
from holdfast.api.answer import answer_bytes
from holdfast.cli import duration, terminal
from holdfast.cli.daemon_access import Daemon
from holdfast.cli.error_report import UsageError
from holdfast.daemon.client import DaemonClient
from holdfast.tasks.marker import with_marker
from holdfast.tasks.result import REJECTED_EXIT_CODE, ErrorPart, Result, Status


class Format(StrEnum):
    """What goes to standard output."""

    #: The answer, byte for byte.
    TEXT = "text"
    #: Where the answer lies: ``OUTPUT_PATH=``, ``OUTPUT_BYTES=`` and, unless it is 0, ``EXIT_CODE=``.
    RECEIPT = "receipt"
    #: A receipt with ``STATUS=``, ``TASK=``, ``THREAD=`` and ``SHA256=``.
    RECEIPT_EXTENDED = "receipt-extended"
    #: The result document on one line.
    JSON = "json"
    #: Progress as it comes, one object a line; the last line is the result document.
    JSONL = "jsonl"


#: Outcomes whose answer is shown although it is not the whole: the exit status and standard error say so.
_SHOWS_ANSWER: Final = frozenset({Status.COMPLETED, Status.PARTIAL, Status.NO_SIGNAL})

#: Failures whose reason the agent did not report in its own protocol: its raw output may be all there is.
_UNEXPLAINED: Final = frozenset(
    {
        FailureClass.BACKEND_CRASH,
        FailureClass.BACKEND_INCOMPATIBLE,
        FailureClass.INTERNAL,
        FailureClass.TIMEOUT_START,
        FailureClass.UNKNOWN,
    }
)

_SENTENCES: Final[dict[Status, str]] = {
    Status.PARTIAL: "The agent was stopped at a budget; what it said is not the whole.",
    Status.NO_SIGNAL: "The agent reported success but said nothing, or not what was asked for; that is no success.",
    Status.FAILED: "The agent failed.",
    Status.TIMEOUT: "A time limit was reached and the agent was ended.",
    Status.CANCELLED: "The task was cancelled.",
    Status.ABORTED: "The machine or the host went away before the end was seen; nothing is left running.",
    Status.UNAVAILABLE: "The agent could not be started.",
    Status.REJECTED: "The request was refused; nothing was started.",
    Status.OUTCOME_UNKNOWN: "How the task ended cannot be told, and something of it may still be running.",
}


def choose(name: str | None, *, as_json: bool, output_file: str | None = None) -> Format:
    """The format that the options ask for; an answer that goes to a file is answered by a receipt."""
    if as_json and name not in (None, Format.JSON):
        raise UsageError(f"--json and --format {name} contradict each other.", hint="Leave one of them out.")
    if as_json:
        return Format.JSON
    if name is not None:
        return Format(name)
    return Format.TEXT if output_file is None else Format.RECEIPT


def exit_status(result: Result, *, fail_on_reject: bool) -> int:
    """The exit status of the task; with *fail_on_reject* another one for a success that approves nothing."""
    if fail_on_reject and result.status is Status.COMPLETED and result.verdict.approved is not True:
        return REJECTED_EXIT_CODE
    return result.exit.wrapper_code


def show(
    daemon: Daemon,
    task_id: str,
    wanted: Format,
    *,
    quiet: bool = False,
    append_marker: bool = False,
    fail_on_reject: bool = False,
) -> int:
    """Print how the finished task ended, and return the exit status that says the same.

    *append_marker* ends a text with the result's marker, *fail_on_reject* is that of :func:`exit_status`.

    :raises NotFinished: it has no result yet
    """
    document = daemon.call(lambda client: client.result_document(task_id))
    result = DaemonClient.decode_result(document)
    if wanted in (Format.JSON, Format.JSONL):
        terminal.write(
            [(document if b"\n" not in document else msgspec.json.encode(result)) + b"\n"], hint=terminal.STORED
        )
    elif wanted in (Format.RECEIPT, Format.RECEIPT_EXTENDED):
        terminal.write_line(
            "\n".join(receipt(result, extended=wanted is Format.RECEIPT_EXTENDED)), hint=terminal.STORED
        )
    elif result.status in _SHOWS_ANSWER and result.message.bytes:
        answer: Iterable[bytes] = answer_bytes(daemon, result)
        if append_marker and result.marker is not None:
            answer = with_marker(answer, result.marker)
        last = terminal.write(answer, hint=terminal.STORED)
        if last != ord("\n") and terminal.is_terminal(sys.stdout):
            terminal.write([b"\n"], hint=terminal.STORED)
    if wanted not in (Format.JSON, Format.JSONL):
        explain(result, quiet=quiet)
    status = exit_status(result, fail_on_reject=fail_on_reject)
    if status == REJECTED_EXIT_CODE:
        terminal.tell(_rejection(result))
    return status


def _rejection(result: Result) -> str:
    verdict = result.verdict
    said = "has no verdict" if verdict.value is None else f"does not approve: {terminal.printable(verdict.value)}"
    return f"{terminal.Style(sys.stderr)('red', 'error:')} The answer {said}. (--fail-on-reject)"


def receipt(result: Result, *, extended: bool) -> list[str]:
    """The lines of a receipt.  ``OUTPUT_BYTES`` is always a number."""
    if result.output.path is not None:
        path, size, digest = result.output.path, result.output.bytes, result.output.sha256
    else:
        path, size, digest = result.message.path, result.message.bytes, result.message.sha256
    lines = [f"OUTPUT_PATH={terminal.printable(path or '')}", f"OUTPUT_BYTES={size or 0}"]
    if result.exit.wrapper_code != 0:
        lines.append(f"EXIT_CODE={result.exit.wrapper_code}")
    if extended:
        lines += [
            f"STATUS={result.status}",
            f"TASK={result.task_id}",
            f"THREAD={terminal.printable(result.thread.id or '')}",
            f"SHA256={digest or ''}",
        ]
    return lines


def explain(result: Result, *, quiet: bool) -> None:
    """Say on standard error what a caller must know besides the answer."""
    if result.status is not Status.COMPLETED or not result.ok:
        terminal.tell("\n".join(_failure(result)))
        return
    if quiet:
        return
    style = terminal.Style(sys.stderr)
    for warning in result.warnings:
        terminal.tell(f"{style('yellow', 'warning:')} {terminal.printable(warning)}")
    if result.backend.worktree_kept:
        terminal.tell(_worktree(result))
    if terminal.is_terminal(sys.stderr):
        terminal.tell(style("dim", _epilogue(result)))


def _worktree(result: Result) -> str:
    return terminal.printable(f"worktree: {result.backend.worktree} (branch {result.backend.branch})")


def _failure(result: Result) -> Iterator[str]:
    style = terminal.Style(sys.stderr)
    error = result.error
    sentence = error.message if error is not None else _SENTENCES.get(result.status, "The task is not a success.")
    details: list[str] = [result.status]
    if error is not None:
        details += [error.error_class, error.upstream_code or ""]
        details.append("" if error.http_status is None else f"HTTP {error.http_status}")
    # Several of them may be the same word.
    details = [detail for detail in dict.fromkeys(details) if detail]
    first, *more = sentence.strip().splitlines() or [""]
    yield f"{style('red', 'error:')} {terminal.printable(first)} ({terminal.printable(', '.join(details))})"
    yield from (f"       {terminal.printable(line)}" for line in more)
    yield f"exit_code: {result.exit.wrapper_code}"
    if error is not None:
        yield from _tail(error, style)
    if error is not None:
        for remedy in error.remedy:
            yield from _remedy(remedy, style)
        if error.retry_after_s is not None:
            yield f"{style('bold', 'hint:')} It can be tried again after {duration.words(error.retry_after_s)}."
        elif error.retryable and not error.remedy:
            yield f"{style('bold', 'hint:')} The same request may succeed when it is tried again."
    for warning in result.warnings:
        yield f"{style('yellow', 'warning:')} {terminal.printable(warning)}"
    if result.exit.leftover_pids:
        pids = " ".join(map(str, result.exit.leftover_pids))
        yield f"{style('yellow', 'warning:')} These processes of the task could not be ended: {pids}"
    if result.backend.worktree_kept:
        yield _worktree(result)
    if result.status not in _SHOWS_ANSWER and result.message.bytes:
        command = f"holdfast result {result.task_id} --field message"
        yield f"said:   {result.message.bytes} bytes until then; read them with: {command}"
    yield f"task:   {result.task_id}; everything about it: holdfast result {result.task_id} --json"
    if result.thread.id is not None:
        agent = shlex.quote(result.backend.name)
        yield f'resume: holdfast run {agent} --resume {result.task_id} "..."'


def _tail(error: ErrorPart, style: terminal.Style) -> Iterator[str]:
    """What the process wrote last, where that explains more than the error does."""
    title, lines = "stderr", error.stderr_tail
    if not lines and error.error_class in _UNEXPLAINED:
        title, lines = "stdout", error.stdout_tail
    if lines:
        yield f"{title}:"
        yield from (style("dim", f"  | {terminal.printable(line)}") for line in lines)


def _remedy(remedy: Remedy, style: terminal.Style) -> Iterator[str]:
    yield f"{style('bold', 'hint:')} {terminal.printable(remedy.text)}"
    if remedy.argv:
        yield f"      $ {terminal.printable(shlex.join(remedy.argv))}"


def _epilogue(result: Result) -> str:
    facts = [f"{result.backend.name} completed in {duration.words(result.timing.wall_ms / 1000)}"]
    if result.tool_uses.total:
        facts.append(f"{result.tool_uses.total} tool use{'s' * (result.tool_uses.total != 1)}")
    changed = len(result.files.changed)
    if changed:
        facts.append(f"{changed} file{'s' * (changed != 1)} changed")
    if result.usage.output_tokens and result.usage.input_tokens is not None:
        facts.append(f"{result.usage.input_tokens:,} tokens in, {result.usage.output_tokens:,} out")
    facts.append(f"task {result.task_id}")
    return terminal.printable(" · ".join(facts))
