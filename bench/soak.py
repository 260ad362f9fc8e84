"""The promises of the host at sizes that a test run has no time for.

    python -m bench.soak                       all of it, about a quarter of an hour on two cores
    python -m bench.soak --kills 2000          only that, at that size
    python -m bench.soak --starts 10000 --bytes 1000000000 --live 1000 --connections 200

Each line says what was promised, whether it was kept, and the numbers.  The exit status is 0 if every promise was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.host import promises
from tests.host.promises import Numbers

#: Hosts that are killed side by side: one alone is given a pause when it dies too often.
_SIDE_BY_SIDE = 8

Promise = tuple[str, Callable[[Path], Awaitable[Numbers]]]


def fresh(directory: Path, name: str) -> Path:
    state = directory / name
    state.mkdir(mode=0o700)
    return state


async def side_by_side(directory: Path, total: int, one: Callable[[Path, int, int], Awaitable[Numbers]]) -> Numbers:
    """Share *total* kills among hosts; returns the sums."""
    shares = [total // _SIDE_BY_SIDE + (each < total % _SIDE_BY_SIDE) for each in range(_SIDE_BY_SIDE)]
    results = await asyncio.gather(
        *(one(fresh(directory, str(each)), share, each) for each, share in enumerate(shares) if share)
    )
    sums: Numbers = {}
    for result in results:
        for name, value in result.items():
            sums[name] = sums.get(name, 0) + value
    return sums


def killed_counters(kills: int, seed: int) -> Callable[[Path], Awaitable[Numbers]]:
    def one(state: Path, share: int, each: int) -> Awaitable[Numbers]:
        return promises.counting_survives_kills(state, tty=each % 2 == 0, kills=share, seed=seed + each)

    return lambda directory: side_by_side(directory, kills, one)


def killed_pourers(kills: int, seed: int) -> Callable[[Path], Awaitable[Numbers]]:
    def one(state: Path, share: int, each: int) -> Awaitable[Numbers]:
        return promises.pouring_survives_kills(state, tty=each % 2 == 0, kills=share, seed=seed + each)

    return lambda directory: side_by_side(directory, kills, one)


def killed_starts(kills: int, seed: int) -> Callable[[Path], Awaitable[Numbers]]:
    def one(state: Path, share: int, each: int) -> Awaitable[Numbers]:
        return promises.starts_survive_kills(state, kills=share, seed=seed + each)

    return lambda directory: side_by_side(directory, kills, one)


def killed_keepers(keepers: int, seed: int) -> Callable[[Path], Awaitable[Numbers]]:
    async def run(directory: Path) -> Numbers:
        total = 0
        for first in range(0, keepers, 4):
            several = range(first, min(keepers, first + 4))
            await asyncio.gather(
                *(
                    promises.output_survives_a_keeper(
                        fresh(directory, str(each)), tty=each % 2 == 0, pours=each % 4 > 1, kills=2, seed=seed + each
                    )
                    for each in several
                )
            )
            total += len(several)
        return {"keepers": total, "kills": 2 * total}

    return run


def wanted(options: argparse.Namespace) -> list[Promise]:
    """What to prove: what was named, else everything at its usual size."""
    given = {name: getattr(options, name) for name in ("kills", "keepers", "starts", "parallel", "bytes", "live")}
    usual = {"kills": 1000, "keepers": 20, "starts": 10_000, "parallel": 500, "bytes": 1_000_000_000, "live": 1000}
    size = given if any(given.values()) else usual
    made: list[Promise] = []
    if kills := size["kills"]:
        made += [
            ("every byte of a counter once and in order, and its exit status", killed_counters(kills, options.seed)),
            ("every byte of what pours once and in order", killed_pourers(max(8, kills // 2), options.seed)),
            ("every start once, with its output and exit status", killed_starts(max(8, kills // 2), options.seed)),
        ]
    if keepers := size["keepers"]:
        made.append(("the death of a keeper and of servers after it", killed_keepers(keepers, options.seed)))
    if count := size["bytes"]:
        made += [
            ("binary output through pipes", lambda d: promises.binary_output_is_exact(d, size=count, tty=False)),
            ("binary output of a terminal", lambda d: promises.binary_output_is_exact(d, size=count // 5, tty=True)),
        ]
    if starts := size["starts"]:
        made.append(("starts leave nothing behind", lambda d: promises.starts_leave_nothing(d, count=starts)))
    if parallel := size["parallel"]:
        made.append(("starts at once", lambda d: promises.parallel_starts(d, count=parallel)))
    if live := size["live"]:
        connections = options.connections
        made.append(
            ("live processes", lambda d: promises.many_at_once(d, processes=live, connections=connections)),
        )
    return made


def prove(name: str, run: Callable[[Path], Awaitable[Numbers]]) -> bool:
    """Run one promise in a fresh directory and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-soak-") as scratch:
        began = time.monotonic()
        try:
            numbers = asyncio.run(_in(run, fresh(Path(scratch), "state")))
        except Exception:
            print(f"BROKEN  {name}", flush=True)
            traceback.print_exc()
            for log in Path(scratch).rglob("*.stderr"):
                sys.stderr.write(log.read_text())
            return False
    told = ", ".join(f"{value:,} {unit}" for unit, value in numbers.items())
    print(f"kept    {name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
    return True


async def _in(run: Callable[[Path], Awaitable[Numbers]], directory: Path) -> Numbers:
    return await run(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, metavar="N", help="kills of servers, half as many below starts")
    parser.add_argument("--keepers", type=int, metavar="N", help="kills of keepers")
    parser.add_argument("--starts", type=int, metavar="N", help="processes one after the other")
    parser.add_argument("--parallel", type=int, metavar="N", help="starts that come at once")
    parser.add_argument("--bytes", type=int, metavar="N", help="output; a fifth of it through a terminal")
    parser.add_argument("--live", type=int, metavar="N", help="processes that live at once")
    parser.add_argument("--connections", type=int, metavar="N", default=200, help="connections to them (default 200)")
    parser.add_argument("--seed", type=int, metavar="N", default=int(time.time()), help="of the random moments")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    kept = [prove(name, run) for name, run in wanted(options)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
