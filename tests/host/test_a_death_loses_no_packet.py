"""What keeper and server had sent when they were killed arrives, even if they had not read what the other one sent."""

from __future__ import annotations

import os
import socket

from holdfast.host.estate import Estate
from holdfast.host.keeper import Keeper
from holdfast.host.keeping import KeeperLink
from holdfast.host.packets import send


def test_what_a_killed_keeper_handed_over_is_taken() -> None:
    keeper, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with server:
        null = os.open(os.devnull, os.O_RDONLY)
        send(keeper, ["hold", "place/stdout"], [null])
        send(keeper, ["children", "12"])
        send(keeper, ["children", "13"])
        send(keeper, ["handed", "outlived"])
        link = KeeperLink(server)
        link.entrust(Estate(null, null, "unix:///s", "/s", False, []))
        keeper.close()
        held, children = link.take_over()
        assert os.fstat(held["place"]["stdout"]) == os.fstat(null)
        assert not os.get_inheritable(held["place"]["stdout"])
        assert children == [12, 13]
        assert link.outlived
        os.close(null)
        os.close(held["place"]["stdout"])


def test_what_a_killed_server_let_the_keeper_hold_is_held() -> None:
    words = ["--root=a\udcffb", "idle_exit=3"]

    def serve(channel: int, estate: Estate | None, announce: bool) -> int:
        if estate is None:
            assert announce
            link = KeeperLink(socket.socket(fileno=channel))
            # The keeper's first packet is not read.
            link.entrust(Estate(0, 1, "unix:///s", "/s", False, words))
            link.hold({"place": {"stdout": 2}})
            link.ready()
            os.kill(os.getpid(), 9)
        link = KeeperLink(socket.socket(fileno=channel))
        held, _ = link.take_over()
        link.leave()
        good = estate is not None and estate.words() == ["unix:///s", "/s", "", *words] and not announce
        return 7 if good and link.outlived and list(held) == ["place"] and list(held["place"]) == ["stdout"] else 8

    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            status = Keeper(serve).run()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
