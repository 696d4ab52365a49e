"""What of a pool can still be reserved: over the whole calendar, not only now (R19). Pure; exact integers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fareclass.core.capacity import load_micro, max_load_micro
from fareclass.core.snapshot import Capacity, Hours, Reservation
from fareclass.core.times import DAY_US
from fareclass.policy.calendar import in_force, weekly_windows, windows

_YEAR_US = 366 * DAY_US
"""In a year every zone's clock has changed as it does, so every coincidence of weekly hours has been seen."""


class Pool(NamedTuple):
    """What can be sold: `slots` of all replicas, and `reservable` of those that admit reserved work (R16)."""

    capacity: Capacity
    slots: int
    reservable: int

    def fits(self, tpm: "Tpm") -> bool:
        """Whether floors that add up to this are there without a wait (R19)."""
        return load_micro(tpm.input, tpm.output, self.capacity, self.slots) <= max_load_micro(self.reservable)


class Tpm(NamedTuple):
    """Tokens a minute of both sides."""

    input: int
    output: int

    def plus(self, other: "Tpm") -> "Tpm":
        return Tpm(self.input + other.input, self.output + other.output)


class Fullest(NamedTuple):
    """A moment of the calendar, and what is sold then."""

    at_us: int
    sold: Tpm


def sold(reservations: Iterable[Reservation], at_us: int) -> Tpm:
    """The sum of the floors that are in force at a moment."""
    standing = [one for one in reservations if in_force(one, at_us)]
    return Tpm(sum(one.input_tpm for one in standing), sum(one.output_tpm for one in standing))


def shortage(pool: Pool, others: Sequence[Reservation], new: Reservation, from_us: int) -> Fullest | None:
    """When, from a time on, the new one would not fit beside the others, at the worst of it; None if it always fits."""
    asked = Tpm(new.input_tpm, new.output_tpm)
    everything = Tpm(sum(one.input_tpm for one in others), sum(one.output_tpm for one in others))
    if pool.fits(everything.plus(asked)):
        return None
    worst = fullest(pool, others, new, from_us)
    return None if pool.fits(worst.sold.plus(asked)) else worst


def fullest(pool: Pool, others: Sequence[Reservation], new: Reservation, from_us: int) -> Fullest:
    """The moment, while the new one is in force, at which the others keep the pool busiest. The first, if several.

    Where the new one is never in force: its start, with nothing sold.
    """
    start = max(from_us, new.starts_us)
    end = min(new.ends_us or _until(others, start), _until(others, start))
    capacity = pool.capacity
    steps: dict[int, int] = dict.fromkeys((first for first, _ in windows(new, start, end)), 0)
    patterns: dict[Hours | None, tuple[list[int], list[int]]] = {}
    for other in others:
        work = other.input_tpm * capacity.output_tpm + other.output_tpm * capacity.input_tpm
        for first, last in _clipped(other, patterns, start, end):
            steps[first] = steps.get(first, 0) + work
            steps[last] = steps.get(last, 0) - work
    at = _highest(steps, new, start, end)
    return Fullest(start, Tpm(0, 0)) if at is None else Fullest(at, sold(others, at))


def largest_fit(pool: Pool, taken: Tpm, asked: Tpm) -> Tpm:
    """The most of what was asked, in its proportion and whole tokens, that fits beside what is taken.

    Nothing where a side that was asked for would be left out: no request would find room on both (R20).
    """
    if pool.fits(taken.plus(asked)):
        return asked
    larger = max(*asked, 1)
    places = range(1, larger + 1)
    count = bisect_left(places, True, key=lambda part: not pool.fits(taken.plus(_part(asked, part, larger))))
    part = _part(asked, count, larger)
    return part if all(part) or 0 in asked else Tpm(0, 0)


def _part(asked: Tpm, part: int, whole: int) -> Tpm:
    return Tpm(asked.input * part // whole, asked.output * part // whole)


def _until(reservations: Sequence[Reservation], start_us: int) -> int:
    """After this time the calendar only repeats what it has shown."""
    edges = [edge for one in reservations for edge in (one.starts_us, one.ends_us) if edge is not None]
    return max([start_us, *edges]) + _YEAR_US


def _clipped(
    one: Reservation, patterns: dict[Hours | None, tuple[list[int], list[int]]], start_us: int, end_us: int
) -> Iterable[tuple[int, int]]:
    """Its windows between two times; those of the same weekly hours are worked out once, in `patterns`."""
    first = max(start_us, one.starts_us)
    last = end_us if one.ends_us is None else min(end_us, one.ends_us)
    if first >= last:
        return ()
    if one.hours is None:
        return ((first, last),)
    if one.hours not in patterns:
        found = list(weekly_windows(one.hours, start_us, end_us))
        patterns[one.hours] = [begin for begin, _ in found], [over for _, over in found]
    begins, ends = patterns[one.hours]
    low, high = bisect_right(ends, first), bisect_left(begins, last)
    if low >= high:
        return ()
    inside = list(zip(begins[low:high], ends[low:high], strict=True))
    inside[0] = max(first, inside[0][0]), inside[0][1]
    inside[-1] = inside[-1][0], min(last, inside[-1][1])
    return inside


def _highest(steps: dict[int, int], new: Reservation, start_us: int, end_us: int) -> int | None:
    """Where, while the new one is in force, the sum of the steps until then is highest."""
    times = sorted(steps)
    place = level = 0
    best, at = -1, None
    for first, last in windows(new, start_us, end_us):
        while place < len(times) and times[place] < last:
            level += steps[times[place]]
            if times[place] >= first and level > best:
                best, at = level, times[place]
            place += 1
    return at


def lone(pool: Pool, taken: Tpm) -> Tpm:
    """What of each side alone still fits: one or the other, not both."""
    whole = pool.capacity
    return Tpm(
        largest_fit(pool, taken, Tpm(whole.input_tpm, 0)).input,
        largest_fit(pool, taken, Tpm(0, whole.output_tpm)).output,
    )


def grows(new: Reservation, old: Reservation) -> bool:
    """Whether a change takes anything that the old one had not: more tokens, or another time."""
    if new.input_tpm > old.input_tpm or new.output_tpm > old.output_tpm or new.hours != old.hours:
        return True
    longer = old.ends_us is not None and (new.ends_us is None or new.ends_us > old.ends_us)
    return longer or new.starts_us < old.starts_us
