"""R45: how a request falls over from one model of its route to the next."""

import asyncio
from typing import Any

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from fareclass.flow.routing import Way
from fareclass.flow.seat import Seat, move_elsewhere
from fareclass.policy.routes import Pick
from fareclass.sched.ticket import Ticket


def refusal(outcome: Outcome = Outcome.SHED, retry_ms: int | None = None) -> Refusal:
    return Refusal(outcome, "no", retry_after_ms=retry_ms)


def way(*names: str) -> Way:
    return Way("smart", [Pick(name) for name in names], 0.0)


def test_r45_each_model_is_tried_once_in_order() -> None:
    tried = way("a", "b", "c")
    assert tried.pick.model == "a"
    assert not tried.ends(refusal(), began=False)
    assert tried.pick.model == "b" and not tried.last
    assert not tried.ends(refusal(), began=False)
    assert tried.pick.model == "c" and tried.last
    assert tried.ends(refusal(), began=False)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_r45_once_it_ran_only_trouble_of_the_pools_moves_it(outcome: Outcome) -> None:
    moves = {Outcome.SHED, Outcome.EXPIRED, Outcome.UPSTREAM_FAILED}
    assert way("a", "b").ends(refusal(outcome), began=True) is (outcome not in moves)
    assert not way("a", "b").ends(refusal(outcome), began=False)


@pytest.mark.parametrize(
    ("first", "second", "told"), [(2_000, 9_000, 2_000), (9_000, 2_000, 2_000), (3_000, None, 3_000)]
)
def test_r14_r45_the_last_refusal_says_when_the_first_of_them_can_serve(
    first: int | None, second: int | None, told: int
) -> None:
    tried, last = way("a", "b"), refusal(Outcome.THROTTLED, second)
    tried.ends(refusal(retry_ms=first), began=False)
    assert tried.ends(last, began=False)
    assert last.retry_after_ms == told


async def test_r45_r46_who_waits_for_a_pool_without_replicas_moves_on() -> None:
    """If another model may serve, and nothing was sent."""

    def seated(*, elsewhere: bool, sent: bool = False, **fields: Any) -> Seat:
        seat = Seat(Ticket("req", "proj", Tier.DEFAULT, prompt_tokens=1))
        seat.elsewhere, seat.ticket.sent = elsewhere, sent
        for name, value in fields.items():
            setattr(seat, name, value)
        return seat

    waits, begun = seated(elsewhere=True), seated(elsewhere=True, sent=True)
    alone, runs = seated(elsewhere=False), seated(elsewhere=True, replica="r1")
    move_elsewhere([waits, begun, alone, runs], ready=True)
    assert not waits.decided
    move_elsewhere([waits, begun, alone, runs], ready=False)
    assert [seat.refused is not None for seat in (waits, begun, alone, runs)] == [True, False, False, False]
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(waits.turn(), 1)
    assert caught.value.outcome is Outcome.SHED
