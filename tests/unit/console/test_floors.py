"""Reservations as the console's calendar shows them."""

from typing import Any

import pytest

from fareclass.console.floors import WEEK_US, calendar, hours_in_words, pool_of, stood, utilisation
from fareclass.core.times import MINUTE_US

MONDAY_US = 1_796_601_600_000_000
"""2026-12-07 00:00 UTC."""
VIEW = {"model": "m", "slots": 16, "reservable_slots": 16, "input_tpm": 1_000_000, "output_tpm": 100_000}
HOURS = {"tz": "UTC", "weekly": [{"days": ["mon", "tue"], "from": "09:00", "to": "17:00"}]}


def record(**fields: Any) -> dict[str, Any]:
    held = {
        "id": "rsv_0001", "project": "p", "project_name": "bank", "model": "m", "input_tpm": 100_000, "output_tpm": 10_000,
        "starts_at": "2026-12-01T00:00:00Z", "ends_at": None, "cancelled_at": None, "hours": None,
    }  # fmt: skip
    return held | fields


def test_the_load_of_a_floor_is_that_of_both_sides():
    """R19: 10 % of what the pool reads and 10 % of what it writes; 47 % of 16 slots may be promised."""
    pool = pool_of(VIEW)
    assert pool is not None
    assert pool.load(100_000, 10_000) == pytest.approx(20)
    assert pool.most == pytest.approx(47, abs=0.5)
    assert pool_of(VIEW | {"input_tpm": None, "output_tpm": None}) is None


@pytest.mark.parametrize(
    ("fields", "was"),
    [
        ({}, True),
        ({"starts_at": "2026-12-07T23:00:00Z"}, True),
        ({"starts_at": "2026-12-08T00:00:00Z"}, False),
        ({"ends_at": "2026-12-07T00:00:00Z"}, False),
        ({"cancelled_at": "2026-12-06T00:00:00Z"}, False),
        ({"hours": HOURS}, True),
        ({"hours": {"tz": "UTC", "weekly": [{"days": ["sat"], "from": "09:00", "to": "17:00"}]}}, False),
    ],
)
def test_what_was_in_force_on_a_monday(fields: dict[str, Any], was: bool):
    assert stood(record(**fields), MONDAY_US, MONDAY_US + WEEK_US // 7) is was


def test_the_calendar_has_a_point_wherever_something_changes():
    pool = pool_of(VIEW)
    assert pool is not None
    weekly = record(id="rsv_0002", hours=HOURS)
    shown = calendar(
        [record(), weekly, record(id="rsv_0003", starts_at="2027-12-01T00:00:00Z")],
        pool,
        MONDAY_US,
        MONDAY_US + WEEK_US,
    )
    assert list(shown) == ["bank 0001", "bank 0002"]
    hour_ms = 3_600_000
    at = MONDAY_US // 1000
    assert shown["bank 0002"] == [
        (at, 0.0), (at + 9 * hour_ms, 20.0), (at + 17 * hour_ms, 0.0),
        (at + 33 * hour_ms, 20.0), (at + 41 * hour_ms, 0.0), (at + 168 * hour_ms, 0.0),
    ]  # fmt: skip
    assert [load for _, load in shown["bank 0001"]] == [20.0] * 6, "up to the end too"


def test_utilisation_is_of_the_time_in_force_and_by_burn_down():
    """R24: cache reads count a tenth."""
    hour_us = 60 * MINUTE_US
    usage = [
        {
            "project": "p",
            "model": "m",
            "served_tier": "reserved",
            "input": 1_000_000,
            "cache_read": 2_000_000,
            "output": 300_000,
        },
        {"project": "p", "model": "m", "served_tier": "default", "input": 9_000_000, "output": 9_000_000},
    ]
    whole = utilisation([record()], usage, MONDAY_US, MONDAY_US + hour_us)
    assert whole == {("p", "m"): (pytest.approx(0.2), pytest.approx(0.5))}
    part = utilisation([record(hours=HOURS)], usage, MONDAY_US + 8 * hour_us, MONDAY_US + 10 * hour_us)
    assert part == whole, "only one of the two hours counts"
    assert utilisation([record(input_tpm=0)], [], MONDAY_US, MONDAY_US + hour_us) == {("p", "m"): (0.0, 0.0)}


def test_hours_in_words():
    assert hours_in_words(None) == "around the clock"
    assert hours_in_words(HOURS) == "mon tue 09:00–17:00 UTC"
    week = {
        "tz": "Europe/Vienna",
        "weekly": [{"days": ["mon", "tue", "wed", "thu", "fri"], "from": "09:00", "to": "17:00"}],
    }
    assert hours_in_words(week) == "mon–fri 09:00–17:00 Europe/Vienna"
