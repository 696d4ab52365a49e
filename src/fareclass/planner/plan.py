"""Advice for one project and model: what to reserve, what it costs against the alternatives, and why (R43, R44)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from fareclass.core.money import usd
from fareclass.core.snapshot import PriceBook
from fareclass.core.tiers import Tier
from fareclass.planner import advice
from fareclass.planner.cost import NO_FLOOR, WEEK_H, Bill, Floor, bills
from fareclass.planner.demand import US, Demand, Series
from fareclass.planner.outlook import Outlook, outlook
from fareclass.planner.search import Choice, Expectation, Year, for_sale
from fareclass.planner.season import Season, forecast
from fareclass.planner.shape import Asked, propose
from fareclass.store.records import HoursRecord, WindowRecord, moment

YEAR_MINUTES = 365 * 1_440
MONTH_MINUTES = YEAR_MINUTES // 12
CURVE = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 95, 99)
"""Percentiles of the minutes at which the curve reserves, both sides alike."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_H = 24
_WEEK = timedelta(days=7)
_WEEK_MINUTES = 10_080
_PICO_SHOWN = 10**6
"""Expected amounts are rounded to millionths of a USD."""

Waits = Callable[[Tier, Floor], advice.Waits | None]


class Workload(NamedTuple):
    """One of the project's workloads: its tokens by minute, and how it is served today."""

    name: str
    minutes: Series
    asked: Asked


class Subject(NamedTuple):
    """Whose demand on which model; `weeks` are totals of tokens of whole weeks, the newest last, as far back as known."""

    project: str
    project_name: str
    model: str
    demand: Demand
    book: PriceBook
    workloads: Sequence[Workload] = ()
    weeks: Series = np.zeros(0)
    season: bool = False


def plan(subject: Subject, waits: Waits = lambda _tier, _floor: None) -> advice.PlanRow:
    """Everything that can be said. `waits` tells what a tier with a floor would have met, None where nobody knows."""
    demand, book = subject.demand, subject.book
    ahead = outlook(demand, book)
    expected = Expectation(ahead, book)
    best = expected.choose()
    minutes = demand.per_minute()
    at = {f"p{share}": at_percentile(minutes, share) for share in CURVE} if expected.comparable else {}
    named = {"all-default": NO_FLOOR} | {name: at[name] for name in ("p50", "p90") if name in at} | {"best": best.floor}
    priced = _Priced(subject, expected, waits)
    alone, *reserved = priced.rows(named)
    rates, sold = book.rates[Tier.DEFAULT], for_sale(book)
    return advice.PlanRow(
        project=subject.project,
        project_name=subject.project_name,
        model=subject.model,
        start=moment(demand.start_us),
        end=moment(demand.start_us + demand.minutes * 60 * US),
        minutes=demand.minutes,
        input=_percentiles(minutes[0]),
        output=_percentiles(minutes[1]),
        break_even_input=_ratio(book.reserved_input, rates[0]) if sold else None,
        break_even_output=_ratio(book.reserved_output, rates[-1]) if sold else None,
        uncertainty=advice.Uncertainty(
            level=round(ahead.level, 3), ratio=round(ahead.ratio, 3), growth=round(ahead.growth, 3)
        ),
        alternatives=[alone, priced.all_priority(), *reserved],
        curve=priced.rows(at) if at else [],
        advice=_sentence(best, ahead, expected, book),
        workloads=_workloads(subject, saves=best.saving > 0),
        season=_season(subject, expected) if subject.season else None,
    )


class _Priced:
    """Turns floors into rows: what they are expected to cost, and what they would have cost."""

    def __init__(self, subject: Subject, expected: Expectation, waits: Waits) -> None:
        self._demand, self._book, self._waits = subject.demand, subject.book, waits
        self._expected = expected
        self._alone_pico = subject.demand.pico(subject.book, Tier.DEFAULT)

    def rows(self, floors: Mapping[str, Floor]) -> list[advice.Alternative]:
        """One for each of these floors."""
        billed = bills(self._demand, self._book, list(floors.values()))
        return [
            self._row(name, floor, self._expected.cost(floor), one)
            for (name, floor), one in zip(floors.items(), billed, strict=True)
        ]

    def all_priority(self) -> advice.Alternative:
        """Nothing reserved, everything asked as priority."""
        pico = self._demand.pico(self._book, Tier.PRIORITY)
        share = pico / self._alone_pico if self._alone_pico else 1.0
        return self._row("all-priority", NO_FLOOR, share, Bill(0, pico, 1.0, 0.0), Tier.PRIORITY)

    def _row(self, name: str, floor: Floor, share: float, one: Bill, tier: Tier = Tier.DEFAULT) -> advice.Alternative:
        per_minute = self._expected.default_pico * share
        reserved = bool(floor.input_tpm or floor.output_tpm)
        return advice.Alternative(
            name=name,
            reserve=reserve(floor) if reserved else None,
            month_usd=_rounded(per_minute * MONTH_MINUTES),
            year_usd=_rounded(per_minute * YEAR_MINUTES),
            span_usd=usd(one.pico),
            saving_share=round(1 - share, 4),
            spill_share=round(one.spilled, 4) if reserved else 0.0,
            used_share=round(one.used, 4),
            waits=self._waits(tier, floor),
        )


def reserve(floor: Floor, starts_at: datetime | None = None, ends_at: datetime | None = None) -> advice.Reserve:
    """A floor in the words of a reservation."""
    hours = None if floor.hours is None else hours_record(floor.hours)
    return advice.Reserve(
        input_tpm=floor.input_tpm, output_tpm=floor.output_tpm, hours=hours, starts_at=starts_at, ends_at=ends_at
    )


