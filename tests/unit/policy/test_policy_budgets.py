"""Budgets: holds, top-ups, periods (R26)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Budget
from fareclass.policy.budgets import Budgets, Hold, Limit, period

USD = 10**12
DAY = 86_400_000_000


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOON = us("2026-11-23T12:00:00")


def limit(usd: float = 1, per: str = "day", account: str = "proj_a") -> Limit:
    return Limit(account, f"project '{account}'", Budget(pico=round(usd * USD), per=per))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per", "at", "starts", "ends"),
    [
        ("day", "2026-11-23T00:00:00", "2026-11-23T00:00:00", "2026-11-24T00:00:00"),
        ("day", "2026-12-31T23:59:59", "2026-12-31T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T10:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_r26_days_and_months_are_those_of_utc(per: str, at: str, starts: str, ends: str) -> None:
    assert period(per, us(at)) == (us(starts), us(ends))  # type: ignore[arg-type]
    assert period(per, us(ends) - 1) == (us(starts), us(ends))  # type: ignore[arg-type]


def test_r26_what_is_held_can_t_be_spent_twice() -> None:
    budgets, mine = Budgets(NOON), [limit()]
    first = budgets.hold(mine, USD * 6 // 10, NOON)
    assert first is not None
    assert budgets.hold(mine, USD * 5 // 10, NOON) is None
    assert not budgets.top_up(first, USD * 5 // 10, NOON) and budgets.top_up(first, USD * 4 // 10, NOON)
    budgets.release(first)
    budgets.release(first)
    budgets.spend("proj_a", USD // 4, NOON)
    spending = budgets.standing("proj_a", mine[0].budget, NOON)
    assert (spending.spent, spending.held, spending.left) == (USD // 4, 0, USD * 3 // 4)


def test_r26_a_request_counts_in_the_day_in_which_it_ended() -> None:
    """Held before midnight, ended after it: yesterday's budget is not charged, today's is, and nothing is kept."""
    budgets, mine = Budgets(NOON), [limit()]
    midnight = us("2026-11-24T00:00:00")
    hold = budgets.hold(mine, USD // 2, midnight - 1)
    assert hold is not None
    budgets.spend("proj_a", USD // 10, midnight - 1)
    assert budgets.standing("proj_a", mine[0].budget, midnight).spent == 0, "a new day"
    assert budgets.standing("proj_a", mine[0].budget, midnight).left == USD // 2, "but what runs on is still held"
    budgets.release(hold)
    budgets.spend("proj_a", USD // 2, midnight)
    budgets.spend("proj_a", USD // 100, midnight - 1)  # settled late: the day is over
    assert budgets.standing("proj_a", mine[0].budget, midnight).spent == USD // 2
    month = limit(per="month").budget
    assert budgets.standing("proj_a", month, midnight).spent == USD // 10 + USD // 2 + USD // 100


def test_r26_what_was_spent_before_the_start_counts_until_its_period_ends() -> None:
    budgets = Budgets(NOON)
    budgets.spend("proj_a", 3, NOON)
    budgets.load("proj_a", {"day": 100, "month": 1000})
    day, month = limit().budget, limit(per="month").budget
    assert budgets.standing("proj_a", day, NOON + 1).spent == 103
    assert budgets.standing("proj_a", day, NOON + DAY).spent == 0
    assert budgets.standing("proj_a", month, NOON + DAY).spent == 1003
    assert budgets.standing("proj_a", month, NOON + 31 * DAY).spent == 0


def test_r26_a_voided_entry_costs_nothing() -> None:
    budgets = Budgets(NOON)
    budgets.spend("proj_a", 500, NOON)
    budgets.spend("proj_a", -500, NOON)
    assert budgets.standing("proj_a", limit().budget, NOON).spent == 0


def test_r26_a_refusal_says_which_budget_how_much_is_left_and_when_it_renews() -> None:
    budgets = Budgets(NOON)
    budgets.spend("key_a", USD * 9 // 10, NOON)
    refusal = budgets.refusal([limit(5), limit(1, account="key_a")], USD // 5, NOON)
    assert refusal.outcome is Outcome.THROTTLED and refusal.code == "budget_exceeded"
    assert "key_a" in refusal.message and "0.1 USD is left" in refusal.message
    assert "2026-11-24T00:00:00Z" in refusal.message
    assert refusal.retry_after_ms == 12 * 3_600_000 and refusal.retry is False, "no client shall try for half a day"
    late = budgets.refusal([limit(1, account="key_a")], USD // 5, us("2026-11-24T00:00:00") - 30_000_000)
    assert late.retry_after_ms == 30_000 and late.retry is None


def test_r26_where_only_running_requests_are_in_the_way_it_pays_to_come_back_soon() -> None:
    budgets, mine = Budgets(NOON), [limit()]
    assert budgets.hold(mine, USD, NOON) is not None
    refusal = budgets.refusal(mine, USD // 2, NOON)
    assert "under way" in refusal.message and refusal.retry_after_ms == 1_000 and refusal.retry is None


def test_r26_no_wait_helps_who_asks_for_more_than_the_whole_budget() -> None:
    refusal = Budgets(NOON).refusal([limit()], 2 * USD, NOON)
    assert refusal.retry is False and refusal.retry_after_ms is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["hold", "top", "end", "void"]), st.integers(0, 400), st.integers(0, 20 * 3_600_000_000)),
    max_size=60,
)


@given(steps=STEPS, before=st.integers(0, 300))
def test_r26_books_agree_with_a_ledger_kept_the_slow_way(steps: list[tuple[str, int, int]], before: int) -> None:
    """Whatever comes, spent is the sum of what ended in the period, and holds never pass what is left."""
    budgets, day = Budgets(NOON), Budget(pico=1_000, per="day")
    budgets.load("proj_a", {"day": before, "month": before})
    mine, now = [Limit("proj_a", "project a", day)], NOON
    holds: list[Hold] = []
    ledger: list[tuple[int, int]] = [(NOON - 1, before)]
    for what, amount, later in steps:
        now += later // 10
        left = budgets.standing("proj_a", day, now).left
        if what == "hold":
            hold = budgets.hold(mine, amount, now)
            assert (hold is not None) == (amount <= left or not amount)
            holds += [hold] if hold is not None else []
        elif what == "top" and holds:
            assert budgets.top_up(holds[0], amount, now) == (amount <= left or not amount)
        elif holds:
            budgets.release(holds.pop())
            if what == "end":
                ledger.append((now, amount))
                budgets.spend("proj_a", amount, now)
        starts, ends = period("day", now)
        standing = budgets.standing("proj_a", day, now)
        assert standing.spent == sum(cost for at, cost in ledger if starts <= at < ends)
        assert standing.held == sum(hold.pico for hold in holds)
