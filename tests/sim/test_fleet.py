"""The brain in front of simulated engines, in virtual time: what callers see of pauses and restarts."""

import pytest

from bench.loads import SLOTS, batch_backlog, engines, synthetic
from bench.policies import brain
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.planner.fleet import US, Fleet

SECONDS = 120


def overloaded(seed: int, load: float = 1.2) -> Fleet:
    """Two replicas with endless batch behind, run for two minutes."""
    jobs = synthetic(seed, 2, load, SECONDS)
    fleet = Fleet(brain(2, SLOTS), engines(2), jobs, backlog=batch_backlog(seed), backlog_waiting=100)
    fleet.run(SECONDS * US)
    return fleet


@pytest.mark.parametrize("seed", range(4))
def test_paused_streams_end_whole_and_in_order(seed: int) -> None:
    """R11: whatever is taken back and continued, callers get each token once, and no stream is cut."""
    fleet = overloaded(seed)
    assert not fleet.faults
    paused = [job for job in fleet.jobs if job.pauses and job.whole_us is not None]
    assert len(paused) > 20
    assert all(job.delivered == job.output for job in paused)
    assert all(len(job.gaps) <= job.pauses for job in paused)


@pytest.mark.parametrize("seed", range(4))
def test_no_stream_is_silent_for_longer_than_its_guard(seed: int) -> None:
    """R11: the gap guard of default and flex, where something else than reserved can be taken."""
    fleet = overloaded(seed)
    for tier in (Tier.DEFAULT, Tier.FLEX):
        guard_s = DEFAULT_POLICIES[tier].gap_guard_s
        assert guard_s is not None
        gaps = [gap for job in fleet.jobs if job.tier is tier for gap in job.gaps]
        assert max(gaps, default=0) <= guard_s * US


def test_reserved_hardly_waits_whatever_the_others_do() -> None:
    """R7, R11: at twice what the fleet can do, a reserved request is run within a few steps."""
    fleet = overloaded(7, load=2.0)
    waits = sorted(job.run_us - job.arrival_us for job in fleet.jobs if job.tier is Tier.RESERVED and job.run_us)
    assert len(waits) > 100
    assert waits[int(0.99 * len(waits))] < 200_000


def test_the_same_seed_gives_the_same_run() -> None:
    def told(fleet: Fleet) -> list[tuple[object, ...]]:
        return [(job.run_us, job.first_us, job.whole_us, job.pauses, tuple(job.gaps)) for job in fleet.jobs]

    assert told(overloaded(3)) == told(overloaded(3))