def hours_record(hours: frozenset[int]) -> HoursRecord:
    """Hours of the week as windows, days that are alike together."""
    windows: dict[tuple[int, int], list[str]] = {}
    for day in range(WEEK_H // _DAY_H):
        mine = [hour in hours for hour in range(day * _DAY_H, (day + 1) * _DAY_H)]
        edges = [hour for hour in range(_DAY_H + 1) if (hour > 0 and mine[hour - 1]) != (hour < _DAY_H and mine[hour])]
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            windows.setdefault((first, last), []).append(_DAYS[day])
    weekly = tuple(
        WindowRecord(days=tuple(days), from_=f"{first:02}:00", to=f"{last:02}:00")
        for (first, last), days in sorted(windows.items())
    )
    return HoursRecord(tz="UTC", weekly=weekly)


def at_percentile(minutes: tuple[Series, Series], share: int) -> Floor:
    """A reservation at this percentile of either side."""
    inputs, outputs = (int(np.percentile(side, share, method="inverted_cdf")) for side in minutes)
    return Floor(inputs, outputs)


def _percentiles(side: Series) -> advice.Percentiles:
    found = [int(value) for value in np.percentile(side, (25, 50, 90, 99, 100), method="inverted_cdf")]
    return advice.Percentiles(p25=found[0], p50=found[1], p90=found[2], p99=found[3], max=found[4])


def _rounded(pico: float) -> str:
    return usd(round(pico / _PICO_SHOWN) * _PICO_SHOWN)


def _ratio(fee: int, rate: int) -> float | None:
    return round(fee / rate, 4) if rate else None


def _sentence(best: Choice, ahead: Outlook, expected: Expectation, book: PriceBook) -> str:
    sure = _how_sure(ahead)
    if not (book.reserved_input or book.reserved_output):
        return "This model has no prices for reservations, so none can be compared: set `reserved_price`."
    if not for_sale(book):
        side = "output" if book.reserved_input else "input"
        return f"Reservations have no price for {side}, so none can be compared: set both sides of `reserved_price`."
    if not expected.comparable:
        return "Reserve nothing: without a reservation this costs nothing at these prices."
    if not best.saving:
        return f"Reserve nothing: no floor is expected to be used enough to pay at these prices. {sure}"
    floor = best.floor
    when = "" if floor.hours is None else " in the hours shown"
    return (
        f"Reserve {floor.input_tpm:,} input and {floor.output_tpm:,} output tokens a minute{when}: that is expected to cost "
        f"{best.saving:.0%} less than default alone. {sure}"
    )


def _how_sure(ahead: Outlook) -> str:
    """In words, how far the level may move, and whether it has a trend."""
    factor = float(np.exp(ahead.level))
    trend = ""
    if abs(ahead.growth - 1) >= 0.02:
        trend = f" Demand {'grows' if ahead.growth > 1 else 'falls'}: planned for {ahead.growth:.2f} times the level of the past."
    return f"By its past, the level may well be {factor:.1f} times as high or low.{trend}"


def _workloads(subject: Subject, *, saves: bool) -> list[advice.WorkloadAdvice]:
    whole = sum(float(one.minutes.sum()) for one in subject.workloads)
    return [
        advice.WorkloadAdvice(
            workload=one.name,
            share=round(float(one.minutes.sum()) / whole, 4) if whole else 0.0,
            proposal=propose(one.minutes, one.asked, reserving_saves=saves),
        )
        for one in subject.workloads
    ]


def _season(subject: Subject, expected: Expectation) -> advice.SeasonAdvice | None:
    """The best reservation for a part of the coming year, if there is a year to learn from."""
    season = forecast(subject.weeks)
    if season is None:
        return None
    start = moment(subject.demand.start_us + subject.demand.minutes * 60 * US)
    now = float(np.sum(subject.demand.per_minute())) / subject.demand.minutes * _WEEK_MINUTES
    levels = season.levels / now if now else season.levels
    year = expected.choose_weeks(levels)
    mean = float(subject.weeks[-len(levels) :].mean())
    per_year = expected.default_pico * _WEEK_MINUTES * float(levels.sum())
    series = zip(*((one / mean).tolist() for one in (season.levels, season.low, season.high)), strict=True)
    return advice.SeasonAdvice(
        ratio=round(season.ratio, 4),
        compared_weeks=season.compared,
        weeks=[
            advice.SeasonWeek(
                start=start + number * _WEEK, level=round(level, 3), low=round(low, 3), high=round(high, 3)
            )
            for number, (level, low, high) in enumerate(series)
        ],
        reserves=_reserves(year, len(levels), start),
        year_usd=_rounded(per_year * (1 - year.saving)),
        saving_share=round(year.saving, 4),
        reason=_season_reason(season, year),
    )


def _reserves(year: Year, weeks: int, start: datetime) -> list[advice.Reserve]:
    """One reservation after the other, without an end where one is for all the year."""
    if (year.first, year.last) == (0, weeks):
        return [reserve(year.inside)] if year.inside != NO_FLOOR else []
    spans = (0, year.first, year.outside), (year.first, year.last, year.inside), (year.last, weeks, year.outside)
    return [
        reserve(floor, start + first * _WEEK, start + last * _WEEK)
        for first, last, floor in spans
        if first < last and floor != NO_FLOOR
    ]


def _season_reason(season: Season, year: Year) -> str:
    said = "No week of this year could be compared with last year's"
    if season.compared:
        said = f"The last {season.compared} weeks were {season.ratio:.2f} times those of a year before"
    if not year.saving:
        return f"{said}, and no reservation is expected to pay in any part of the coming year."
    if (year.first, year.last) == (0, len(season.levels)):
        return f"{said}: by last year's shape one reservation for all the year costs least."
    return f"{said}: by last year's shape the {year.last - year.first} weeks from week {year.first + 1} on want a floor of their own."
