"""Running checks, mending what they found, and the report of both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from holdfast import __version__
from holdfast.clock import isoformat, monotonic, wall
from holdfast.doctor.check import Check, Finding, Level
from holdfast.errors import HoldfastError

_ORDER = (Level.OK, Level.INFO, Level.WARNING, Level.ERROR)


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check and what it found."""

    id: str
    title: str
    finding: Finding
    #: How long it took.
    duration_ms: int
    #: After ``apply_fixes``: whether mending was tried, and if it failed why.
    fix_tried: bool = False
    fix_error: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What all checks found; plain data, as ``holdfast doctor --json`` prints it."""

    schema: str = "holdfast.doctor/1"
    version: str
    #: RFC 3339, UTC.
    created: str
    #: The worst of all levels.
    level: Level
    results: list[CheckResult]

    @property
    def ok(self) -> bool:
        """Nothing is broken (there may be warnings)."""
        return self.level is not Level.ERROR


async def diagnose(checks: Sequence[Check]) -> Report:
    """Run all *checks* at the same time; one that fails, or hangs, is a finding like any other."""
    return _report(list(await asyncio.gather(*(_run(check) for check in checks))))


async def apply_fixes(checks: Sequence[Check], report: Report) -> Report:
    """Mend what *report* calls fixable, one after the other, and look at those again.

    With nothing fixable in the report nothing is touched, so doing it again is harmless.
    """
    by_id = {check.id: check for check in checks}
    results: list[CheckResult] = []
    for result in report.results:
        check = by_id.get(result.id)
        if check is None or not result.finding.fixable:
            results.append(result)
            continue
        fix_error: str | None = None
        try:
            async with asyncio.timeout(check.timeout_s):
                await check.fix()
        except TimeoutError:
            fix_error = f"Mending did not end within {check.timeout_s:g} s."
        except (HoldfastError, OSError) as error:
            fix_error = str(error)
        again = await _run(check)
        results.append(msgspec.structs.replace(again, fix_tried=True, fix_error=fix_error))
    return _report(results)


def _report(results: list[CheckResult]) -> Report:
    level = max((result.finding.level for result in results), key=_ORDER.index, default=Level.OK)
    return Report(version=__version__, created=isoformat(wall()), level=level, results=results)


async def _run(check: Check) -> CheckResult:
    started = monotonic()
    try:
        async with asyncio.timeout(check.timeout_s):
            finding = await check.run()
    except TimeoutError:
        finding = Finding(
            level=Level.ERROR,
            summary=f"The check did not end within {check.timeout_s:g} s.",
            hint="Something that it needs (a file system, a program) hangs; look at that, then run it again.",
        )
    except HoldfastError as error:
        finding = Finding(level=Level.ERROR, summary=error.message, hint=error.hint or "See the message.")
    except OSError as error:
        # Not a fault of the check: it may not look at what it has to, or that is not what it should be.
        finding = Finding(
            level=Level.ERROR,
            summary=f"{error.filename or 'Something that is needed'} cannot be looked at: {error.strerror or error}.",
            hint="Mend that, or let your account look there; then run it again.",
        )
    except Exception as error:  # a check that breaks must not hide what the others found
        finding = Finding(
            level=Level.ERROR,
            summary="The check itself failed.",
            detail=f"{type(error).__name__}: {error}",
            hint="Report this as a fault of Holdfast, with the detail.",
        )
    return CheckResult(
        id=check.id, title=check.title, finding=finding, duration_ms=round((monotonic() - started) * 1000)
    )
