"""When a reservation is in force: its start and end, and its weekly hours by the clock of its own time zone (R18).

Pure but for the time zone database, which zoneinfo reads once per zone. Times are microseconds since the
epoch. A zone's clock is a straight line between two changes of its offset, so weekly hours are exact
integers there: in the hour that a change to winter time repeats they are in force twice, and what the
change to summer time skips never is.
"""

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from fareclass.core.snapshot import Hours, Reservation
from fareclass.core.times import DAY_US, MINUTE_US

Status = Literal["scheduled", "active", "ended", "cancelled"]
NEVER_US = 2**62
"""Later than any time that counts."""
_SECOND_US = 1_000_000
_WEEK_US = 7 * DAY_US
"""Weekly hours repeat after it; no zone's offset changes twice within it."""
_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; 0 is Monday."""


def status(starts_us: int, ends_us: int | None, cancelled_us: int | None, at_us: int) -> Status:
    """A reservation's state; `active` outside of its weekly hours too."""
    if cancelled_us is not None:
        return "cancelled"
    if at_us < starts_us:
        return "scheduled"
    return "ended" if ends_us is not None and at_us >= ends_us else "active"


def in_force(reservation: Reservation, at_us: int) -> bool:
    """Whether the floor stands at this moment."""
    if at_us < reservation.starts_us or (reservation.ends_us is not None and at_us >= reservation.ends_us):
        return False
    hours = reservation.hours
    if hours is None:
        return True
    day, time_us = divmod(at_us + _offset_us(ZoneInfo(hours.tz), at_us), DAY_US)
    minute, weekday = time_us // MINUTE_US, (day + _EPOCH_WEEKDAY) % 7
    return any(weekday in window.days and window.from_minute <= minute < window.to_minute for window in hours.weekly)


def next_change_us(reservation: Reservation, after_us: int) -> int:
    """The next moment at which `in_force` may be another than now; `NEVER_US` if there is none."""
    start, end = reservation.starts_us, reservation.ends_us or NEVER_US
    if after_us < start:
        return start
    if after_us >= end or reservation.hours is None:
        return end if after_us < end else NEVER_US
    until = min(end, after_us + _WEEK_US)
    edges = (edge for window in windows(reservation, after_us, until) for edge in window)
    return next((edge for edge in edges if edge > after_us), until)


def windows(reservation: Reservation, from_us: int, to_us: int) -> Iterator[tuple[int, int]]:
    """The times (first moment, first one after it) in which it is in force between two, in order and apart."""
    start = max(from_us, reservation.starts_us)
    end = min(to_us, to_us if reservation.ends_us is None else reservation.ends_us)
    if start >= end:
        return
    if reservation.hours is None:
        yield start, end
    else:
        yield from weekly_windows(reservation.hours, start, end)


def in_force_us(reservation: Reservation, from_us: int, to_us: int) -> int:
    """For how long it is in force between two times: what its fee counts (R18)."""
    hours = reservation.hours
    start = max(from_us, reservation.starts_us)
    end = to_us if reservation.ends_us is None else min(to_us, reservation.ends_us)
    if hours is None or start >= end:
        return max(0, end - start)
    spent_us = 0
    for first, last, _ in _offsets(ZoneInfo(hours.tz), start, end):
        weeks, rest_us = divmod(last - first, _WEEK_US)
        spent_us += weeks * _covered_us(hours, first, first + _WEEK_US)
        spent_us += _covered_us(hours, last - rest_us, last)
    return spent_us


def _covered_us(hours: Hours, from_us: int, to_us: int) -> int:
    return sum(last - first for first, last in weekly_windows(hours, from_us, to_us))


def weekly_windows(hours: Hours, from_us: int, to_us: int) -> Iterator[tuple[int, int]]:
    """The times between two that weekly hours cover, in order and apart."""
    before: tuple[int, int] | None = None
    for start, end in _covered(hours, from_us, to_us):
        if before is None:
            before = start, end
        elif start <= before[1]:
            before = before[0], max(before[1], end)
        else:
            yield before
            before = start, end
    if before is not None:
        yield before


def _covered(hours: Hours, from_us: int, to_us: int) -> Iterator[tuple[int, int]]:
    """As `weekly_windows`, but windows may touch or overlap."""
    by_day = [
        sorted(
            (window.from_minute * MINUTE_US, window.to_minute * MINUTE_US)
            for window in hours.weekly
            if weekday in window.days
        )
        for weekday in range(7)
    ]
    for first, last, offset in _offsets(ZoneInfo(hours.tz), from_us, to_us):
        for day in range((first + offset) // DAY_US, (last + offset) // DAY_US + 1):
            midnight = day * DAY_US - offset
            for start, end in by_day[(day + _EPOCH_WEEKDAY) % 7]:
                if midnight + start < last and midnight + end > first:
                    yield max(first, midnight + start), min(last, midnight + end)


def _offsets(zone: ZoneInfo, from_us: int, to_us: int) -> Iterator[tuple[int, int, int]]:
    """The time between two, cut where the zone's offset changes: (first moment, first one after it, offset in µs)."""
    start, at, offset = from_us, from_us, _offset_us(zone, from_us)
    while at < to_us:
        later = min(at + _WEEK_US, to_us)
        changed = _offset_us(zone, later)
        if changed != offset:
            cut = _change_us(zone, at, later, offset)
            if cut > start:
                yield start, cut, offset
            start, offset = cut, changed
        at = later
    if start < to_us:
        yield start, to_us, offset


def _change_us(zone: ZoneInfo, from_us: int, to_us: int, offset: int) -> int:
    """The whole second between two at which the offset is no longer this one."""
    seconds = range(from_us // _SECOND_US + 1, to_us // _SECOND_US + 1)
    place = bisect_left(seconds, True, key=lambda second: _offset_us(zone, second * _SECOND_US) != offset)
    return seconds[place] * _SECOND_US


def _offset_us(zone: ZoneInfo, at_us: int) -> int:
    """What the zone's clock is ahead of UTC."""
    offset = datetime.fromtimestamp(at_us // _SECOND_US, UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)
