"""The scheduling rules, each on the smallest pool that shows it."""

from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import DEFAULT_POLICIES, Tier, TierPolicy
from fareclass.sched.ticket import State
from tests.unit.sched.pool import Pool

RESERVED, PRIORITY, DEFAULT, FLEX, BATCH = Tier
FULL = {tier: TierPolicy(**{**{f: getattr(p, f) for f in p.__struct_fields__}, "max_batch": 1.0})
        for tier, p in DEFAULT_POLICIES.items()}  # fmt: skip


def test_a_free_slot_goes_to_the_best_tier_first() -> None:
    """R7."""
    pool = Pool(1, continuable=False)
    pool.running("a", RESERVED)
    for name, tier in (("f", FLEX), ("d", DEFAULT), ("b", BATCH), ("p", PRIORITY), ("r", RESERVED)):
        pool.offer(name, tier)
    pool.said()
    for name in ("a", "r", "p", "d", "f"):
        pool.finish(name)
    assert pool.said() == [f"start {name} on r0" for name in "rpdfb"]


def test_a_floor_keeps_slots_of_a_worse_tier_from_being_taken() -> None:
    """R7: tickets inside their tier's floor are nobody's victims."""
    floor = TierPolicy(max_batch=1.0, max_wait_s=540, roam_after_s=15, floor=0.5)
    pool = Pool(2, policies={**FULL, FLEX: floor})
    pool.running("f1", FLEX)
    pool.running("f2", FLEX)
    pool.said()
    pool.offer("p1", PRIORITY)
    pool.offer("p2", PRIORITY)
    pool.paused("f1")
    assert pool.said() == ["pause f1", "start p1 on r0"]
    assert pool.tickets["f2"].state is State.RUNNING


def test_batch_beside_reserved_stays_below_the_ceiling() -> None:
    """R9: max_batch 0.75 of 4 slots is 3; what was there before drains and is not paused for it."""
    pool = Pool(4)
    for name in ("b1", "b2", "b3"):
        pool.running(name, BATCH)
    pool.running("r", RESERVED)
    pool.offer("b4", BATCH)
    pool.said()
    pool.finish("b1")
    assert pool.said() == []
    pool.finish("b2")
    assert pool.said() == ["start b4 on r0"]


def test_reserved_and_priority_are_kept_out_by_slots_alone() -> None:
    """R9."""
    pool = Pool(4)
    for name, tier in (("r1", RESERVED), ("p1", PRIORITY), ("r2", RESERVED), ("p2", PRIORITY)):
        pool.running(name, tier)
    assert [line for line in pool.said() if line.startswith("start")] == [
        f"start {name} on r0" for name in ("r1", "p1", "r2", "p2")
    ]


def test_a_pause_takes_the_worst_tier_and_there_the_smallest() -> None:
    """R11: (prompt + produced) × (1 + times paused), among tickets of the worst tier."""
    pool = Pool(3, policies=FULL)
    pool.running("d", DEFAULT, prompt_tokens=1)
    pool.running("big", FLEX, prompt_tokens=900)
    pool.running("small", FLEX, prompt_tokens=50)
    pool.said()
    pool.offer("r", RESERVED)
    assert pool.said() == ["pause small"]
    pool.paused("small")
    assert pool.said() == ["start r on r0"]


def test_a_burst_takes_one_slot_for_each_of_its_tickets_at_once() -> None:
    """R11: the second does not wait until the first one's pause is through."""
    pool = Pool(4, policies=FULL)
    for number in range(4):
        pool.running(f"f{number}", FLEX)
    pool.said()
    for number in range(3):
        pool.offer(f"p{number}", PRIORITY)
    assert len([line for line in pool.said() if line.startswith("pause")]) == 3


def test_a_paused_stream_goes_on_before_new_ones_and_on_its_own_replica() -> None:
    """R8, R11."""
    pool = Pool(1, 1, policies=FULL)
    pool.running("f", FLEX, prompt_tokens=50)
    pool.running("g", FLEX, prompt_tokens=900)
    pool.offer("r", RESERVED)
    pool.paused("f")
    pool.offer("new", FLEX)
    home = pool.tickets["f"].home
    pool.said()
    pool.finish("g")
    assert pool.said() == ["start new on r1"], "f waits for its own replica's warm cache"
    pool.finish("r")
    assert pool.said() == [f"start f on {home}"]


