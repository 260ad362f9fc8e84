from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from holdfast.doctor.check import BlockingCheck, Check, Finding, Level, NothingToFix
from holdfast.doctor.report import Report, apply_fixes, diagnose
from holdfast.doctor.standard import standard_checks
from holdfast.errors import Unavailable


class Fixed(Check):
    """Finds what it is given."""

    title = "t"

    def __init__(self, id: str, finding: Finding | BaseException) -> None:
        self.id = id
        self.finding = finding
        self.fixes = 0

    async def run(self) -> Finding:
        if isinstance(self.finding, BaseException):
            raise self.finding
        return self.finding

    async def fix(self) -> None:
        self.fixes += 1
        raise OSError("disk on fire")


class Hanging(BlockingCheck):
    id = "hanging"
    title = "Hangs in a system call"
    timeout_s = 0.2

    def __init__(self) -> None:
        self.release = threading.Event()

    def look(self) -> Finding:
        self.release.wait(60)
        return Finding(level=Level.OK, summary="late")


async def test_a_hanging_or_broken_check_is_a_finding_and_hides_no_other() -> None:
    hanging = Hanging()
    checks = [
        Fixed("fine", Finding(level=Level.OK, summary="fine")),
        hanging,
        Fixed("broken", ZeroDivisionError("oops")),
        Fixed("typed", Unavailable("It is gone.", hint="Get it back.")),
        Fixed("also-fine", Finding(level=Level.INFO, summary="fine")),
    ]
    report = await diagnose(checks)
    hanging.release.set()
    levels = [(result.id, result.finding.level) for result in report.results]
    assert levels == [
        ("fine", Level.OK),
        ("hanging", Level.ERROR),
        ("broken", Level.ERROR),
        ("typed", Level.ERROR),
        ("also-fine", Level.INFO),
    ]
    assert (report.level, report.ok) == (Level.ERROR, False)
    assert "did not end within 0.2 s" in report.results[1].finding.summary
    assert "oops" in (report.results[2].finding.detail or "")
    assert (report.results[3].finding.summary, report.results[3].finding.hint) == ("It is gone.", "Get it back.")
    assert all(result.finding.hint for result in report.results if result.finding.level is Level.ERROR)


async def test_what_may_not_be_looked_at_is_no_fault_of_the_check() -> None:
    refused = Fixed("refused", PermissionError(13, "Permission denied", "/the/file"))
    finding = (await diagnose([refused])).results[0].finding
    assert finding.level is Level.ERROR
    assert finding.summary == "/the/file cannot be looked at: Permission denied."
    assert finding.hint
    assert "fault of Holdfast" not in finding.hint


def test_a_check_that_hangs_for_ever_does_not_keep_the_program_from_ending() -> None:
    source = """
import asyncio, time
from holdfast.doctor.check import BlockingCheck
from holdfast.doctor.report import diagnose
class Hanging(BlockingCheck):
    id, title, timeout_s = "hanging", "t", 0.1
    def look(self):
        time.sleep(3600)
print(asyncio.run(diagnose([Hanging()])).level)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("error\n", "")


async def test_checks_run_at_the_same_time() -> None:
    barrier = threading.Barrier(20)

    class Together(BlockingCheck):
        id = "together"
        title = "t"

        def look(self) -> Finding:
            barrier.wait(60)
            return Finding(level=Level.OK, summary="met the others")

    assert (await diagnose([Together() for _ in range(20)])).level is Level.OK


async def test_only_what_is_fixable_is_touched_and_a_fix_that_fails_is_told() -> None:
    fixable = Fixed("a", Finding(level=Level.WARNING, summary="w", hint="h", fixable=True))
    other = Fixed("b", Finding(level=Level.WARNING, summary="w", hint="h"))
    report = await diagnose([fixable, other])
    after = await apply_fixes([fixable, other], report)
    assert (fixable.fixes, other.fixes) == (1, 0)
    assert [(result.fix_tried, result.fix_error) for result in after.results] == [(True, "disk on fire"), (False, None)]
    with pytest.raises(NothingToFix):
        await Hanging().fix()


async def test_a_cancelled_diagnosis_ends_at_once() -> None:
    hanging = Hanging()
    running = asyncio.create_task(diagnose([hanging]))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    hanging.release.set()


async def test_the_standard_report_is_plain_data_and_every_check_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "config.toml"))
    environment = {"PATH": "/nonexistent", "HOME": str(tmp_path)}
    checks = standard_checks(tmp_path / "state", tmp_path, environment)
    assert len({check.id for check in checks}) == len(checks)
    report = await diagnose(checks)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert {result.id for result in report.results} >= {"state.directory", "agent.codex", "git.installed", "clock"}
    assert not (tmp_path / "state").exists()
    (tmp_path / "config.toml").write_text("[agents.x]\ncommand = 3\n")
    report = await diagnose(standard_checks(tmp_path / "state", tmp_path, environment))
    broken = next(result for result in report.results if result.id == "agents.configuration")
    assert broken.finding.level is Level.ERROR
    assert "config.toml" in broken.finding.summary
