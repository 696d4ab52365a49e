"""Placement, failing replicas, waits and quotas, each on the smallest pool that shows it."""

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Quota
from fareclass.core.tiers import DEFAULT_POLICIES, Tier, TierPolicy
from fareclass.sched.ticket import State
from tests.unit.sched.pool import Pool

RESERVED, PRIORITY, DEFAULT, FLEX, BATCH = Tier
FULL = {tier: TierPolicy(**{**{f: getattr(p, f) for f in p.__struct_fields__}, "max_batch": 1.0})
        for tier, p in DEFAULT_POLICIES.items()}  # fmt: skip


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
    pool.offer("a", DEFAULT, holders={"r0": 5}, prompt_tokens=10)
    assert pool.said()[-1] == "start a on r0"
    pool.offer("big", RESERVED, prompt_tokens=9000, holders={"r0": 100})
    pool.offer("b", RESERVED, holders={"r0": 5}, prompt_tokens=10)
    assert pool.said()[-1] == "start b on r1"


def test_the_replica_that_holds_most_of_a_prompt_is_preferred_by_what_it_saves() -> None:
    """R16: of several holders the one with the least left to compute; a holder that is busier by less than it saves."""
    pool = Pool(4, 4, 4)
    pool.offer("a", FLEX, holders={"r1": 50, "r2": 80}, prompt_tokens=100)
    assert pool.said()[-1] == "start a on r2"
    pool.offer("b", RESERVED, holders={"r2": 900}, prompt_tokens=1_000)
    assert pool.said()[-1] == "start b on r2"
    pool.offer("c", RESERVED, holders={"r2": 10}, prompt_tokens=100)
    assert pool.said()[-1] != "start c on r2"


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


def test_a_concurrency_limit_says_when_a_place_is_likely_to_be_free() -> None:
    """R14, R25: from how long the project's own requests take, waits included; at least 1 s; never where none ever fits."""
    pool, quota = Pool(8, policies=FULL), Quota(concurrency=4)
    for number in range(4):
        pool.offer(f"a{number}", DEFAULT, quota=quota)
    pool.offer("unknown", DEFAULT, quota=quota)
    assert pool.refused["unknown"].retry_after_s == 1.0, "none of its requests has ended yet"
    pool.wait(12.0)
    for number in range(4):
        pool.finish(f"a{number}", used=5)
        pool.offer(f"b{number}", DEFAULT, quota=quota)
    for name, width, wait_s in (("one", 1, 3.0), ("all", 4, 12.0), ("wider", 5, None)):
        pool.offer(name, DEFAULT, width=width, quota=quota)
        assert pool.refused[name].retry_after_s == wait_s
        assert pool.refused[name].hopeless is (wait_s is None)


def test_a_batch_takes_nothing_of_a_projects_quota_and_gives_nothing_back() -> None:
    """R37: neither by its tokens, nor by running, nor by being sent without one."""
    pool, quota = Pool(8), Quota(tpm=1_000, rpm=2, concurrency=2)
    pool.offer("a", DEFAULT, hold_tokens=900, quota=quota)
    for number in range(3):
        pool.finish(pool.offer(f"ended{number}", BATCH, hold_tokens=500).id, used=500)
    pool.offer("line", BATCH, hold_tokens=500)
    pool.offer("more", DEFAULT, hold_tokens=200, quota=quota)
    assert list(pool.refused) == ["more"]
    pool.offer("b", DEFAULT, hold_tokens=100, quota=quota)
    pool.offer("c", DEFAULT, hold_tokens=0, quota=quota)
    assert list(pool.refused) == ["more", "c"]


def test_what_is_in_line_for_a_batch_leaves_others_their_room() -> None:
    """R14, R39: bytes in line count against who ranks no better."""
    pool = Pool(1, policies=FULL, continuable=False)
    pool.running("x", PRIORITY, continuable=False)
    half = 256 * 1024 * 1024
    for number in range(3):
        pool.offer(f"b{number}", BATCH, size_bytes=half, continuable=False)
    assert list(pool.refused) == ["b2"]
    for name, tier in (("f0", FLEX), ("f1", FLEX), ("f2", FLEX), ("p0", PRIORITY), ("p1", PRIORITY), ("p2", PRIORITY)):
        pool.offer(name, tier, size_bytes=half, continuable=False)
    assert list(pool.refused) == ["b2", "f2", "p2"]
