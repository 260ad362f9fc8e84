"""What a host does first: make sense of the directories that earlier runs left.

A directory without a description is a start that never happened and is removed.  A log that ends with ``closed`` is
complete.  Everything else was alive when the host died: its unindexed bytes are indexed, its exit is recorded as
unknown if nobody saw it, and what still lives of its tree is found to be ended.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from holdfast.clock import boot_id
from holdfast.host.log import UNKNOWN_EXIT, EntryKind, ProcessLog
from holdfast.host.poller import Poller
from holdfast.host.process import Description, HostedProcess, Started
from holdfast.host.tree import Tree


@dataclass
class Recovered:
    """One process of an earlier run; its log is complete now."""

    process: HostedProcess
    #: What may still live of it; None if it was complete before, or died with an earlier boot.
    survivors: Tree | None


def recover(
    processes_directory: str, poller: Poller, on_closed: Callable[[HostedProcess], None]
) -> Iterator[Recovered]:
    """Yield every process of earlier runs, oldest first."""
    found: list[tuple[Description, Started | None, str]] = []
    for name in os.listdir(processes_directory):
        directory = f"{processes_directory}/{name}"
        told = _read(directory)
        if told is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            found.append((*told, directory))
    found.sort(key=lambda item: item[0].created_ns)
    for description, started, directory in found:
        yield _complete(description, started, directory, poller, on_closed)


def _read(directory: str) -> tuple[Description, Started | None] | None:
    try:
        with open(f"{directory}/process", "rb") as file:
            lines = file.read().split(b"\n")
        if not os.path.exists(f"{directory}/index"):
            return None
        description = msgspec.json.decode(lines[0], type=Description)
    except (OSError, msgspec.DecodeError):
        return None
    try:
        return description, msgspec.json.decode(lines[1], type=Started)
    except (IndexError, msgspec.DecodeError):
        return description, None


def _complete(
    description: Description,
    started: Started | None,
    directory: str,
    poller: Poller,
    on_closed: Callable[[HostedProcess], None],
) -> Recovered:
    log = ProcessLog.complete(directory)
    newest = log.entries(log.last_seq - 1, 1) if log.last_seq else []
    survivors: Tree | None = None
    if not newest or newest[0].kind != EntryKind.CLOSED:
        log = ProcessLog.recover(directory)
        log.append_end(exit_code=None, exited=log.last(EntryKind.EXITED) is None, closed=True)
        if description.boot_id == boot_id():
            # Killed before it wrote down the pid: then only the marker can find anything.
            survivors = Tree(started.pid if started else 0, started.started if started else 0, description.marker)
    process = HostedProcess(description, directory, log, poller=poller, on_closed=on_closed)
    process.pid = started.pid if started else None
    end = log.last(EntryKind.EXITED)
    if end is None or end.exit_code == UNKNOWN_EXIT:
        process.restore_end(None, 0)
    else:
        process.restore_end(end.exit_code, end.signal)
    return Recovered(process, survivors)
