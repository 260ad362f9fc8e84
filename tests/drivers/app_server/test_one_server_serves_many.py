"""One server for all who can share it, there when it is needed and gone when it is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.agents.adapter import Work
from holdfast.drivers.app_server.calls import ServerUnreachable, probe
from holdfast.drivers.app_server.servers import ServerFailed, SharedServers
from holdfast.host.port import ProcessState
from tests.drivers.app_server.rig import PATIENCE, Rig, Serving
from tests.model_server import ModelServer, Say

Make = Callable[[str], Rig]


async def gone(serving: Serving) -> None:
    """Wait until no server lives."""
    async with asyncio.timeout(PATIENCE):
        while await serving.pids():  # noqa: ASYNC110  (another process's end)
            await asyncio.sleep(0.05)


@pytest.mark.real_agent
async def test_eight_turns_at_once_cold_and_warm(rig: Rig, model_server: ModelServer) -> None:
    async with rig.hosting() as serving:

        async def one(number: int) -> str:
            launch = rig.launch(f"number {number}")
            assert launch.server is not None
            async with serving.servers.hold(launch.server):
                return (await rig.run(launch)).answer

        for _ in ("cold", "warm"):
            model_server.script(*[Say("Here.", delay=0.2) for _ in range(8)])
            assert await asyncio.gather(*map(one, range(8))) == ["Here."] * 8
            assert len(await serving.pids()) == 1
    assert len(model_server.main_requests) == 16


async def test_a_server_that_nobody_needs_ends(fake: Make) -> None:
    rig = fake("none")
    launch = rig.launch("hello")
    assert launch.server is not None
    async with rig.hosting(idle=0.1) as serving:
        async with serving.servers.hold(launch.server):
            probe(launch.server.socket)
        await gone(serving)
        with pytest.raises(ServerUnreachable):
            probe(launch.server.socket)
        # And is there again when somebody does.
        async with serving.servers.hold(launch.server):
            assert (await rig.run(launch)).answer == "You said: hello"


async def test_a_server_outlives_the_daemon_and_is_found_again(fake: Make) -> None:
    rig = fake("none")
    launch = rig.launch("hello")
    assert launch.server is not None
    async with rig.hosting() as first:
        async with first.servers.hold(launch.server):
            (pid,) = await first.pids()
        await first.servers.aclose()
        assert await first.pids() == [pid]
        async with rig.hosting() as second:
            assert await second.servers.adopt() == 1
            async with second.servers.hold(launch.server):
                assert await second.pids() == [pid]
                assert await second.servers.end_idle() == 0
            assert await second.servers.end_idle() == 1
            await gone(second)


async def test_who_left_in_need_is_waited_for(fake: Make) -> None:
    rig = fake("none")
    launch = rig.launch("hello")
    assert launch.server is not None
    shared = launch.server

    async def need(servers: SharedServers, held: asyncio.Event) -> None:
        async with servers.hold(shared):
            held.set()
            await asyncio.Event().wait()

    async with rig.hosting() as serving:
        held = asyncio.Event()
        holder = asyncio.create_task(need(serving.servers, held))
        await held.wait()
        assert await serving.servers.end_idle() == 0
        holder.cancel()
        await asyncio.wait({holder})
        assert await serving.servers.end_idle(spare=True) == 0
        # Nor by a daemon that does not know yet who needs it.
        second = SharedServers(serving.hosts)
        assert await second.end_idle(spare=True) == 0
        await second.aclose()
        assert len(await serving.pids()) == 1
        async with serving.servers.hold(shared):
            pass
        assert await serving.servers.end_idle(spare=True) == 1
        await gone(serving)


async def test_a_server_that_cannot_start_says_why(fake: Make) -> None:
    rig = fake("none")
    launch = rig.launch("hello")
    assert launch.server is not None
    socket = Path(launch.server.socket)
    async with rig.hosting() as serving:
        socket.parent.mkdir(mode=0o700)
        # Nothing can be bound where a directory is.
        (socket / "in the way").mkdir(parents=True)
        with pytest.raises(ServerFailed, match=r"Is a directory|Operation not permitted"):
            async with serving.servers.hold(launch.server):
                pytest.fail("it was held")
        states = {status.state for status in await (await serving.hosts.host()).list()}
        assert ProcessState.RUNNING not in states


def test_who_can_share_a_server_does(fake: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = fake("none")

    def key(**environment: str) -> str:
        work = Work(cwd=tmp_path, prompt_file=tmp_path / "prompt", work_id="w", pass_env=["MY_TOKEN"])
        launch = rig.agent.launch(rig.agent.find(rig.environment), work, {**rig.environment, **environment})
        assert launch.server is not None
        return launch.server.key

    plain = key()
    assert key(PWD="/", OLDPWD="/x", SHLVL="3", TERM="dumb", COLUMNS="7", SSH_TTY="x", TMUX_PANE="%1") == plain
    assert key(CODEX_SESSION_ID="x", HOLDFAST_TASK="y") == plain
    assert len({plain, key(CODEX_HOME=str(tmp_path)), key(MY_TOKEN="a"), key(MY_TOKEN="b"), key(LANG="C")}) == 5
    assert os.environ["HOLDFAST_STATE_DIR"] in str(rig.state)
