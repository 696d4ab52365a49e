"""R18: when a reservation is in force, by the clock on its wall."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.snapshot import Hours, Reservation, Window
from fareclass.policy.calendar import NEVER_US, in_force, in_force_us, next_change_us, status, windows

WORKDAYS = (0, 1, 2, 3, 4)
MINUTE_US = 60_000_000
SWITCHES = {"Europe/Vienna": (3, 28, 10, 31), "America/New_York": (3, 14, 11, 7), "Australia/Lord_Howe": (4, 4, 10, 3)}
"""Month and day of both changes of the clock in 2027."""


def us(*parts: int, tz: str = "UTC") -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(tz)).timestamp()) * 1_000_000  # type: ignore[misc, arg-type]


def made(hours: Hours | None = None, starts_us: int = 0, ends_us: int | None = None) -> Reservation:
    return Reservation(
        id="rsv", project="p", model="m", input_tpm=1, output_tpm=1, overflow=None,
        starts_us=starts_us, ends_us=ends_us, hours=hours,
    )  # fmt: skip


def clock(tz: str, begin: str, end: str, *days: int) -> Hours:
    minutes = [int(text[:2]) * 60 + int(text[3:]) for text in (begin, end)]
    return Hours(tz=tz, weekly=(Window(days, *minutes),))


def local(span: tuple[int, int]) -> list[str]:
    return [f"{datetime.fromtimestamp(edge / 1e6, UTC):%a %H:%M}" for edge in span]


def test_office_hours_follow_the_clock_through_the_year() -> None:
    """Nine in the morning is 08:00 UTC in winter and 07:00 UTC in summer."""
    office = made(clock("Europe/Vienna", "09:00", "17:00", *WORKDAYS))
    for month, opens in ((1, 8), (7, 7)):
        assert not in_force(office, us(2027, month, 4 if month == 1 else 5, opens) - 1)
        assert in_force(office, us(2027, month, 4 if month == 1 else 5, opens))
        assert not in_force(office, us(2027, month, 4 if month == 1 else 5, opens + 8))
    assert not in_force(office, us(2027, 1, 9, 12))


@pytest.mark.parametrize(
    ("begin", "end", "spring", "autumn"),
    [
        ("02:00", "03:00", [], [["Sun 00:00", "Sun 02:00"]]),
        ("01:30", "03:30", [["Sun 00:30", "Sun 01:30"]], [["Sat 23:30", "Sun 02:30"]]),
        ("02:15", "02:45", [], [["Sun 00:15", "Sun 00:45"], ["Sun 01:15", "Sun 01:45"]]),
        ("00:00", "24:00", [["Sat 23:00", "Sun 22:00"]], [["Sat 22:00", "Sun 23:00"]]),
    ],
)
def test_the_hour_that_is_skipped_and_the_one_that_comes_twice(
    begin: str, end: str, spring: list[list[str]], autumn: list[list[str]]
) -> None:
    """In force while the clock on the wall shows those hours: not at all in a skipped one, twice in a repeated one."""
    sunday = made(clock("Europe/Vienna", begin, end, 6))
    for day, expected in (((2027, 3, 27), spring), ((2027, 10, 30), autumn)):
        found = windows(sunday, us(*day), us(*day) + 3 * 24 * 60 * MINUTE_US)
        assert [local(span) for span in found] == expected


spans = st.tuples(
    st.sets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(1, 1440)
).filter(lambda span: span[1] < span[2])  # fmt: skip
patterns = st.builds(
    lambda tz, weekly: Hours(tz=tz, weekly=tuple(Window(tuple(sorted(days)), a, b) for days, a, b in weekly)),
    st.sampled_from(list(SWITCHES)),
    st.lists(spans, min_size=1, max_size=4),
)


@given(patterns, st.booleans(), st.integers(0, 4 * 24 * 60))
def test_windows_are_the_minutes_that_the_clock_shows(hours: Hours, spring: bool, offset: int) -> None:
    """Against the clock, read every five minutes through the weeks in which it is changed."""
    dates = SWITCHES[hours.tz]
    month, day = dates[:2] if spring else dates[2:]
    start = us(2027, month, day) - 2 * 24 * 60 * MINUTE_US + offset * MINUTE_US
    end = start + 4 * 24 * 60 * MINUTE_US
    found = list(windows(made(hours), start, end))
    assert all(before[1] < after[0] for before, after in pairwise(found))
    for at in range(start, end, 5 * MINUTE_US):
        wall = datetime.fromtimestamp(at // 1_000_000, UTC).astimezone(ZoneInfo(hours.tz))
        minute = wall.hour * 60 + wall.minute
        shown = any(wall.weekday() in one.days and one.from_minute <= minute < one.to_minute for one in hours.weekly)
        assert in_force(made(hours), at) is shown
        assert any(first <= at < last for first, last in found) is shown


@given(patterns, st.integers(0, 400 * 24 * 60), st.integers(0, 200 * 24 * 60))
def test_the_time_in_force_is_that_of_its_windows(hours: Hours, begin: int, minutes: int) -> None:
    """Through weeks that are only counted, and both changes of the clock."""
    first = us(2027, 1, 1) + begin * MINUTE_US
    one = made(hours, us(2027, 2, 3), us(2028, 1, 5))
    spent = sum(last - start for start, last in windows(one, first, first + minutes * MINUTE_US))
    assert in_force_us(one, first, first + minutes * MINUTE_US) == spent


@given(patterns, st.integers(0, 300), st.integers(1, 30), st.integers(-20, 400))
def test_nothing_changes_before_the_next_change(hours: Hours, starts: int, days: int, at: int) -> None:
    day = 24 * 60 * MINUTE_US
    first = us(2027, 1, 1)
    one = made(hours, first + starts * day, first + (starts + days) * day)
    now = first + at * day
    change = next_change_us(one, now)
    assert change > now
    for later in range(now, min(change, now + 10 * day), 17 * MINUTE_US):
        assert in_force(one, later) is in_force(one, now)


def test_the_end_comes_at_the_microsecond() -> None:
    one = made(None, 1_000, 2_000)
    assert [in_force(one, at) for at in (999, 1_000, 1_999, 2_000)] == [False, True, True, False]
    assert [next_change_us(one, at) for at in (0, 1_000, 2_000)] == [1_000, 2_000, NEVER_US]
    assert next_change_us(made(None), 5) == NEVER_US
    assert [in_force_us(one, start, 1_500) for start in (0, 1_200, 1_500, 9_000)] == [500, 300, 0, 0]


def test_states() -> None:
    """R18: scheduled, active, ended or cancelled."""
    assert [status(10, 20, None, at) for at in (9, 10, 20)] == ["scheduled", "active", "ended"]
    assert status(10, None, 5, 9) == "cancelled"
    assert timedelta(microseconds=NEVER_US) > timedelta(days=50_000)
