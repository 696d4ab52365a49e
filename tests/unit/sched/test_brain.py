"""The scheduling rules, each on the smallest pool that shows it."""

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Quota
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
    """R11: default after 5 s; once resumed it is taken only by reserved."""
    pool = Pool(1, policies=FULL)
    pool.running("d", DEFAULT)
    pool.offer("p1", PRIORITY)
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


def test_placement_spreads_the_better_tiers_and_packs_the_worse() -> None:
    """R16."""
    pool = Pool(4, 4)
    pool.running("d1", DEFAULT)
    pool.running("d2", DEFAULT)
    pool.running("f1", FLEX)
    pool.running("f2", FLEX)
    assert pool.said() == ["start d1 on r0", "start d2 on r1", "start f1 on r0", "start f2 on r0"]


def test_a_cached_prefix_draws_its_ticket_unless_that_replica_is_far_busier() -> None:
    """R16."""
    pool = Pool(4, 4)
    pool.running("x", DEFAULT)
    pool.offer("a", DEFAULT, affinity="r0", cached_tokens=5, prompt_tokens=10)
    assert pool.said()[-1] == "start a on r0"
    pool.offer("big", RESERVED, prompt_tokens=9000, affinity="r0", cached_tokens=1)
    pool.offer("b", RESERVED, affinity="r0", cached_tokens=5, prompt_tokens=10)
    assert pool.said()[-1] == "start b on r1"


def test_a_replica_given_to_some_tiers_takes_no_others() -> None:
    """R16."""
    pool = Pool(2, 2)
    pool.do(pool.brain.set_tiers("r0", [RESERVED, PRIORITY], pool.now))
    for number in range(3):
        pool.offer(f"f{number}", FLEX)
    pool.offer("p", PRIORITY)
    assert pool.said() == ["start f0 on r1", "start f1 on r1", "start p on r0"]


def test_a_replica_that_fails_hands_its_work_on() -> None:
    """R46: what sent nothing starts again, a continuable stream goes on, only the rest ends."""
    pool = Pool(3, 3)
    pool.do(pool.brain.set_replica("r1", pool.now, up=False))
    pool.running("stream", DEFAULT)
    pool.running("stuck", DEFAULT, continuable=False)
    pool.offer("fresh", DEFAULT, continuable=False)
    pool.do(pool.brain.set_replica("r1", pool.now, up=True))
    pool.do(pool.brain.set_replica("r0", pool.now, up=False))
    pool.said()
    for name in ("stream", "stuck", "fresh"):
        pool.do(pool.brain.failed(pool.tickets[name], pool.now))
    assert pool.said() == ["start stream on r1", "refuse stuck", "start fresh on r1"]
    assert pool.refused["stuck"].outcome is Outcome.UPSTREAM_FAILED


def test_a_replica_that_failed_a_ticket_does_not_get_it_again_while_there_is_another() -> None:
    """R46: or it would fail it three times over."""
    pool = Pool(4, 1)
    pool.running("busy", RESERVED)
    pool.do(pool.brain.set_replica("r0", pool.now, slots=8))
    ticket = pool.offer("a", DEFAULT)
    first = ticket.replica
    pool.do(pool.brain.failed(ticket, pool.now))
    assert {first, ticket.replica} == {"r0", "r1"}
    pool.do(pool.brain.failed(ticket, pool.now))
    assert ticket.replica is not None, "now both have failed it: any will do"
    pool.do(pool.brain.failed(ticket, pool.now))
    assert pool.refused["a"].outcome is Outcome.UPSTREAM_FAILED


def test_a_ticket_that_shuns_a_replica_forgives_it_when_the_other_goes_away() -> None:
    """R12, R46: it must not wait for ever beside a free slot."""
    pool = Pool(1, 1)
    ticket = pool.offer("a", FLEX)
    other = "r1" if ticket.replica == "r0" else "r0"
    pool.running("b", RESERVED)
    pool.do(pool.brain.failed(ticket, pool.now))
    assert ticket.state is State.WAITING
    pool.said()
    pool.do(pool.brain.set_replica(other, pool.now, up=False))
    assert pool.said()[0].startswith("start a")


def test_draining_moves_what_can_be_moved_and_starts_nothing_new() -> None:
    """R16, R46."""
    pool = Pool(2, 2, policies=FULL)
    pool.running("a", DEFAULT)
    pool.said()
    pool.do(pool.brain.set_replica("r0", pool.now, draining=True))
    pool.paused("a")
    pool.offer("b", DEFAULT)
    assert pool.said() == ["pause a", "start a on r1", "start b on r1"]


def test_default_is_shed_at_once_when_the_predicted_wait_passes_its_limit() -> None:
    """R14: with an honest time to come back."""
    pool = Pool(1, continuable=False, policies=FULL)
    pool.running("d0", DEFAULT)
    for number in range(1, 4):
        pool.offer(f"d{number}", DEFAULT)
    for number in range(3):
        pool.wait(3.0)
        pool.finish(f"d{number}")
        pool.stream(f"d{number + 1}")
    pool.offer("w1", DEFAULT)
    pool.offer("w2", DEFAULT)
    pool.offer("w3", DEFAULT)
    pool.offer("shed", DEFAULT)
    refusal = pool.refused["shed"]
    assert refusal.outcome is Outcome.SHED
    assert refusal.retry_after_s is not None
    assert 1.0 <= refusal.retry_after_s <= 3.5, "about one place in line"


