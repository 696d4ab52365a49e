"""R19: what is sold fits in every minute of the calendar, and a refusal says how much would."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fareclass.core.snapshot import Capacity, Hours, Reservation, Window
from fareclass.core.times import DAY_US
from fareclass.policy.calendar import windows
from fareclass.policy.capacity import Pool, Tpm, fullest, grows, largest_fit, lone, shortage, sold
from tests.unit.policy.test_policy_calendar import clock, us

NOW = us(2027, 1, 1)
POOL = Pool(Capacity(input_tpm=4_000_000, output_tpm=600_000), 64, 64)


def floor(
    input_tpm: int, output_tpm: int, hours: Hours | None = None, starts_us: int = NOW, ends_us: int | None = None
) -> Reservation:
    return Reservation(
        id="rsv", project="p", model="m", input_tpm=input_tpm, output_tpm=output_tpm, overflow=None,
        starts_us=starts_us, ends_us=ends_us, hours=hours,
    )  # fmt: skip


@pytest.mark.parametrize(("slots", "percent"), [(8, 37), (16, 47), (64, 65), (256, 76)])
def test_the_share_of_a_pool_that_can_be_sold(slots: int, percent: int) -> None:
    """R19's own figures."""
    pool = POOL._replace(slots=slots, reservable=slots)
    assert round(100 * lone(pool, Tpm(0, 0)).output / 600_000) == percent


sides = st.integers(0, 8_000_000)


@given(sides, sides, st.integers(1, 1_000), st.integers(1, 64))
def test_what_fits_is_the_formula(input_tpm: int, output_tpm: int, slots: int, lane: int) -> None:
    """a + 2.5 √a ≤ 0.9 × slots, against fractions; loads are rounded up to 10⁻⁶ slots."""
    pool = POOL._replace(slots=slots, reservable=min(lane, slots))
    load = slots * (Fraction(input_tpm, 4_000_000) + Fraction(output_tpm, 600_000))

    def exactly(load: Fraction) -> bool:
        rest = Fraction(9, 10) * pool.reservable - load
        return rest >= 0 and rest * rest >= Fraction(25, 4) * load

    if pool.fits(Tpm(input_tpm, output_tpm)):
        assert exactly(load)
    else:
        assert not exactly(load + Fraction(1, 10**6))


