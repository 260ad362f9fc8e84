"""Starts find their directories made: a burst makes the stock larger, and what is used again is as good as new."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from holdfast.directories import InsecureDirectory
from holdfast.host.description import Started
from holdfast.host.log_format import EntryKind
from holdfast.host.os_process import start_time
from holdfast.host.place import Nursery, recycle_place
from holdfast.host.places import Places

from .harness import RunningServer, WireClient
from .promises import eventually


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    directory = tmp_path / "processes"
    directory.mkdir()
    return directory


def written_down(state: Path) -> list[tuple[int, int]]:
    """Pid and start time of every process, from the second lines of their descriptions."""
    found: list[tuple[int, int]] = []
    for description in state.glob("processes/*/process"):
        lines = description.read_bytes().splitlines()
        if len(lines) == 2:
            started = msgspec.json.decode(lines[1], type=Started)
            found.append((started.pid, started.started))
    return found


async def test_every_place_is_empty_and_another_one(tmp_path: Path, processes: Path) -> None:
    places = Places(tmp_path, str(processes), "instance")
    taken = [places.take() for _ in range(40)]
    places.replenish()
    taken += [places.take() for _ in range(40)]
    assert len({place.directory for place in taken}) == 80
    for place in taken:
        assert sorted(os.listdir(place.directory)) == ["index", "process"]
        assert place.log.last_seq == 0
        place.discard()
    await places.close()
    assert os.listdir(tmp_path) == ["processes"]
    assert os.listdir(processes) == []


async def test_after_a_burst_there_are_more_of_them(tmp_path: Path, processes: Path) -> None:
    places = Places(tmp_path, str(processes), "instance")
    for _ in range(20):
        places.take().discard()
        places.replenish()
    await eventually(lambda: len(os.listdir(processes)) >= 16, "no more places than before")
    await places.close()
    assert os.listdir(processes) == []


async def test_a_place_that_was_given_back_is_as_good_as_new(tmp_path: Path, processes: Path) -> None:
    places = Places(tmp_path, str(processes), "instance")
    place = places.take()
    os.write(place.record, b"{}\n")
    place.log.append(EntryKind.STDOUT, b"old")
    os.close(place.record)
    place.log.close()
    await places.give_back([place.directory])
    assert os.path.basename(place.directory) not in os.listdir(processes)
    again = places.take()
    assert again.directory != place.directory
    assert sorted(os.listdir(again.directory)) == ["index", "process"]
    assert os.stat(f"{again.directory}/process").st_size == 0
    assert again.log.last_seq == 0
    assert again.log.entries(0, 10) == []
    again.log.append(EntryKind.STDOUT, b"new")
    assert [again.log.data(entry) for entry in again.log.entries(0, 10)] == [b"new"]
    again.discard()
    await places.close()
    assert os.listdir(processes) == []


def test_what_is_in_the_way_keeps_a_directory_from_being_used_again(tmp_path: Path) -> None:
    directory = tmp_path / "one"
    (directory / "unexpected").mkdir(parents=True)
    for name in ("process", "index"):
        (directory / name).write_bytes(b"old")
    assert not recycle_place(str(directory), str(tmp_path / "two"))
    # It can be taken neither for a process nor for a place.
    assert (directory / "process").read_bytes() == b""
    assert not (tmp_path / "two").exists()


async def test_the_start_time_that_is_written_down_is_that_of_the_operating_system(
    host: RunningServer, state: Path
) -> None:
    client = await WireClient.connect(host.url)
    for number in range(30):
        await client.start(f"p{number}", "/bin/sleep", "1000")
    found = written_down(state)
    assert len(found) == 30
    for pid, ticks in found:
        assert start_time(pid) == ticks
    for number in range(30):
        await client.result("process/terminate", {"processId": f"p{number}"})
        await client.until_closed(f"p{number}")
    await client.close()


def test_a_part_of_the_disk_that_has_become_slow_is_left(tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    nursery = Nursery(tmp_path)

    def where() -> str:
        nursery.make_directory(f"{tmp_path}/processes/{len(os.listdir(tmp_path / 'processes'))}")
        (name,) = os.listdir(tmp_path / "nurseries")
        return name

    first = where()
    for _ in range(15):
        nursery.took(1.0)
    # One that was quick again: it was somebody else who kept the machine busy.
    nursery.took(0.00001)
    for _ in range(15):
        nursery.took(1.0)
    assert where() == first
    nursery.took(1.0)
    second = where()
    assert second != first
    assert where() == second
    nursery.close()


def test_what_is_in_the_way_of_the_nursery_is_in_the_way_of_starts_only(tmp_path: Path) -> None:
    (tmp_path / "nurseries").write_text("x")
    # As each server does that takes over.
    nursery = Nursery(tmp_path)
    for _ in range(2):
        with pytest.raises(InsecureDirectory, match="nurseries is not a directory"):
            nursery.make_directory(f"{tmp_path}/place")
    (tmp_path / "nurseries").unlink()
    nursery.make_directory(f"{tmp_path}/place")
    assert os.listdir(tmp_path / "place") == []
    nursery.close()


async def test_a_place_that_somebody_tidied_up_is_passed_over(tmp_path: Path, processes: Path) -> None:
    places = Places(tmp_path, str(processes), "instance")
    places.replenish()
    await eventually(lambda: len(os.listdir(processes)) > 1, "some are made")
    first, *_ = sorted(os.listdir(processes), key=lambda name: int(name.rpartition("-")[2]))
    (processes / first / "process").unlink()
    place = places.take()
    assert Path(place.directory).name != first
    assert not (processes / first).exists()
    place.discard()
    await places.close()