def test_a_paused_stream_goes_elsewhere_after_its_tiers_time() -> None:
    """R11: flex after 15 s and ten times the cost of prefilling it again."""
    pool = Pool(1, 1, policies=FULL)
    pool.running("f", FLEX, prompt_tokens=50)
    pool.running("g", DEFAULT)
    pool.offer("r", RESERVED)
    pool.paused("f")
    pool.finish("g")
    pool.said()
    pool.wait(14.9)
    assert pool.said() == []
    pool.wait(1.0)
    assert pool.said() == ["start f on r1"]


def test_what_has_sent_nothing_and_can_not_be_continued_starts_over_at_most_three_times() -> None:
    """R11."""
    pool = Pool(1, continuable=False, policies=FULL)
    pool.offer("f", FLEX, continuable=False)
    for number in range(3):
        pool.offer(f"p{number}", PRIORITY)
        pool.finish(f"p{number}")
    assert pool.said().count("restart f") == 3
    pool.offer("p3", PRIORITY)
    assert pool.said() == [], "after three restarts it is left alone"


def test_a_stream_that_can_not_be_continued_is_nobodys_victim() -> None:
    """R11: restarting it would send its beginning twice."""
    pool = Pool(1, policies=FULL)
    pool.running("f", FLEX, continuable=False)
    pool.said()
    pool.offer("r", RESERVED)
    assert pool.said() == []


def test_flex_takes_from_nobody_and_default_only_where_continuing_is_cheap() -> None:
    """R11: a continuation that recomputes more than 256 tokens is too dear for default."""
    cheap, dear = Pool(1, policies=FULL), Pool(1, recompute_tokens=257, policies=FULL)
    for pool in (cheap, dear):
        pool.running("b", BATCH)
        pool.said()
        pool.offer("f", FLEX)
        assert pool.said() == []
        pool.offer("d", DEFAULT)
    assert cheap.said() == ["pause b"]
    assert dear.said() == []


def test_after_a_resume_only_reserved_takes_it_again() -> None:
    """R11: protection for 0.5 s or four times its prefill."""
    pool = Pool(1, policies=FULL)
    pool.running("f", FLEX)
    pool.offer("p", PRIORITY)
    pool.paused("f")
    pool.finish("p")
    pool.stream("f")
    pool.said()
    pool.offer("p2", PRIORITY)
    assert pool.said() == []
    pool.wait(0.6)
    assert pool.said() == ["pause f"]
    pool.finish("p2")
    pool.offer("r", RESERVED)
    assert "pause f" in pool.said() or pool.tickets["f"].state is State.LEAVING


def test_the_gap_guard_puts_a_long_paused_stream_ahead_of_new_priority_work() -> None:
    """R11: default before 5 s are over; once resumed it is taken only by reserved."""
    pool = Pool(1, policies=FULL)
    pool.running("d", DEFAULT)
    pool.offer("p1", PRIORITY, continuable=False)
    pool.paused("d")
    pool.stream("p1")
    pool.offer("p2", PRIORITY)
    pool.wait(5.1)
    pool.said()
    pool.finish("p1")
    assert pool.said() == ["start d on r0"]
    pool.stream("d")
    pool.wait(2)
    assert pool.said() == [], "p2 may not take it"
    pool.offer("r", RESERVED)
    assert pool.said() == ["pause d"]


def test_the_gap_guard_takes_a_running_slot_in_time_from_anybody_but_reserved() -> None:
    """R11: so that a default stream's gap stays within the guard where nothing ends in time."""
    pool = Pool(3, policies=FULL)
    pool.running("d", DEFAULT)
    pool.running("r1", RESERVED)
    pool.running("p", PRIORITY)
    pool.offer("r2", RESERVED)
    pool.paused("d")
    pool.stream("r2")
    pool.said()
    pool.wait(4.4)
    assert pool.said() == []
    pool.wait(0.2)
    assert pool.said() == ["pause p"]
    pool.paused("p")
    assert pool.said() == ["start d on r0"]
    pool.stream("d")
    pool.wait(10)
    assert pool.said() == [], "p may not take it back"
    pool.offer("r3", RESERVED)
    pool.paused("d")
    pool.stream("r3")
    pool.said()
    pool.wait(500)
    assert pool.said() == [], "nothing is taken from reserved"


