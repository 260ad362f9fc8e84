"""The turn program: runs exactly one turn, or review, of an app-server, and may be started again at any time.

It first looks at what an earlier start has left (:mod:`.marks`) and what the server has on record (:mod:`.history`):
a turn that ended is reported, one that goes on is attached to, and only one that provably never began is begun.  Losing
the connection is treated in the same way.  What it writes to standard output is what the server says about the thread,
one JSON message per line, and lines of its own (``{"holdfast": ...}``) for what the protocol does not say;
:mod:`.dialect` understands both.

Exit status: 0 with the end of the turn written, 75 (as ``EX_TEMPFAIL``) when it is not known how the turn ended, 2 for
an order that makes no sense.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from holdfast import __version__
from holdfast.drivers.app_server import opening
from holdfast.drivers.app_server.connection import Connection, Dropped, StdioConnection, WebSocketConnection, left
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.ending import EX_OK, EX_USAGE, Ended, leave, lost, refused
from holdfast.drivers.app_server.following import follow
from holdfast.drivers.app_server.reconciliation import reconcile
from holdfast.drivers.app_server.report import say
from holdfast.drivers.app_server.turn import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.order import Order

#: Connections that were lost again without any sign of progress before it is given up.
MOST_DROPS = 8


def carry(turn: Turn) -> int:
    """Carry the turn to its end; the exit status."""
    given_up_at: float | None = None
    pause, drops = 0.02, 0
    while True:
        before, connected = turn.report.lines, False
        try:
            _connect(turn, given_up_at)
            connected, given_up_at = True, None
            reconcile(turn)
            follow(turn)
        except Ended as end:
            leave(turn)
            return end.status
        except Dropped as drop:
            turn.disconnect()
            if turn.report.lines > before:
                drops, pause = 0, 0.02
            drops += connected
            if given_up_at is None:
                given_up_at = time.monotonic() + turn.order["patience"]
                if turn.begun:
                    say("reconnecting", reason=str(drop))
            if turn.stop_by is not None:
                given_up_at = min(given_up_at, turn.stop_by)
            if left(given_up_at) == 0.0 or drops > MOST_DROPS:
                return lost(turn, str(drop))
            turn.sleep(min(pause, left(given_up_at)))
            pause = min(pause * 2, 1.0)


def _connect(turn: Turn, given_up_at: float | None) -> None:
    deadline = time.monotonic() + turn.order["answer_within"]
    if given_up_at is not None:
        deadline = min(deadline, given_up_at)
    connection: Connection
    if turn.order["socket"] is not None:
        connection = WebSocketConnection(turn.order["socket"], deadline)
    else:
        connection = StdioConnection(turn.order["command"], os.environ)
    conversation = turn.conversation = Conversation(
        connection, turn.hear, wakeup=turn.wakeup, answer_within=turn.order["answer_within"]
    )
    conversation.hurry = turn.stop_by if turn.told_to_go else None
    try:
        conversation.open(__version__)
    except RpcError as error:
        raise refused(error) from None


def main(arguments: list[str]) -> int:
    """Carry out the order in the only argument; the exit status."""
    try:
        order: Order = json.loads(arguments[1])
        prompt_file = order["prompt_file"]
    except (IndexError, ValueError, KeyError, TypeError):
        print("usage: program.py ORDER (one JSON object)", file=sys.stderr)
        return EX_USAGE
    if order.get("version") != __version__:
        # Whoever gave the order may take one of our lines for something else.
        message = (
            f"Holdfast {__version__} was installed while the daemon of {order.get('version', 'another version')} ran. "
            "Run 'holdfast down'; the next command starts the new one."
        )
        say("failed", failure="internal", message=message, begun=False)
        return EX_OK
    is_used = order["review"] is None or order["review"]["type"] == "custom"
    try:
        prompt = opening.read_prompt(prompt_file) if is_used else ""
    except ValueError as error:
        say("failed", failure="bad_request", message=str(error), begun=False)
        return EX_OK
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    turn = Turn(order, prompt, reader)

    def stop(number: int, frame: object) -> None:
        turn.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    return carry(turn)
