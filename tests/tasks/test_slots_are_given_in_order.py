"""At most so many tasks work at once, and they come in the order in which they were accepted."""

from __future__ import annotations

from holdfast.errors import InvalidRequest
from holdfast.tasks.slots import SlotLimits, Slots


async def test_first_come_first_served() -> None:
    slots = Slots(lambda: SlotLimits(total=1))
    first, second, third = (slots.enter(name, "codex") for name in ("first", "second", "third"))
    assert first.granted.is_set() and not second.granted.is_set() and not third.granted.is_set()
    assert [slots.before(name) for name in ("first", "second", "third")] == [None, 0, 1]
    slots.leave(first)
    slots.leave(first)
    assert second.granted.is_set() and not third.granted.is_set()
    slots.leave(third)
    slots.leave(second)
    assert slots.enter("fourth", "codex").granted.is_set()


async def test_an_agent_without_a_free_slot_lets_others_pass() -> None:
    slots = Slots(lambda: SlotLimits(total=2, agents={"codex": 1}))
    slots.enter("first", "codex")
    second, third = slots.enter("second", "codex"), slots.enter("third", "claude")
    assert not second.granted.is_set() and third.granted.is_set()
    slots.leave(third)
    assert not second.granted.is_set()


async def test_what_is_at_work_goes_on_whatever_the_bounds_are() -> None:
    limit = 1
    slots = Slots(lambda: SlotLimits(total=limit))
    tickets = [slots.enter(str(number), "codex", at_work=True) for number in range(3)]
    assert all(ticket.granted.is_set() for ticket in tickets)
    waiting = slots.enter("waiting", "codex")
    slots.leave(tickets[0])
    slots.leave(tickets[1])
    assert not waiting.granted.is_set()
    limit = 2
    slots.enter("another", "codex")
    assert waiting.granted.is_set(), "a changed bound needs no restart"


async def test_a_broken_configuration_stops_nobody() -> None:
    def broken() -> SlotLimits:
        raise InvalidRequest("broken")

    assert Slots(broken).enter("first", "codex").granted.is_set()


async def test_what_is_asked_for_from_within_a_task_does_not_wait_for_its_asker() -> None:
    slots = Slots(lambda: SlotLimits(total=1, agents={"codex": 1}))
    asker = slots.enter("asker", "codex")
    nested = [slots.enter(f"nested {number}", "codex", nested=True) for number in range(5)]
    assert [ticket.granted.is_set() for ticket in nested] == [True] * 4 + [False]
    other = slots.enter("other", "codex")
    slots.leave(nested[0])
    assert nested[4].granted.is_set() and not other.granted.is_set()
    slots.leave(asker)
    assert other.granted.is_set()
