"""R45: how a request falls over from one model of its route to the next."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from fareclass.flow.routing import Last, Way
from fareclass.flow.seat import Seat, call_to, move_elsewhere
from fareclass.policy.routes import Pick
from fareclass.sched.ticket import Ticket


def refusal(outcome: Outcome = Outcome.SHED, retry_ms: int | None = None) -> Refusal:
    return Refusal(outcome, "no", retry_after_ms=retry_ms)


def hopeless() -> Refusal:
    return Refusal(Outcome.THROTTLED, "larger than its quota", retry=False)


def way(*names: str) -> Way:
    return Way("smart", [Pick(name) for name in names], Last(), names)


def production(seat: Seat) -> Any:
    return SimpleNamespace(seat=seat, served=SimpleNamespace())


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


@pytest.mark.parametrize("last", [refusal(Outcome.FORBIDDEN), refusal(Outcome.INVALID), hopeless()])
def test_r14_r45_where_waiting_can_t_help_no_time_is_told(last: Refusal) -> None:
    tried = way("a", "b")
    tried.ends(refusal(retry_ms=2_000), began=False)
    assert tried.ends(last, began=False)
    assert last.retry_after_ms is None


async def test_r14_r45_only_the_time_in_lines_counts() -> None:
    """Ran for 15 s on one model after 2 s in line, and 1 s in line again when it was moved: 3 s are gone of its limit."""
    seat = Seat(Ticket("req", "proj", Tier.DEFAULT, prompt_tokens=1))
    assert seat.waited_s(None, 117.0) == 0, "not offered yet"
    seat.ticket.seq, seat.ticket.arrival = 1, 100.0
    assert seat.waited_s(None, 101.5) == 1.5
    seat.breaks = [("restart", 105.0, 105.75), ("failover", 117.75, math.inf)]
    assert seat.waited_s(102.0, 118.0) == 3.0
    tried = way("a", "b", "c")
    tried.mark(production(seat), 10.0, 100.0)
    assert seat.ticket.deadline is None
    for waited_s, now_s, due_s in ((3.0, 118.0, 125.0), (9.0, 130.0, 130.0)):
        tried.waited_s += waited_s
        tried.ends(refusal(), began=True)
        following = Seat(Ticket("req", "proj", Tier.DEFAULT, prompt_tokens=1))
        tried.mark(production(following), 10.0, now_s)
        assert following.ticket.deadline == due_s


async def test_r45_what_is_tried_first_is_remembered_and_nothing_before() -> None:
    seat, last = Seat(Ticket("req", "proj", Tier.DEFAULT, prompt_tokens=1)), Last()
    tried = Way("smart", [Pick("a"), Pick("b")], last, ["a", "b"])
    assert last == Last()
    tried.mark(production(seat), 10.0, 5.0)
    tried.ends(refusal(), began=False)
    tried.mark(production(seat), 10.0, 6.0)
    assert last == Last("a", 5.0)


async def test_r45_who_waits_for_want_of_a_better_one_goes_to_the_first_that_is_up() -> None:
    """And then has all others before it once more."""
    tried = way("a", "b")
    tried.ends(refusal(), began=False)
    seat = Seat(Ticket("req", "proj", Tier.FLEX, prompt_tokens=1))
    tried.mark(production(seat), 10.0, 0.0)
    call_to("c", [seat])
    assert not seat.decided, "no model of its route"
    call_to("a", [seat])
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(seat.turn(), 1)
    assert not tried.ends(caught.value, began=False, called=seat.called)
    assert tried.pick.model == "a" and not tried.last
    assert not tried.ends(refusal(), began=False)
    assert tried.pick.model == "b" and tried.last


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
