"""Advice: the least expected cost, what is uncertain, hours, seasons, and every alternative's price (R43, R44)."""

import tracemalloc
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import numpy as np
import pytest

from fareclass.config_schema import MULTIPLIERS
from fareclass.core.limits import PLAN_ROWS
from fareclass.core.money import usd
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.flow.planning_process import Answer, answer_to, task_of
from fareclass.metering.pricing import compile_book, free_book
from fareclass.planner.advice import PlanRow, SeasonAdvice
from fareclass.planner.cost import NO_FLOOR, Floor, bill, bills
from fareclass.planner.demand import Demand, Series, from_arrivals
from fareclass.planner.outlook import Outlook, outlook
from fareclass.planner.plan import Subject, hours_record, plan
from fareclass.planner.search import Expectation
from fareclass.planner.season import forecast
from fareclass.planner.trace import Arrival
from tests.unit.planner.demands import DAY, book, demand


def subject(one: Demand, break_even: str = "0.58", **more: object) -> Subject:
    return Subject("proj_1", "acme", "m", one, book(break_even), **more)  # type: ignore[arg-type]


def noisy(minutes: int, mean: float = 10_000, seed: int = 1) -> Series:
    return np.asarray(np.random.default_rng(seed).gamma(20, mean / 20, minutes), np.float64)


def certain(one: Demand) -> Outlook:
    return Outlook(one, 1e-3, 1e-3, 1.0)


@pytest.mark.parametrize("break_even", ["0.4", "0.58", "0.75"])
def test_the_floor_found_costs_no_more_than_any_on_a_grid(break_even: str) -> None:
    """With nothing uncertain it is the least cost of the demand itself."""
    draw = np.random.default_rng(5)
    one = demand(draw.gamma(0.7, 3_000, 900), draw.gamma(0.7, 700, 900))
    prices = book(break_even)
    best = Expectation(certain(one), prices).choose()
    grid = [Floor(inputs, outputs) for inputs in range(100, 6_000, 350) for outputs in range(50, 1_500, 90)]
    least = min(found.pico for found in bills(one, prices, grid))
    assert bill(one, prices, best.floor).pico <= least * 1.005
    assert 1 - best.saving == pytest.approx(
        bill(one, prices, best.floor).pico / one.pico(prices, Tier.DEFAULT), abs=0.01
    )


def test_steady_demand_is_reserved_close_to_its_level() -> None:
    row = plan(subject(demand(noisy(3 * DAY))))
    best = row.alternatives[-1]
    assert best.name == "best" and best.reserve is not None and best.reserve.hours is None
    assert 8_500 < best.reserve.input_tpm < 11_500
    assert 1_700 < best.reserve.output_tpm < 2_300
    assert best.saving_share > 0.3


def test_what_is_unsure_is_reserved_by_its_price() -> None:
    """A cheap reservation is made larger where the level is unsure, a dear one smaller."""
    one = demand(noisy(360))

    def chosen(break_even: str, spread: float) -> int:
        return Expectation(Outlook(one, spread, 1e-3, 1.0), book(break_even)).choose(hours=False).floor.input_tpm

    assert chosen("0.25", 0.5) > 1.1 * chosen("0.25", 0.01)
    assert chosen("0.75", 0.5) < 0.9 * chosen("0.75", 0.01)


def test_an_uncertain_level_costs_the_mean_over_its_levels() -> None:
    """The table's weighted mean is what runs at each level would cost."""
    one = demand(noisy(120), noisy(120, 2_000, 2))
    found = Expectation(Outlook(one, 0.4, 0.2, 1.0), book())
    draw = np.random.default_rng(8)
    scale = draw.choice([0.5, 1.0, 2.0], 200, p=[0.3, 0.4, 0.3])
    both, apart = draw.normal(0, 0.4, 200) * scale, draw.normal(0, 0.2, 200) * scale
    floor, spent, alone = Floor(9_000, 1_800), 0, 0
    for up, side in zip(both, apart, strict=True):
        kinds = one.kinds.copy()
        kinds[0] = kinds[0] * np.exp(up - side / 2)
        kinds[-1] = kinds[-1] * np.exp(up + side / 2)
        here = Demand(one.start_us, 60, kinds, one.requests)
        spent += bill(here, book(), floor).pico
        alone += here.pico(book(), Tier.DEFAULT)
    assert found.cost(floor) == pytest.approx(spent / alone, abs=0.04)


