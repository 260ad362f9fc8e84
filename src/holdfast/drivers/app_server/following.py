"""The loop of a turn that goes on: what the server says, what we are told to do, and silence."""

from __future__ import annotations

import time

from holdfast.drivers.app_server.connection import Dropped, left
from holdfast.drivers.app_server.conversation import RpcError
from holdfast.drivers.app_server.ending import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.drivers.app_server.turn import Turn

#: For the confirmation that a turn was interrupted which was asked for, seconds.
INTERRUPT_WITHIN = 20.0


def follow(turn: Turn) -> None:
    """Until the turn is over.

    :raises Ended: it is
    :raises Dropped: the connection was lost, or what the server was to confirm was not confirmed
    """
    talk = turn.talk()
    silence = turn.order["answer_within"]
    while turn.ended is None:
        turn.commands.read()
        _carry_out(turn)
        now = time.monotonic()
        wait = silence
        if turn.stop_by is not None:
            if not turn.interrupted:
                turn.interrupted = True
                turn.marks.note_stop()
                for turn_id in (turn.turn_id, *turn.inner):
                    # Not waited for: 0.142.2 does not answer when there is nothing to interrupt.
                    talk.post("turn/interrupt", {"threadId": turn.thread_id, "turnId": turn_id})
            if left(turn.stop_by) == 0.0:
                _unconfirmed(turn)
                continue
            wait = left(turn.stop_by)
        elif talk.heard_at + silence <= now:
            try:
                talk.request("thread/loaded/list", {})
            except RpcError:
                # An older one does not know that. It answers, which is all that was in doubt.
                pass
            continue
        else:
            wait = talk.heard_at + silence - now
        if turn.ended is None:
            talk.wait(wait, also=turn.commands.descriptor)
    finish(turn, None)


def _unconfirmed(turn: Turn) -> None:
    """The server did not say in time that it interrupted the turn."""
    if turn.told_to_go:
        raise Dropped("the server did not confirm that the turn was interrupted")
    turn.stop_by, turn.interrupted = None, False
    for command in turn.commands.pending():
        if command.action == "interrupt":
            turn.commands.answer(command, "Codex did not confirm that it interrupted the turn")


def _carry_out(turn: Turn) -> None:
    for command in turn.commands.waiting():
        match command.action:
            case "steer" if command.id in turn.report.client_ids:
                turn.commands.answer(command, None)
            case "steer":
                try:
                    turn.talk().request(
                        "turn/steer",
                        {
                            "threadId": turn.thread_id,
                            "expectedTurnId": turn.turn_id,
                            "clientUserMessageId": command.id,
                            "input": [{"type": "text", "text": command.text, "text_elements": []}],
                        },
                    )
                    turn.commands.answer(command, None)
                except RpcError as error:
                    turn.commands.answer(command, error.message)
            case "decide":
                refusal = turn.questions.decide(turn.talk(), command.request_id, command.decision)
                turn.commands.answer(command, refusal)
            case _:
                command.under_way = True
                turn.stop_by = turn.stop_by or time.monotonic() + INTERRUPT_WITHIN
