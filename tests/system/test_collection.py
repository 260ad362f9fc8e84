"""``holdfast gc`` with a daemon and a host of its own: what it says is gone is gone, on disk too."""

from __future__ import annotations

from tests.system.conftest import Installation


def test_old_tasks_go_with_everything_that_was_kept_for_them(installation: Installation) -> None:
    for number in range(3):
        assert installation.run("run", "rehearsal", f"rehearse: say {number}").stdout == str(number).encode()
    newest, *older = [task["id"] for task in installation.json("list")["tasks"]]
    options = ("--older-than", "0.01s", "--keep", "1")
    would = installation.json("gc", "--dry-run", *options)
    assert (would["tasks"], would["processes"]) == (older[::-1], 2)
    assert would["bytes"] == would["log_bytes"] + would["file_bytes"] > 0
    told = installation.run("gc", *options)
    assert told.returncode == 0
    assert f"2: {older[1]}, {older[0]}" in told.stdout.decode()
    assert [task["id"] for task in installation.json("list")["tasks"]] == [newest]
    assert [path.name for path in (installation.state / "tasks").iterdir()] == [newest]
    described = (path.read_bytes() for path in (installation.state / "host" / "processes").glob("*/process"))
    assert len([text for text in described if text]) == 1
    assert installation.run("result", older[0]).returncode == 2
    assert installation.run("result", newest).stdout == b"2"
    nothing = installation.run("gc")
    assert (nothing.returncode, b"none" in nothing.stdout) == (0, True)
    mistake = installation.run("gc", "--older-than", "yesterday")
    assert mistake.returncode == 2
