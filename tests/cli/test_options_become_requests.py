"""Where a task works, how long it waits and who is told: the options say it, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.tasks.request import Notification, TaskRequest, WorktreeRequest
from holdfast.tasks.result import Status

from .fake_daemon import FakeDaemon, FakeTask


def requested(cli, daemon: FakeDaemon, *options: str) -> TaskRequest:
    outcome = cli("start", "codex", *options, "do it")
    assert outcome.status == 0, outcome.err
    return daemon.tasks[outcome.out.decode().strip()].request


def test_nobody_said_anything(cli, daemon: FakeDaemon) -> None:
    request = requested(cli, daemon)
    assert (request.notify, request.worktree, request.limits.slot_s) == (None, None, None)


def test_whom_to_tell(cli, daemon: FakeDaemon) -> None:
    options = ["--notify-command", "tell me", "--notify-command", '["tell", "a b"]', "--notify-url", "http://x/"]
    assert requested(cli, daemon, *options, "--notify-desktop").notify == [
        Notification(command=["tell me"]),
        Notification(command=["tell", "a b"]),
        Notification(webhook="http://x/"),
        Notification(desktop=True),
    ]
    assert requested(cli, daemon, "--no-notify").notify == []


def test_where_to_work(cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    assert requested(cli, daemon, "--worktree").worktree == WorktreeRequest()
    request = requested(cli, daemon, "--worktree-name", "mine", "--worktree-dir", str(tmp_path))
    assert request.worktree == WorktreeRequest(name="mine", directory=str(tmp_path))


def test_how_long_to_wait(cli, daemon: FakeDaemon) -> None:
    assert requested(cli, daemon, "--slot-wait", "2m").limits.slot_s == 120.0
    assert requested(cli, daemon, "--slot-wait", "none").limits.slot_s is None


@pytest.mark.parametrize(
    "options",
    [
        ["--notify-command", "[tell"],
        ["--notify-command", "[]"],
        ["--notify-command", '["a", 1]'],
        ["--notify-url", "ftp://x/"],
        ["--no-notify", "--notify-desktop"],
        ["--worktree-dir", "/tmp"],
        ["--worktree-name", "../x"],
        ["--slot-wait", "soon"],
    ],
)
def test_what_cannot_be_meant(cli, daemon: FakeDaemon, options: list[str]) -> None:
    assert cli("start", "codex", *options, "do it").status == 2
    assert daemon.tasks == {}


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_a_worktree_that_stays_is_named(cli, daemon: FakeDaemon, status: Status) -> None:
    def act(task: FakeTask) -> None:
        task.finish(b"done", status)
        assert task.result is not None
        task.result.backend.worktree, task.result.backend.branch = "/trees/x", "holdfast/x"
        task.result.backend.worktree_kept = True

    daemon.on_create = act
    assert "worktree: /trees/x (branch holdfast/x)\n" in cli("run", "codex", "--worktree", "do it").err
