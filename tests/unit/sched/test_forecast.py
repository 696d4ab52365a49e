"""Expected waits before and after anything was measured (R14)."""

import pytest

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from tests.unit.sched.pool import Pool
from tests.unit.sched.test_brain_limits import FULL

DEFAULT = Tier.DEFAULT


def crowd(count: int = 64) -> Pool:
    """So many callers at once on an idle pool of four slots that nothing is known of."""
    pool = Pool(4, continuable=False, policies=FULL)
    for number in range(count):
        pool.offer(f"d{number}", DEFAULT)
    return pool


@pytest.mark.parametrize("service_s", [0.1, 0.3, 0.5])
def test_a_burst_on_an_idle_pool_that_is_fast_enough_is_answered_whole(service_s: float) -> None:
    """R14: nobody is refused by a guess; nor is who comes while the first bursts of slots come free."""
    pool = crowd()
    for number in range(64):
        if number % 4 == 0:
            pool.wait(service_s)
        pool.finish(f"d{number}")
        pool.offer(f"late{number}", DEFAULT)
        pool.finish(f"late{number}")
    assert not pool.refused


def test_a_slow_pool_refuses_by_what_the_first_answers_have_taken_so_far() -> None:
    """R14: an answer takes 20 s. Who comes at 2 s, behind 60, is refused at once; who stands in line, at the limit."""
    pool = crowd()
    assert not pool.refused
    pool.wait(2.0)
    pool.offer("late", DEFAULT)
    refusal = pool.refused["late"]
    assert refusal.outcome is Outcome.SHED
    assert refusal.retry_after_s == pytest.approx(61 * 2 / 4 - 10)
    pool.wait(8.1)
    assert len(pool.refused) == 61
    assert {refusal.outcome for name, refusal in pool.refused.items() if name != "late"} == {Outcome.EXPIRED}


def test_the_pace_of_a_line_is_learned_within_ten_starts() -> None:
    """R14: answers of 1 s on four slots that come free together: a start every 0.25 s, whichever was the last."""
    pool = crowd(60)
    for number in range(16):
        if number % 4 == 0:
            pool.wait(1.0)
        pool.finish(f"d{number}")
        assert 0.7 <= pool.brain.wait_s(DEFAULT, pool.now) / ((60 - 4 - number) * 0.25) <= 2.0, number
