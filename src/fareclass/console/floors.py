"""Reservations as a calendar: which share of a pool is promised when, and how much of a floor was used."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from fareclass.core.capacity import MICRO, load_micro, max_load_micro
from fareclass.core.snapshot import Capacity, Reservation
from fareclass.core.times import MINUTE_US
from fareclass.flow.reservation_rules import hours_of
from fareclass.policy.calendar import in_force_us, windows
from fareclass.store.records import HoursRecord

WEEK_US = 7 * 24 * 60 * MINUTE_US
WEIGHTS = {"input": 1.0, "cache_write_5m": 1.25, "cache_write_1h": 2.0, "cache_read": 0.1}
"""Burn-down of input by default (R24)."""


class Pool(NamedTuple):
    """What of a pool can be promised: `most` is the largest load that reservations may make, in percent of the pool."""

    model: str
    capacity: Capacity
    slots: int
    most: float

    def load(self, input_tpm: int, output_tpm: int) -> float:
        """The load of a floor in percent of the pool (R19)."""
        return 100 * load_micro(input_tpm, output_tpm, self.capacity, self.slots) / (self.slots * MICRO)


def pool_of(view: Mapping[str, Any]) -> Pool | None:
    """A capacity of the control plane; None where the pool's is not known."""
    if not view["input_tpm"] or not view["output_tpm"] or not view["slots"]:
        return None
    capacity = Capacity(input_tpm=view["input_tpm"], output_tpm=view["output_tpm"])
    most = 100 * max_load_micro(view["reservable_slots"]) / (view["slots"] * MICRO)
    return Pool(view["model"], capacity, view["slots"], most)


def reservation_of(record: Mapping[str, Any]) -> Reservation:
    """What the control plane shows, as the calendar counts it. One that was cancelled ended then."""
    hours = record["hours"]
    ends = record["cancelled_at"] or record["ends_at"]
    return Reservation(
        id=record["id"],
        project=record["project"],
        model=record["model"],
        input_tpm=record["input_tpm"],
        output_tpm=record["output_tpm"],
        overflow=None,
        starts_us=_us(record["starts_at"]),
        ends_us=None if ends is None else _us(ends),
        hours=None if hours is None else hours_of(msgspec.convert(hours, HoursRecord)),
    )


def calendar(
    records: Sequence[Mapping[str, Any]], pool: Pool, from_us: int, to_us: int
) -> dict[str, list[tuple[int, float]]]:
    """By reservation: its load in percent of the pool at each moment (ms) at which anything changes, and at both ends."""
    stands = {_name(record): list(windows(reservation_of(record), from_us, to_us)) for record in records}
    edges = sorted({from_us, to_us, *(edge for spans in stands.values() for span in spans for edge in span)})
    loads = {_name(record): round(pool.load(record["input_tpm"], record["output_tpm"]), 2) for record in records}
    return {
        name: [(edge // 1000, loads[name] if _covers(spans, min(edge, to_us - 1)) else 0.0) for edge in edges]
        for name, spans in stands.items()
        if spans
    }


def stood(record: Mapping[str, Any], from_us: int, to_us: int) -> bool:
    """Whether the reservation was in force at any moment between two times."""
    return in_force_us(reservation_of(record), from_us, to_us) > 0


def utilisation(
    records: Iterable[Mapping[str, Any]], usage: Iterable[Mapping[str, Any]], from_us: int, to_us: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """By project and model: which share of its floors was used, input and output, from rows of the usage report.

    Input counts by the default burn-down weights.
    """
    floors: dict[tuple[str, str], list[float]] = {}
    for record in records:
        minutes = in_force_us(reservation_of(record), from_us, to_us) / MINUTE_US
        sums = floors.setdefault((record["project"], record["model"]), [0.0, 0.0])
        sums[0] += record["input_tpm"] * minutes
        sums[1] += record["output_tpm"] * minutes
    used: dict[tuple[str, str], list[float]] = {}
    for row in usage:
        if row["served_tier"] == "reserved":
            sums = used.setdefault((row["project"], row["model"]), [0.0, 0.0])
            sums[0] += sum(weight * row.get(kind, 0) for kind, weight in WEIGHTS.items())
            sums[1] += row.get("output", 0)
    return {
        place: (
            used.get(place, [0, 0])[0] / floor[0] if floor[0] else 0.0,
            used.get(place, [0, 0])[1] / floor[1] if floor[1] else 0.0,
        )
        for place, floor in floors.items()
    }


def hours_in_words(hours: Mapping[str, Any] | None) -> str:
    """`mon–fri 09:00–17:00 Europe/Vienna`, or `around the clock`."""
    if hours is None:
        return "around the clock"
    spans = ", ".join(f"{_days(window['days'])} {window['from']}–{window['to']}" for window in hours["weekly"])
    return f"{spans} {hours['tz']}"


def _days(days: Sequence[str]) -> str:
    if list(days) == ["mon", "tue", "wed", "thu", "fri"]:
        return "mon–fri"
    return "daily" if len(days) == 7 else " ".join(days)


def _name(record: Mapping[str, Any]) -> str:
    return f"{record['project_name']} {record['id'][-4:]}"


def _covers(spans: Sequence[tuple[int, int]], at: int) -> bool:
    return any(first <= at < last for first, last in spans)


def _us(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1_000_000)
