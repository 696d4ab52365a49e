from decimal import Decimal

import pytest

from fareclass.console.words import count_short, hours, ms, parse_whole, total, usd, usd_short, when


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1234.5", "$1,234.50"),
        ("0.000000000001", "$0.000000000001"),
        ("0.1070", "$0.107"),
        ("12", "$12.00"),
        ("-3.25", "−$3.25"),
        (Decimal("1E+3"), "$1,000.00"),
        (None, "–"),
    ],
)
def test_an_amount_keeps_every_digit(amount: str | Decimal | None, shown: str):
    """R34."""
    assert usd(amount) == shown


def test_a_sum_is_exact():
    """R34: where floats would say 0.30000000000000004."""
    assert usd(total(["0.1", "0.2", "0.000000000001"])) == "$0.300000000001"


def test_short_amounts_of_headings():
    assert [usd_short(amount) for amount in ("0", "1234.567", "0.00012345")] == ["$0.00", "$1,234.57", "$0.00012"]


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 ms"),
        (8.25, "8.25 ms"),
        (850.4, "850 ms"),
        (1_250, "1.25 s"),
        (200_000, "3 min 20 s"),
        (7_500_000, "2 h 5 min"),
    ],
)
def test_times(number: float, shown: str):
    assert ms(number) == shown


def test_hours_to_the_minute():
    assert [hours(minutes) for minutes in (0, 4, 60, 150, 86_401)] == [
        "0 min",
        "4 min",
        "1 h",
        "2 h 30 min",
        "1,440 h 1 min",
    ]


def test_large_numbers_and_moments():
    assert [count_short(number) for number in (None, 950, 12_345, 4_100_000)] == ["–", "950", "12.3 k", "4.1 M"]
    assert when("2026-11-28T23:30:00+02:00") == "2026-11-28 21:30"


def test_whole_numbers_as_they_are_typed():
    assert [parse_whole(text, "x") for text in ("1,200", " 7 ", "", None, 12.0, "1_000")] == [
        1200,
        7,
        None,
        None,
        12,
        1000,
    ]
    with pytest.raises(ValueError, match="slots must be 0 or more"):
        parse_whole("-5", "slots")
    for text in ("many", "--1", "-", "1.5", "9" * 19):
        with pytest.raises(ValueError, match="slots must be a whole number"):
            parse_whole(text, "slots")
