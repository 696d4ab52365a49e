"""Buckets in exact integers (R20, R25)."""

from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.snapshot import Quota
from fareclass.core.tiers import Tier
from fareclass.sched.buckets import US_PER_MINUTE, Account, Bucket
from fareclass.sched.ticket import Ticket

MOVES = st.lists(
    st.tuples(st.integers(0, 90_000_000), st.sampled_from(["take", "give", "look"]), st.integers(0, 5_000)), max_size=60
)


@given(rate=st.integers(1, 1_000_000), moves=MOVES)
def test_level_is_exactly_what_went_in_less_what_went_out(rate: int, moves: list[tuple[int, str, int]]) -> None:
    """R20: integers only, and never more than a minute of the rate."""
    now, bucket, full = 0, Bucket(rate, 0), rate * US_PER_MINUTE
    level = full
    for wait, move, amount in moves:
        now += wait
        bucket.refill(now)
        level = min(full, level + rate * wait)
        if move == "take":
            bucket.take(amount)
            level -= amount * US_PER_MINUTE
        elif move == "give":
            bucket.give(amount)
            level = min(full, level + amount * US_PER_MINUTE)
        assert bucket.tokens == level // US_PER_MINUTE


@given(rate=st.integers(1, 100_000), used=st.integers(0, 300_000), amount=st.integers(1, 300_000))
def test_the_wait_it_names_is_the_shortest_that_helps(rate: int, used: int, amount: int) -> None:
    """R14: honest to the microsecond: one less is too early."""
    bucket = Bucket(rate, 0)
    bucket.take(used)
    wait = bucket.wait_us(amount, 0)
    assert bucket.wait_us(amount, max(0, wait - 1)) > 0 or wait == 0
    assert bucket.wait_us(amount, wait) == 0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = Bucket(60, 1_000_000_000)
    bucket.take(60)
    bucket.refill(0)
    bucket.refill(1_000_000_000)
    assert bucket.tokens == 0


@given(rate=st.integers(1, 10_000), later=st.integers(1, 10_000), used=st.integers(0, 20_000))
def test_a_changed_rate_forgets_nothing_that_was_used(rate: int, later: int, used: int) -> None:
    """R25: raising a quota gives its new room at once, and no more than that."""
    bucket = Bucket(rate, 0)
    bucket.take(used)
    bucket.set_rate(later, 0)
    assert bucket.tokens == later - used


def test_a_request_in_flight_counts_once_over_a_restart() -> None:
    """R25: its place of the requests a minute is in the checkpoint, and taken when it has ended."""
    before, after = Account(Quota(rpm=3, tpm=1_000), 0), Account(Quota(rpm=3, tpm=1_000), 0)
    before.hold(Ticket("t", "p", Tier.DEFAULT, prompt_tokens=1, hold_tokens=100))
    after.restore(before.levels(0)["levels"], 0)
    after.charge(Tier.DEFAULT, 40, 1, 0)
    assert after.rpm is not None and after.tpm is not None
    assert (after.rpm.tokens, after.tpm.tokens) == (2, 960)


def test_a_wide_request_counts_as_wide_over_a_restart() -> None:
    """R25, R49: `n` sequences are `n` requests a minute, whether the gateway was restarted meanwhile or not."""
    for charged_anew in (False, True):
        before, after = Account(Quota(rpm=8), 0), Account(Quota(rpm=8), 0)
        ticket = Ticket("t", "p", Tier.DEFAULT, prompt_tokens=1, width=5)
        before.hold(ticket)
        if not charged_anew:
            before.settle(ticket, 40, 0)
        after.restore(before.levels(0)["levels"], 0)
        if charged_anew:
            after.charge(Tier.DEFAULT, 40, 5, 0)
        assert after.rpm is not None and after.rpm.tokens == 3
