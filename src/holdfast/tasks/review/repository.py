"""Asking git about the repository under review: bounded in time and output, and starting nothing of the repository's.

It blocks, because a command line and a thread of a program use it before there is a task; what an agent did to a
repository is looked at by :mod:`holdfast.tasks.workspace.git`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from pathlib import Path
from typing import IO, Final, NamedTuple

from holdfast.clock import monotonic
from holdfast.errors import HoldfastError, InvalidRequest
from holdfast.tasks import untrusted_repository

#: Seconds for one command that only reads.
_PATIENCE: Final = 60.0
#: Bytes of what a command says that is not a diff; a diff has a bound of its own.
_OUTPUT_LIMIT: Final = 16 << 20
_COMPLAINT_LIMIT: Final = 64 << 10


class NotARepository(InvalidRequest):
    """There is no git working tree to review."""

    code = "not_a_repository"


class GitRefused(HoldfastError):
    """Git is missing, too slow, or failed in a way that we do not understand."""

    code = "git_failed"


class Answer(NamedTuple):
    """What a git command left."""

    status: int
    output: bytes
    #: The output is longer than was asked for; the command was ended.
    cut: bool
    #: The first line that it wrote to standard error.
    complaint: str


class Repository:
    """The git working tree that one directory lies in."""

    def __init__(self, directory: Path) -> None:
        """
        :raises NotARepository: *directory* lies in none, or is not there
        """
        # Through a link, what is above is somewhere else.
        directory = directory.resolve()
        self.root = directory
        self._filters_off: list[str] | None = None
        answer = self.ask("rev-parse", "--is-inside-work-tree", "--show-cdup", accept=range(256))
        inside, _, up = answer.output.partition(b"\n")
        if answer.status != 0 or inside != b"true":
            reason = f" ({answer.complaint})" if answer.complaint else ""
            raise NotARepository(
                f"{directory} is not part of a git working tree{reason}.",
                hint="Change to a repository, or name one with --cwd DIR; --custom reviews without one.",
            )
        self.root = Path(os.path.normpath(directory / os.fsdecode(up.rstrip(b"\n"))))

    def text(self, *arguments: str) -> str:
        """What a command that must succeed printed, less the final newline."""
        return os.fsdecode(self.ask(*arguments).output).removesuffix("\n")

    def paths(self, *arguments: str) -> list[bytes]:
        """The items that a command with ``-z`` printed."""
        return [item for item in self.ask(*arguments).output.split(b"\0") if item]

    def commit(self, name: str) -> str | None:
        """The full name of the commit that *name* means, or ``None``."""
        answer = self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}", accept=range(256))
        return os.fsdecode(answer.output).strip() if answer.status == 0 else None

    def is_shallow(self) -> bool:
        """Whether the history is cut off somewhere."""
        return self.text("rev-parse", "--is-shallow-repository") == "true"

    def diff(self, *arguments: str, limit: int) -> Answer:
        """The patch that ``git diff ARGUMENTS`` shows, *limit* bytes of it at most."""
        return self.ask("diff", *untrusted_repository.PLAIN_DIFF, *arguments, limit=limit, filters=True)

    def ask(
        self,
        *arguments: str,
        accept: range = range(1),
        limit: int = _OUTPUT_LIMIT,
        filters: bool = False,
        transport: tuple[str, ...] | None = None,
        patience: float = _PATIENCE,
    ) -> Answer:
        """Run one git command.

        :param accept: exit statuses that are answers
        :param filters: the command reads files of the working tree
        :param transport: the command may talk to a remote, with these variables of the caller besides the usual ones
        :raises GitRefused: it failed in any other way
        """
        settings = list(self._disabled_filters() if filters else ())
        # Only a fetch talks to anybody, and never through a program that an address names.
        settings.append(untrusted_repository.NO_TRANSPORT if transport is None else "protocol.ext.allow=never")
        try:
            process = subprocess.Popen(
                [*untrusted_repository.command(settings), *arguments],
                cwd=self.root,
                env=untrusted_repository.environment(further=transport or ()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise GitRefused(f"Git cannot be started: {error}.", hint="Install git, and check the directory.") from None
        with process:
            try:
                output, complaints, cut = _read(process, limit, monotonic() + patience)
            finally:
                if process.poll() is None:
                    # Not reaped yet, so the group is still its own.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = complaints.decode("utf-8", "backslashreplace").strip().splitlines()
        answer = Answer(process.returncode, output, cut, lines[0][:300] if lines else "")
        if not cut and answer.status not in accept:
            said = answer.complaint or f"it ended with status {answer.status}"
            raise GitRefused(f"git {arguments[0]} failed: {said}", hint="Check the repository with git itself.")
        return answer

    def _disabled_filters(self) -> list[str]:
        if self._filters_off is None:
            found = self.ask(*untrusted_repository.FILTER_QUERY, accept=range(2)).output
            try:
                self._filters_off = untrusted_repository.filters_off(found)
            except ValueError as error:
                raise GitRefused(f"This repository is not looked at: {error}.", hint="Check its .git/config.") from None
        return self._filters_off


def _read(process: subprocess.Popen[bytes], limit: int, deadline: float) -> tuple[bytes, bytes, bool]:
    """Both streams to their end and the process to its own, or the first *limit* bytes of its output."""
    assert process.stdout is not None
    assert process.stderr is not None
    collected: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    output, complaints = collected[process.stdout], collected[process.stderr]
    with selectors.DefaultSelector() as selector:
        for stream in collected:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - monotonic()))
            if not ready:
                raise GitRefused("Git did not answer in time.", hint="Try again when the machine is less busy.")
            for key, _ in ready:
                stream = process.stdout if key.fileobj is process.stdout else process.stderr
                chunk = os.read(stream.fileno(), 1 << 16)
                if not chunk:
                    selector.unregister(stream)
                elif stream is process.stderr:
                    complaints += chunk[: _COMPLAINT_LIMIT - len(complaints)]
                else:
                    output += chunk
                    if len(output) > limit:
                        return bytes(output[:limit]), bytes(complaints), True
    try:
        process.wait(max(0.0, deadline - monotonic()))
    except subprocess.TimeoutExpired:
        raise GitRefused("Git did not end in time.", hint="Try again when the machine is less busy.") from None
    return bytes(output), bytes(complaints), False
