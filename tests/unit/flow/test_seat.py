"""How the scheduler's decisions reach a request's task, whatever it is waiting for (R11, R15)."""

import asyncio

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from fareclass.engine.base import EngineFailed
from fareclass.flow.seat import Interrupted, Seat
from fareclass.sched.ticket import Refuse, Ticket


def a_seat() -> Seat:
    return Seat(Ticket("t", "p", Tier.FLEX, prompt_tokens=1))


def yes() -> bool:
    return True


async def test_a_turn_comes_when_the_ticket_starts() -> None:
    seat = a_seat()
    asyncio.get_running_loop().call_soon(seat.started, "r0")
    assert await seat.turn() == "r0"
    assert await seat.turn() == "r0", "and stays"


async def test_a_refusal_ends_the_wait() -> None:
    seat = a_seat()
    refuse = Refuse(seat.ticket, Outcome.EXPIRED, "too long", 1.5, "resource_unavailable")
    asyncio.get_running_loop().call_soon(seat.out, refuse)
    with pytest.raises(Refusal) as caught:
        await seat.turn()
    assert (caught.value.outcome, caught.value.retry_after_ms) == (Outcome.EXPIRED, 1500)


async def test_a_slot_taken_back_before_the_task_woke_up_means_waiting_on() -> None:
    """R11: started and restarted in one step of the scheduler."""
    seat, loop = a_seat(), asyncio.get_running_loop()

    def twice() -> None:
        seat.started("r0")
        seat.vacate()
        loop.call_soon(seat.started, "r1")

    loop.call_soon(twice)
    assert await seat.turn() == "r1"


async def test_an_interrupt_reaches_the_await_in_the_call_and_nothing_after_it() -> None:
    seat = a_seat()
    seat.started("r0")
    asyncio.get_running_loop().call_soon(seat.vacate)
    with pytest.raises(Interrupted):
        async with seat.call(yes):
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_pause_cuts_at_once_where_it_may_and_else_only_asks() -> None:
    for may_cut in (yes, lambda: False):
        seat, done = a_seat(), asyncio.Event()
        seat.started("r0")
        loop = asyncio.get_running_loop()
        loop.call_soon(seat.pause)
        loop.call_soon(done.set)
        cut = False
        try:
            async with seat.call(may_cut):
                await done.wait()
        except Interrupted:
            cut = True
        assert cut is may_cut()
        assert seat.pause_due


async def test_a_call_that_ends_in_the_same_step_as_its_interrupt_has_ended_well() -> None:
    """The answer is whole: throwing it away would waste it. And the cancellation must not hit somebody else's await."""
    seat = a_seat()
    seat.started("r0")
    async with seat.call(yes):
        seat.vacate()
    await asyncio.sleep(0)


async def test_a_hang_up_beside_an_interrupt_is_a_hang_up() -> None:
    """R15: the caller who has gone is not put back in line."""

    async def request() -> None:
        seat = a_seat()
        seat.started("r0")
        loop = asyncio.get_running_loop()
        loop.call_soon(seat.vacate)
        loop.call_soon(seat.task.cancel)
        async with seat.call(yes):
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failure_of_the_engine_at_the_same_time_is_not_reported_twice() -> None:
    """The scheduler has taken the slot already: the replica's failure has nothing left to move."""
    seat = a_seat()
    seat.started("r0")

    async def call() -> None:
        async with seat.call(yes):
            seat.vacate()
            raise EngineFailed("broken", "the connection was closed")

    with pytest.raises(Interrupted):
        await call()