def test_every_wait_ends_at_its_tiers_limit() -> None:
    """R14: priority 30 s, default 10 s, flex 540 s with a code of its own."""
    pool = Pool(1, continuable=False, policies=FULL)
    pool.running("r", RESERVED)
    for name, tier in (("p", PRIORITY), ("d", DEFAULT), ("f", FLEX)):
        pool.offer(name, tier)
    for until, gone in ((9.9, set()), (10.1, {"d"}), (30.1, {"d", "p"}), (539, {"d", "p"}), (541, {"d", "p", "f"})):
        pool.wait(100.0 + until - pool.now)
        assert set(pool.refused) == gone, until
    assert pool.refused["f"].code == "resource_unavailable"


def test_a_line_has_a_bound() -> None:
    """R14."""
    short = TierPolicy(max_batch=1.0, max_wait_s=540, roam_after_s=15, queue_limit=2)
    pool = Pool(1, policies={FLEX: short})
    for number in range(4):
        pool.offer(f"f{number}", FLEX)
    assert pool.refused["f3"].outcome is Outcome.SHED
    assert pool.refused["f3"].retry_after_s is not None


def test_a_ticket_wider_than_any_replica_is_invalid() -> None:
    """R49."""
    pool = Pool(4)
    pool.offer("w", DEFAULT, width=5)
    assert pool.refused["w"].outcome is Outcome.INVALID


def test_quota_holds_are_taken_at_the_start_and_corrected_at_the_end() -> None:
    """R25: TPM from an estimate, settled on what was used; without a token all of it comes back."""
    pool, quota = Pool(8), Quota(tpm=1000)
    pool.offer("a", DEFAULT, hold_tokens=900, quota=quota)
    pool.offer("b", DEFAULT, hold_tokens=200, quota=quota)
    assert pool.refused["b"].outcome is Outcome.THROTTLED
    assert pool.refused["b"].retry_after_s == 6.0, "100 tokens at 1000 a minute"
    pool.finish("a", used=300)
    pool.offer("c", DEFAULT, hold_tokens=700, quota=quota)
    pool.finish("c", used=0)
    pool.offer("d", DEFAULT, hold_tokens=700, quota=quota)
    assert set(pool.refused) == {"b"}


def test_a_hold_larger_than_the_bucket_is_admitted_when_the_bucket_is_full() -> None:
    """R20, R25: otherwise a long prompt could never run."""
    pool, quota = Pool(8), Quota(tpm=100)
    pool.offer("huge", DEFAULT, hold_tokens=5000, quota=quota)
    pool.offer("next", DEFAULT, hold_tokens=1, quota=quota)
    assert set(pool.refused) == {"next"}


def test_a_quota_of_nothing_lets_nothing_through_and_says_that_waiting_is_in_vain() -> None:
    """R14, R25."""
    pool = Pool(8)
    for name, quota in (("t", Quota(tpm=0)), ("r", Quota(rpm=0)), ("c", Quota(concurrency=0))):
        pool.offer(name, DEFAULT, project=name, quota=quota)
        assert pool.refused[name].outcome is Outcome.THROTTLED
        assert pool.refused[name].hopeless


def test_while_no_replica_is_up_flex_waits_and_the_others_are_told_at_once() -> None:
    """R14."""
    pool = Pool(1)
    pool.do(pool.brain.set_replica("r0", pool.now, up=False))
    pool.offer("d", DEFAULT)
    pool.offer("f", FLEX)
    assert set(pool.refused) == {"d"}
    pool.do(pool.brain.set_replica("r0", pool.now, up=True))
    assert pool.said()[-1] == "start f on r0"


def test_a_stream_goes_on_only_where_it_can_be_continued() -> None:
    """R11, R46."""
    pool = Pool(1, 1, policies=FULL)
    pool.do(pool.brain.set_replica("r1", pool.now, continuable=False))
    pool.running("d", DEFAULT)
    pool.do(pool.brain.set_replica("r0", pool.now, up=False))
    pool.do(pool.brain.failed(pool.tickets["d"], pool.now))
    pool.said()
    pool.wait(1.0)
    assert pool.said() == []
    pool.do(pool.brain.set_replica("r0", pool.now, up=True))
    assert pool.said() == ["start d on r0"]


def test_concurrency_counts_sequences() -> None:
    """R25, R49: a ticket's width multiplies its hold."""
    pool, quota = Pool(8), Quota(concurrency=3)
    pool.offer("a", DEFAULT, width=2, quota=quota)
    pool.offer("b", DEFAULT, width=2, quota=quota)
    pool.finish("a")
    pool.offer("c", DEFAULT, width=3, quota=quota)
    assert set(pool.refused) == {"b"}