def test_flex_takes_from_nobody_even_when_guarded() -> None:
    """R11: the gap guard lets it go first, no more."""
    pool = Pool(1, policies=FULL)
    pool.running("f", FLEX)
    pool.offer("d", DEFAULT)
    pool.paused("f")
    pool.stream("d")
    pool.offer("p", PRIORITY, continuable=False)
    pool.paused("d")
    pool.finish("p")
    pool.stream("d")
    pool.said()
    pool.wait(40)
    assert pool.said() == []
    pool.offer("d2", DEFAULT)
    pool.finish("d")
    assert pool.said() == ["start f on r0"]


def test_no_slot_is_taken_that_nobody_could_use() -> None:
    """R11: one freed elsewhere is of no use to a stream that waits for its own replica."""
    pool = Pool(1, 2, policies=FULL)
    pool.brain.set_tiers("r1", [PRIORITY, DEFAULT], pool.now)
    pool.running("p1", PRIORITY)
    assert pool.tickets["p1"].replica == "r0"
    pool.running("d1", DEFAULT)
    pool.running("d2", DEFAULT)
    pool.offer("r", RESERVED)
    pool.paused("p1")
    pool.stream("r")
    pool.said()
    pool.offer("p2", PRIORITY)
    assert pool.said() == ["pause d1"]
    pool.paused("d1")
    assert pool.said() == ["start p2 on r1"]


def test_a_stream_paused_too_long_ends_with_what_it_has() -> None:
    """R11: max_paused_s is 600."""
    pool = Pool(1, policies=FULL)
    pool.running("f", FLEX)
    pool.offer("r", RESERVED)
    pool.paused("f")
    pool.stream("r")
    pool.wait(599)
    assert "f" not in pool.refused
    pool.wait(2)
    assert pool.refused["f"].outcome is Outcome.EXPIRED


def test_the_gate_holds_prompts_back_but_never_reserved() -> None:
    """R52: priority and worse start only while 2,048 prompt tokens or fewer are under way."""
    pool = Pool(8)
    pool.offer("p1", PRIORITY, prompt_tokens=500)
    pool.offer("p2", PRIORITY, prompt_tokens=1900)
    pool.offer("r", RESERVED, prompt_tokens=50_000)
    assert pool.said() == ["start p1 on r0", "start r on r0"]
    pool.stream("r")
    pool.stream("p1")
    assert pool.said() == ["start p2 on r0"]


def test_a_long_prompt_gets_its_turn_though_small_ones_keep_coming() -> None:
    """R52: the replica is kept free of whoever is behind it, and then it starts alone."""
    pool = Pool(8)
    pool.offer("a", DEFAULT, prompt_tokens=1000)
    pool.offer("long", DEFAULT, prompt_tokens=9000)
    pool.offer("b", DEFAULT, prompt_tokens=10, project="q")
    assert pool.said() == ["start a on r0"]
    pool.stream("a")
    assert pool.said() == ["start long on r0"]
    pool.stream("long")
    assert pool.said() == ["start b on r0"]


def test_a_worse_long_prefill_yields_to_a_better_ticket() -> None:
    """R52: it is put back at the head of its line."""
    pool = Pool(8)
    pool.offer("f", FLEX, prompt_tokens=9000)
    pool.offer("g", FLEX, prompt_tokens=9000)
    pool.said()
    pool.offer("d", DEFAULT)
    assert pool.said() == ["restart f", "start d on r0"]
    pool.stream("d")
    assert pool.said() == ["start f on r0"], "before g, which came later"


def test_on_an_engine_that_loses_a_cut_prompt_only_the_best_make_it_yield_and_three_times() -> None:
    """R52."""
    pool = Pool(8, keeps_cut=False)
    pool.offer("f", FLEX, prompt_tokens=9000)
    pool.said()
    pool.offer("d", DEFAULT)
    assert pool.said() == [], "d can't make it yield, and waits for the gate"
    pool.finish("d")
    for number in range(4):
        pool.offer(f"p{number}", PRIORITY)
        pool.finish(f"p{number}")
    assert pool.said().count("restart f") == 3