def test_a_trend_is_planned_for_and_a_back_and_forth_is_not() -> None:
    grows = outlook(demand(noisy(14 * DAY) * np.exp(0.05 * np.arange(14 * DAY) / DAY)), book())
    assert 1.5 < grows.growth < 2.5
    waves = outlook(demand(noisy(14 * DAY) * (1 + 0.5 * np.sin(np.arange(14 * DAY) / DAY * 2.5))), book())
    assert waves.growth == pytest.approx(1.0, abs=0.1)
    assert waves.level > 2 * outlook(demand(noisy(14 * DAY)), book()).level


def test_office_hours_are_reserved_as_weekly_hours() -> None:
    """Mondays to Fridays from 9 to 17 UTC, and no fee for the rest."""
    at = np.arange(14 * DAY)
    busy = (at // DAY % 7 < 5) & (at % DAY >= 9 * 60) & (at % DAY < 17 * 60)
    best = plan(subject(demand(np.where(busy, noisy(14 * DAY), 20)))).alternatives[-1]
    assert best.reserve is not None and best.reserve.hours is not None
    (window,) = best.reserve.hours.weekly
    assert (window.days, window.from_, window.to) == (("mon", "tue", "wed", "thu", "fri"), "09:00", "17:00")
    assert best.saving_share > 0.2


def test_hours_past_midnight_are_two_windows() -> None:
    record = hours_record(frozenset({22, 23, 24, 25, 46, 47}))
    spans = [(window.days, window.from_, window.to) for window in record.weekly]
    assert spans == [(("tue",), "00:00", "02:00"), (("mon", "tue"), "22:00", "24:00")]


def test_every_way_to_buy_has_its_price() -> None:
    """R44: all-default, all-priority, P50, P90, best; amounts are exact decimals in JSON."""
    one = demand(noisy(360))
    row = plan(subject(one))
    assert [way.name for way in row.alternatives] == ["all-default", "all-priority", "p50", "p90", "best"]
    alone, priority, p50, p90, best = row.alternatives
    assert alone.span_usd == usd(one.pico(book(), Tier.DEFAULT)) and alone.reserve is None
    assert Decimal(priority.span_usd) == Decimal(alone.span_usd) * Decimal("1.75")
    assert priority.saving_share == -0.75
    inputs, outputs = (sorted(side) for side in one.per_minute())
    assert p50.reserve is not None and p90.reserve is not None
    assert (p50.reserve.input_tpm, p50.reserve.output_tpm) == (
        int(inputs[len(inputs) // 2 - 1]),
        int(outputs[len(outputs) // 2 - 1]),
    )
    assert p90.spill_share < p50.spill_share < 0.5
    assert Decimal(best.month_usd) <= min(Decimal(way.month_usd) for way in (alone, priority, p50, p90))
    assert Decimal(best.year_usd) == pytest.approx(12 * Decimal(best.month_usd), rel=Decimal("1e-6"))
    assert [point.name for point in row.curve][0::12] == ["p10", "p99"]
    spilled = [point.spill_share for point in row.curve]
    assert spilled == sorted(spilled, reverse=True)
    assert (row.break_even_input, row.break_even_output) == (0.58, 0.58)
    assert msgspec.json.decode(msgspec.json.encode(row), type=PlanRow) == row


def test_prompts_without_answers_and_nothing_at_all() -> None:
    """Embeddings have no output side; without traffic there is nothing to reserve."""
    best = plan(subject(demand(noisy(360), np.zeros(360)))).alternatives[-1]
    assert best.reserve is not None and best.reserve.output_tpm == 0 and best.saving_share > 0.2
    silent = plan(subject(demand(np.zeros(120))))
    assert silent.alternatives[-1].reserve is None and silent.advice.startswith("Reserve nothing")


def priced(kinds: Sequence[float], fees: Sequence[str]) -> PriceBook:
    prices = [Decimal(str(price)) for price in kinds]
    return compile_book("m", 1, prices, MULTIPLIERS, [Decimal(fee) for fee in fees])


PAID = (1, 1.25, 2, 0.1, 4)


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        (priced(PAID, ("0", "0")), "no prices for reservations"),
        (priced(PAID, ("0.06", "0")), "no price for output"),
        (priced(PAID, ("0", "0.24")), "no price for input"),
        (priced((0, 0, 0, 0, 4), ("0", "0.24")), "costs nothing"),
        (free_book("m"), "no prices for reservations"),
    ],
)
def test_without_prices_no_reservation_is_compared(prices: PriceBook, says: str) -> None:
    """Nothing reserved, and nothing that would be nonsense: no fee is no gift, and what is free can't be saved on."""
    one = demand(noisy(240), np.zeros(240))
    weeks = np.full(60, 1e8)
    row = plan(Subject("proj_1", "acme", "m", one, prices, weeks=weeks, season=True))
    assert says in row.advice
    assert [way.name for way in row.alternatives] == ["all-default", "all-priority", "best"] and row.curve == []
    assert row.alternatives[-1].reserve is None and row.alternatives[-1].saving_share == 0
    assert row.season is not None and row.season.reserves == [] and row.season.saving_share == 0
    expected = Expectation(outlook(one, prices), prices)
    assert expected.choose().floor == NO_FLOOR
    if "costs nothing" in says:
        assert expected.cost(Floor(100, 100)) == 1.0


def test_a_side_without_a_price_needs_no_fee() -> None:
    """Embeddings: only prompts cost something, and only they are reserved."""
    prices = priced((1, 1.25, 2, 0.1, 0), ("0.03", "0"))
    row = plan(Subject("proj_1", "acme", "m", demand(noisy(240), np.zeros(240)), prices))
    assert row.alternatives[-1].reserve is not None and row.alternatives[-1].saving_share > 0.2
    assert (row.break_even_input, row.break_even_output) == (0.5, None)


def test_all_traffic_in_an_hour_that_is_not_whole_yet() -> None:
    found = outlook(demand(np.concatenate([np.zeros(3 * DAY), noisy(30)])), book())
    assert (found.level, found.growth) == (1.2, 1.0)


def test_a_trace_of_many_projects_takes_the_memory_of_one() -> None:
    """Those that ask the most are planned for, and the series of each is made when its turn comes."""
    year_us = 365 * 86_400_000_000
    asked = [
        Arrival(at_us=at, input=number, output=1, project=str(number)) for at in (0, year_us) for number in range(150)
    ]
    tracemalloc.start()
    demands = from_arrivals(asked)
    assert list(demands) == [(str(number), "") for number in range(149, 149 - PLAN_ROWS, -1)]
    assert demands["149", ""].kinds.sum() == 300
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_a_season_is_forecast_from_last_years_shape() -> None:
    """Synthetic: ten busy weeks, this year a fifth above the last, weeks 10 % off."""
    draw = np.random.default_rng(4)
    shape = np.where((np.arange(52) >= 20) & (np.arange(52) < 30), 6.0, 1.0)
    weeks = np.concatenate([shape, shape[:12] * 1.2]) * np.exp(draw.normal(0, 0.1, 64)) * 1e9
    found = forecast(weeks)
    assert found is not None and found.compared == 8
    assert found.ratio == pytest.approx(1.2, rel=0.15)
    coming = np.roll(shape, -12) * 1.2 * 1e9
    inside = (coming >= found.low) & (coming <= found.high)
    assert inside.mean() > 0.7
    assert found.levels[8:18].min() > 2 * found.levels[:8].max()
    assert forecast(weeks[:51]) is None


def season_of(one: Subject) -> SeasonAdvice | None:
    """As the planner's process answers: what can't be encoded is a fault."""
    answer = msgspec.msgpack.decode(answer_to(msgspec.msgpack.encode(task_of(one))), type=Answer)
    assert answer.fault is None and answer.row is not None
    return answer.row.season


def test_a_season_gets_a_floor_of_its_own() -> None:
    shape = np.where((np.arange(52) >= 20) & (np.arange(52) < 30), 6.0, 1.0)
    recent = demand(noisy(360))
    week = float(np.sum(recent.per_minute())) * 7 * DAY / 360
    season = season_of(subject(recent, weeks=np.tile(shape, 2) * week, season=True))
    assert season is not None and season.ratio == 1.0
    quiet, busy, after = season.reserves
    assert quiet.starts_at is not None and busy.starts_at is not None and busy.ends_at is not None
    assert ((busy.starts_at - quiet.starts_at).days, (busy.ends_at - busy.starts_at).days) == (140, 70)
    assert busy.input_tpm == pytest.approx(6 * quiet.input_tpm, rel=0.15) and after.input_tpm == quiet.input_tpm
    assert "10 weeks from week 21" in season.reason
    flat = season_of(subject(recent, weeks=np.full(60, week), season=True))
    assert flat is not None and len(flat.reserves) == 1 and flat.reserves[0].starts_at is None
