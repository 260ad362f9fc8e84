"""However a stream of events is cut, doubled, mixed up or spoiled: ``ok`` needs an answer and an undisputed end."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.host.dummy import DummyProcess
from holdfast.store.store import Store
from holdfast.tasks.result import EXIT_CODES, Result, Status
from holdfast.tasks.service import TaskService
from tests.tasks.conftest import ENVIRONMENT, PATIENCE, Bench, say, succeed

THREAD = '{"event":"thread_started","thread_id":"thread-1"}'
TOOL = '{"event":"tool_started","item_id":"1","tool":"command","title":"make"}'
TOOL_END = '{"event":"tool_ended","item_id":"1","failed":false}'
MESSAGE = '{"event":"message","text":"all done"}'
BLANK = '{"event":"message","text":"  "}'
SUCCESS = '{"event":"turn_completed"}'
FAILURE = '{"event":"turn_failed","failure":{"class":"overloaded","message":"try later"}}'
SPOILED = ['{"event":"turn_comp', '{"event":"turn_completed"', "null", "[]", '{"event":"future"}', '"turn_completed"']

#: Streams that are orderly, and what may become of each line of one.
ORDERLY = [THREAD, TOOL, TOOL_END, MESSAGE, SUCCESS]
STREAMS = st.lists(st.sampled_from([*ORDERLY, *ORDERLY, BLANK, FAILURE, *SPOILED]), max_size=8)


async def run(directory: Path, lines: list[str], exit_code: int) -> Result:
    bench = Bench(directory)

    def act(process: DummyProcess) -> None:
        say(process, *lines)
        process.finish(exit_code)

    bench.script(act)
    request = bench.request()
    async with await Store.open(bench.directory / "holdfast.db") as store:
        service = await bench.service(store)
        await service.accept(request, b"do it", {"PATH": "/bin"})
        await service.wait(request.task_id, PATIENCE)
        result = await service.result(request.task_id)
        await service.aclose()
    return result


@settings(max_examples=60, deadline=None)
@given(lines=STREAMS, exit_code=st.sampled_from([0, 0, 0, 1]))
def test_r17_ok_only_with_an_answer_and_an_undisputed_end(lines: list[str], exit_code: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(asyncio.wait_for(run(Path(directory), lines, exit_code), PATIENCE))
    deserved = exit_code == 0 and SUCCESS in lines and FAILURE not in lines
    # The last message before the end is the answer.
    messages = [line for line in lines if line in (MESSAGE, BLANK)]
    answered = bool(messages) and messages[-1] == MESSAGE
    assert result.ok == (deserved and answered), (lines, result.status)
    assert (EXIT_CODES[result.status] == 0) == result.ok
    if not result.ok:
        assert result.error is not None
        assert result.error.message
    if messages:
        assert result.message.text == ("all done" if answered else "  ")


async def test_an_answer_without_its_file_is_where_it_is_said_to_be(service: TaskService, bench: Bench) -> None:
    directory = bench.directory.parent / "out"
    directory.mkdir()

    def act(process: DummyProcess) -> None:
        directory.rmdir()
        succeed(process)

    bench.script(act)
    request = bench.request(output_file=str(directory / "answer"))
    await service.accept(request, b"do it", ENVIRONMENT)
    await service.wait(request.task_id, PATIENCE)
    result = await service.result(request.task_id)
    assert result.status is Status.FAILED
    assert result.error is not None
    assert [remedy.argv for remedy in result.error.remedy] == [
        ["holdfast", "result", request.task_id, "--field", "message"]
    ]