@example(0, 0, 4_000_000, 600_000)
@given(sides, sides, st.integers(0, 2_600_000), st.integers(0, 390_000))
def test_the_offer_fits_and_a_token_more_does_not(
    asked_input: int, asked_output: int, taken_input: int, taken_output: int
) -> None:
    asked, taken = Tpm(asked_input, asked_output), Tpm(taken_input, taken_output)
    offer = largest_fit(POOL, taken, asked)
    if asked == offer:
        return
    if not POOL.fits(taken):
        assert offer == Tpm(0, 0)
        return
    assert POOL.fits(taken.plus(offer))
    assert all(offer) or offer == Tpm(0, 0) or 0 in asked, "one of two sides alone is of no use"
    whole = max(asked)
    least = -(-whole // min(asked)) if min(asked) else 1
    more = max(*offer, least - 1) + 1
    assert not POOL.fits(taken.plus(Tpm(asked.input * more // whole, asked.output * more // whole)))
    assert abs(offer.input * asked.output - offer.output * asked.input) < 2 * whole, "in the proportion asked for"


starts = st.integers(0, 80 * 24)
hours = st.one_of(
    st.none(),
    st.builds(
        lambda tz, begin, day: clock(tz, f"{begin:02}:00", f"{begin + 8:02}:00", day, (day + 1) % 7),
        st.sampled_from(["Europe/Vienna", "America/New_York"]),
        st.integers(0, 16),
        st.integers(0, 6),
    ),
)
floors = st.builds(
    lambda tpm, when, start, length: floor(
        tpm, tpm // 7, when, us(2027, 3, 1) + start * DAY_US // 24, us(2027, 3, 1) + (start + length) * DAY_US // 24
    ),
    st.integers(1, 900_000), hours, starts, st.integers(1, 40 * 24),
)  # fmt: skip


@given(st.lists(floors, max_size=6), floors)
def test_the_fullest_moment_is_the_fullest(others: list[Reservation], new: Reservation) -> None:
    """Against looking every quarter of an hour, through the weeks in which the clocks are changed."""
    found = fullest(POOL, others, new, NOW)

    def work(tpm: Tpm) -> int:
        return tpm.input * 600_000 + tpm.output * 4_000_000

    looked = [
        work(sold(others, at))
        for first, last in windows(new, new.starts_us, new.ends_us or 0)
        for at in range(first, last, 15 * 60_000_000)
    ]
    assert work(found.sold) == max(looked, default=0)
    assert fullest(POOL, others[::-1], new, NOW) == found


@given(st.lists(floors, max_size=8), st.randoms())
def test_the_order_of_making_does_not_matter_to_what_fits(wanted: list[Reservation], random) -> None:
    """All of them fit one after another in one order if and only if they do in any other."""

    def all_fit(order: list[Reservation]) -> bool:
        return all(shortage(POOL, order[:place], one, NOW) is None for place, one in enumerate(order))

    shuffled = random.sample(wanted, len(wanted))
    assert all_fit(wanted) is all_fit(shuffled)


def test_hours_that_never_meet_share_a_pool() -> None:
    """Mornings and afternoons are sold twice; one who wants all day gets what both leave."""
    most = lone(POOL, Tpm(0, 0)).output
    morning = floor(0, most, clock("Europe/Vienna", "06:00", "12:00", *range(7)))
    afternoon = floor(0, most, clock("Europe/Vienna", "12:00", "18:00", *range(7)))
    assert shortage(POOL, [morning], afternoon, NOW) is None
    assert shortage(POOL, [morning, afternoon], floor(0, 1), NOW) is not None


def test_clocks_that_change_on_different_days_are_seen() -> None:
    """Noon to one in Vienna and six to seven in New York are apart all year, but for some weeks in March and autumn."""
    most = lone(POOL, Tpm(0, 0)).output
    vienna = floor(0, most, clock("Europe/Vienna", "11:00", "12:00", 0))
    york = floor(0, most, clock("America/New_York", "06:00", "07:00", 0))
    assert shortage(POOL, [vienna], york, NOW) is not None
    worst = shortage(POOL, [vienna], york, NOW)
    assert worst is not None
    assert us(2027, 3, 14) < worst.at_us < us(2027, 3, 28)
    winter = floor(0, most, york.hours, NOW, us(2027, 3, 14))
    assert shortage(POOL, [vienna], winter, NOW) is None


def test_a_thousand_reservations_are_checked_at_once() -> None:
    """With hours of four zones over three years; the pool is nearly sold, so that each must be looked at."""
    zones = ("Europe/Vienna", "America/New_York", "Asia/Tokyo", "Australia/Sydney")
    others = [
        floor(
            2_000, 10, clock(zones[n % 4], "09:00", "17:00", 0, 1, 2, 3, 4), NOW + n * DAY_US, NOW + (n + 95) * DAY_US
        )
        for n in range(1_000)
    ]
    assert shortage(POOL, others, floor(2_500_000, 1_000), NOW) is not None
    assert shortage(POOL, others, floor(2_000_000, 1_000), NOW) is None


def test_only_what_takes_more_is_checked_again() -> None:
    old = floor(10, 10, None, NOW, NOW + DAY_US)
    fewer = floor(10, 5, None, NOW, NOW + DAY_US // 2)
    assert not grows(fewer, old)
    assert grows(old, fewer)
    assert grows(floor(10, 10, None, NOW), old)
    assert grows(floor(10, 10, Hours(tz="UTC", weekly=(Window((0,), 0, 60),)), NOW, NOW + DAY_US), old)
