"""What a reservation costs: against a slow reference, the real buckets and a replay (R18, R20, R21, R33)."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fareclass.core.snapshot import Burndown, Reservation
from fareclass.core.tiers import Tier
from fareclass.planner.cost import Floor, admitted, bill, bills, in_force_minutes, spills
from fareclass.planner.demand import Demand, from_arrivals
from fareclass.planner.replay import replay
from fareclass.planner.trace import Arrival
from fareclass.sched.reserves import Floor as RealFloor
from fareclass.sched.reserves import Reserves
from fareclass.sched.ticket import Ticket
from tests.unit.planner.demands import DAY, book, demand
from tests.unit.planner.test_replay import POOL

TOKENS = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 1_000)), min_size=1, max_size=40)


def reference(asked: list[tuple[int, int]], floor: Floor, step_s: int) -> list[Fraction]:
    """The share of each step that is admitted, in exact fractions, one step after the other."""
    sides = floor.input_tpm, floor.output_tpm
    levels, found = [Fraction(tpm) for tpm in sides], []
    for tokens in asked:
        here = [level + Fraction(tpm * step_s, 60) for level, tpm in zip(levels, sides, strict=True)]
        share = min(1, *(have / want for have, want in zip(here, tokens, strict=True) if want), Fraction(1))
        levels = [min(Fraction(tpm), have - share * want) for tpm, have, want in zip(sides, here, tokens, strict=True)]
        found.append(share)
    return found


@settings(max_examples=60, deadline=None)
@given(TOKENS, st.integers(1, 4_000), st.integers(1, 900), st.sampled_from([5, 60]))
def test_what_a_floor_admits_is_what_exact_fractions_say(
    asked: list[tuple[int, int]], inputs: int, outputs: int, step_s: int
) -> None:
    """R20, R21: both sides must fit, each bucket holds a minute."""
    asked = (asked * 12)[: len(asked) * 12 // 12 * 12] if step_s == 5 else asked
    floor = Floor(inputs, outputs)
    one = demand([tokens for tokens, _ in asked], [tokens for _, tokens in asked], step_s)
    expected = reference(asked, floor, step_s)
    assert admitted(one, [floor])[:, 0] == pytest.approx([float(share) for share in expected], abs=1e-9)
    prices = book()
    spilled = sum(
        (1 - share) * (tokens * 1_000_000 + made * 4_000_000)
        for share, (tokens, made) in zip(expected, asked, strict=True)
    )
    found = bill(one, prices, floor)
    assert found.overflow_pico == pytest.approx(float(spilled), rel=1e-9, abs=1)
    assert found.fee_pico == (inputs * prices.reserved_input + outputs * prices.reserved_output) * one.minutes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=40), st.integers(1, 4_000), st.integers(1, 500))
def test_a_larger_floor_never_spills_more_and_what_it_saves_gets_less(asked: list[int], tpm: int, more: int) -> None:
    """The cost of overflow falls in the floor of a side, and is convex in it: so a search finds the least."""
    one = demand(asked, [0] * len(asked))
    low, middle, high = (
        each.overflow_pico for each in bills(one, book(), [Floor(tpm + step * more, 0) for step in range(3)])
    )
    assert low >= middle - 1 >= high - 2
    assert low - middle >= middle - high - 2


def test_nothing_reserved_costs_exactly_what_tokens_cost() -> None:
    one = demand([123, 0, 7_001], [1, 2, 3])
    found = bill(one, book(), Floor(0, 0))
    assert (found.pico, found.spilled, found.used) == (7_124 * 1_000_000 + 6 * 4_000_000, 1.0, 0.0)
    assert bill(one, book(), Floor(0, 0), Tier.PRIORITY).pico == found.pico * 7 // 4
    assert bill(one, book(), Floor(10**6, 10**6)).overflow_pico == 0


def test_weekly_hours_are_paid_and_used_only_inside() -> None:
    """R18, R3: outside of its hours everything overflows, and no fee is owed."""
    one = demand(np.full(DAY, 600))
    floor = Floor(1_000, 1_000, frozenset(range(9, 17)))
    assert in_force_minutes(one, floor) == 8 * 60
    assert bill(one, book(), floor).spilled == pytest.approx(16 / 24)
    assert bill(one, book(), floor._replace(hours=frozenset({100}))).spilled == 1.0


def test_the_grid_is_what_each_pair_of_floors_costs_by_itself() -> None:
    draw = np.random.default_rng(3)
    one = demand(draw.integers(0, 3_000, 3 * DAY + 90))
    sides = np.array([400.0, 1_500.0]), np.array([100.0, 300.0])
    table = spills(one, book(), *sides)
    for row, inputs in enumerate(sides[0]):
        for column, outputs in enumerate(sides[1]):
            found = table.prompts[:, row, column].sum() + table.answers[:, row, column].sum()
            alone = bill(one, book(), Floor(int(inputs), int(outputs)))
            assert found == pytest.approx(alone.overflow_pico, rel=1e-9)
    assert len(table.all_prompts) == 3 * 24 + 2


def arrivals(seed: int, minutes: int, per_minute: float) -> list[Arrival]:
    draw = random.Random(seed)
    found, at = [], 0.0
    while at < minutes * 60:
        at += draw.expovariate(per_minute / 60)
        found.append(
            Arrival(
                at_us=int(at * 1e6),
                input=int(draw.lognormvariate(4, 0.6)) + 1,
                output=int(draw.lognormvariate(3, 0.6)) + 1,
                project="owner",
                tier=Tier.RESERVED,
            )
        )
    return found


def test_the_real_buckets_let_over_as_much() -> None:
    """The bound of `planner/cost.py`: half a percent of all value, for a hundred requests a minute."""
    asked = arrivals(1, 120, 100)
    ((_, one),) = from_arrivals(asked).items()
    for scale in (0.5, 0.8, 1.0, 1.2):
        floor = Floor(int(6_500 * scale), int(2_400 * scale))
        real = Reserves(None, Burndown())
        real.set_floors({"owner": RealFloor(*floor[:2])}, 0.0)
        over_pico = 0
        for number, each in enumerate(asked):
            ticket = Ticket(str(number), "owner", Tier.RESERVED, prompt_tokens=each.input)
            ticket.floor_input, ticket.floor_output = 100 * each.input, each.output
            if not real.claim(ticket, each.at_us / 1e6):
                over_pico += each.input * 1_000_000 + each.output * 4_000_000
        alone = one.pico(book(), Tier.DEFAULT)
        assert bill(one, book(), floor).overflow_pico == pytest.approx(over_pico, abs=0.005 * alone)


def test_a_replay_through_the_scheduler_spills_as_much() -> None:
    """R44: with the learned mean of outputs as holds, settled when answers end."""
    asked = arrivals(2, 60, 100)
    floor = Reservation(
        id="r", project="owner", model="m", input_tpm=5_000, output_tpm=2_000, overflow=Tier.DEFAULT, starts_us=0
    )
    (result,) = replay(asked, {"m": POOL}, reservations=[floor])
    (tier,) = result.tiers
    ((_, one),) = from_arrivals(asked).items()
    found = bill(one, POOL.book, Floor(5_000, 2_000)).spilled
    assert 0.1 < found < 0.6
    whole = one.pico(POOL.book, Tier.DEFAULT)
    assert float(tier.cost) * 1e12 / whole == pytest.approx(found, abs=0.02)


def test_arrivals_and_minutes_are_the_same_demand() -> None:
    """R24: cache reads count a tenth; batches are not planned for."""
    asked = [
        Arrival(at_us=90_000_000, input=100, output=10, cache_read=50),
        Arrival(at_us=95_000_000, input=1, output=1, tier=Tier.BATCH),
        Arrival(at_us=125_000_000, input=7, output=3),
    ]
    ((_, one),) = from_arrivals(asked).items()
    assert [side.tolist() for side in one.per_minute()] == [[105.0, 7.0], [10.0, 3.0]]
    assert (one.start_us, one.minutes, one.requests.sum()) == (60_000_000, 2, 2)
    assert isinstance(one.part(1, 2), Demand) and one.part(1, 2).per_minute()[0].tolist() == [7.0]
