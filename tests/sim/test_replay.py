"""Traces through the brain and simulated engines: every request ends once, every rule holds after every step."""

import random
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from fareclass.core.snapshot import Capacity, Quota, Reservation
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.engine.sim_sequence import Sequence
from fareclass.metering.pricing import free_book
from fareclass.planner.job import Job
from fareclass.planner.pools import Lane, Pool
from fareclass.planner.replay import TOLD_US, Floors, PoolReplay, replay
from fareclass.planner.results import ModelResult
from fareclass.planner.trace import Arrival
from fareclass.sched.ticket import State, Ticket
from tests.sim.invariants import QUEUE_LIMIT, Invariants
from tests.sim.step_by_step import StepByStep

MANY = 300
"""Of fewer requests the p95 is a few single ones."""
SHARES = (15, 15, 40, 25, 5)
POOL = Pool(
    model="m",
    lanes=(Lane(slots=8, speed=Speed(limit=10)), Lane(slots=4, speed=Speed(limit=6, lead_steps=1))),
    policies={
        tier: msgspec.structs.replace(policy, queue_limit=QUEUE_LIMIT) for tier, policy in DEFAULT_POLICIES.items()
    },
    book=free_book("m"),
    capacity=Capacity(input_tpm=1_000_000, output_tpm=60_000),
)
RESERVED = Reservation(
    id="r", project="b", model="m", input_tpm=8_000, output_tpm=1_500, overflow=Tier.PRIORITY, starts_us=0
)
QUOTA = Quota(tpm=15_000, rpm=40)


def traffic(seed: int, requests: int, a_second: float) -> Iterator[Arrival]:
    """Of four projects, all tiers; some prompts are long, some largely cached."""
    draw = random.Random(seed)
    at = 0.0
    for _ in range(requests):
        at += draw.expovariate(a_second)
        prompt = draw.choice([20, 300, 300, 900, 4_000])
        yield Arrival(
            int(at * 1e6),
            prompt,
            draw.randint(1, 400),
            cache_read=draw.choice([0, 0, 2_000]),
            project=draw.choice("abcd"),
            tier=draw.choices(TIERS, SHARES)[0],
            streamed=draw.random() < 0.8,
        )


def run(seed: int, requests: int = 1_000, a_second: float = 4.0) -> list[ModelResult]:
    quotas = {("c", "m"): QUOTA}
    return replay(traffic(seed, requests, a_second), {"m": POOL}, reservations=[RESERVED], quotas=quotas)


def test_each_request_ends_in_exactly_one_outcome() -> None:
    """R6: of what was asked nothing is lost and nothing is counted twice; what completed was delivered whole."""
    (result,) = run(1)
    asked = list(traffic(1, 1_000, 4.0))
    assert sum(tier.requests for tier in result.tiers) == len(asked)
    for tier in result.tiers:
        mine = [arrival for arrival in asked if arrival.tier is not None and arrival.tier.word == tier.tier]
        ended = tier.completed + tier.throttled + tier.shed + tier.expired + tier.invalid + tier.forbidden
        assert tier.requests == ended == len(mine)
    assert sum(tier.throttled for tier in result.tiers) > 10
    assert sum(tier.shed + tier.expired for tier in result.tiers) > 10
    assert sum(tier.pauses for tier in result.tiers) > 10
    assert next(tier for tier in result.tiers if tier.tier == "reserved").spilled > 3


def test_the_same_arguments_give_the_same_replay() -> None:
    assert run(2, 500) == run(2, 500) != run(3, 500)


class Books(Invariants):
    """The state of a replayed pool as the invariants want to see it: floors and quotas aside, which have books elsewhere."""

    def __init__(self, pool: "CheckedReplay") -> None:
        self.pool = pool
        self.brain = pool.brain
        self.policies = POOL.policies
        self.tickets: list[Ticket] = []
        self.ended: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.fixed_starts = 0
        self.floors: dict[str, object] = {}

    def look(self) -> None:
        pool = self.pool
        self.now = pool.now_us / 1e6
        self.share = self.brain.reserves.share_ppm
        self.tickets += [ticket for ticket in pool.seen if ticket.state is not State.GONE]
        pool.seen.clear()
        self.calls = {ticket: str(job.replica) for ticket, job in pool._jobs.items() if job.call is not None}
        self.must_pause = {pool._tickets[call] for _, _, _, call in pool._cuts if call in pool._tickets}
        for ticket in self.tickets:
            self.ended[ticket.id] = int(ticket not in pool._jobs)
        self.check()
        self.tickets = [ticket for ticket in self.tickets if ticket.state is not State.GONE]


class CheckedReplay(PoolReplay):
    """Looks at every invariant of the schedules after each step."""

    def __init__(self) -> None:
        super().__init__(POOL, Floors([RESERVED]), {"c": QUOTA})
        self.seen: list[Ticket] = []
        self.cutting = False
        self.books = Books(self)

    def offer(self, job: Job) -> None:
        before = len(self._jobs)
        super().offer(job)
        if len(self._jobs) > before:
            self.seen.append(next(reversed(self._jobs)))

    def _cut(self, index: int, call: Sequence) -> None:
        self.cutting = True
        super()._cut(index, call)
        self.cutting = False

    def _settle(self) -> None:
        super()._settle()
        if not self.cutting:
            self.books.look()


@pytest.mark.parametrize("seed", range(3))
def test_every_invariant_holds_after_every_step(seed: int) -> None:
    """R7, R9, R10, R11, R12, R14: on engines that take steps alike in strides, and say late what they made."""
    pool = CheckedReplay()
    for arrival in traffic(seed, 250, 4.0):
        assert arrival.tier is not None
        pool.arrive(arrival, arrival.tier, arrival.at_us)
    pool.finish()
    assert not pool.faults
    assert not pool._jobs
    assert not pool.open
    assert sum(tier.pauses for tier in pool.result().tiers) > 3


def held(engine: type[SimReplica], told_us: int) -> ModelResult:
    """A load that the fleet can just bear, on this kind of engine."""
    pool = PoolReplay(POOL, Floors([RESERVED]), {"c": QUOTA}, engine=engine, told_us=told_us)
    for arrival in traffic(9, 1_500, 2.0):
        assert arrival.tier is not None
        pool.arrive(arrival, arrival.tier, arrival.at_us)
    pool.finish()
    assert not pool.faults
    return pool.result()


def test_what_is_told_late_changes_little() -> None:
    """Against engines that take one step at a time and tell of each."""
    exact = held(StepByStep, 0)
    late = held(SimReplica, TOLD_US)
    for one, other in zip(exact.tiers, late.tiers, strict=True):
        assert abs(one.completed - other.completed) <= 0.01 * one.requests
        for name in ("ttft_ms", "whole_ms"):
            this, that = getattr(one, name), getattr(other, name)
            assert that.p50 == pytest.approx(this.p50, rel=0.05)
            assert one.requests < MANY or that.p95 == pytest.approx(this.p95, rel=0.05)
