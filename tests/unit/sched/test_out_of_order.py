"""R7's exceptions to the strict order are counted; what starts in order is not."""

from fareclass.core.tiers import Tier, TierPolicy
from tests.unit.sched.pool import Pool

PRIORITY = TierPolicy(max_batch=1.0, max_wait_s=600, roam_after_s=5)
FLOOR = TierPolicy(max_batch=1.0, max_wait_s=540, roam_after_s=15, floor=0.5)
GUARDED = TierPolicy(max_batch=1.0, max_wait_s=600, roam_after_s=5, gap_guard_s=5.0)


def test_r7_starts_ahead_of_a_better_tier_because_of_a_floor():
    pool = Pool(2, policies={Tier.PRIORITY: PRIORITY, Tier.FLEX: FLOOR})
    pool.running("f1", Tier.FLEX)
    assert pool.brain.floor_starts == 0, "nobody better was in line"
    pool.running("p1", Tier.PRIORITY)
    pool.offer("f2", Tier.FLEX)
    pool.offer("p2", Tier.PRIORITY)
    pool.said()
    pool.finish("f1")
    assert pool.said() == ["start f2 on r0"]
    assert (pool.brain.floor_starts, pool.brain.guard_starts) == (1, 0)


def test_r7_starts_ahead_of_a_better_tier_because_of_the_gap_guard():
    pool = Pool(1, policies={Tier.PRIORITY: PRIORITY, Tier.DEFAULT: GUARDED})
    pool.running("d", Tier.DEFAULT)
    pool.offer("p1", Tier.PRIORITY, continuable=False)
    pool.paused("d")
    pool.stream("p1")
    pool.offer("p2", Tier.PRIORITY)
    pool.wait(6)
    pool.said()
    pool.finish("p1")
    assert pool.said() == ["start d on r0"]
    assert (pool.brain.floor_starts, pool.brain.guard_starts) == (0, 1)
    pool.finish("d")
    assert pool.said() == ["start p2 on r0"]
    assert pool.brain.guard_starts == 1
