"""Replays traffic through the same brain and a simulated fleet, in virtual time: what every tier would have got (R44)."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

from fareclass.core.capacity import MICRO
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import PriceBook, Quota, Reservation
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.times import MINUTE_US
from fareclass.core.usage import Usage
from fareclass.engine.sim_replica import SimReplica
from fareclass.metering.pricing import minute_fee
from fareclass.planner.estimates import Estimates
from fareclass.planner.fleet import BATCH_WINDOW_S, NEVER_US, US, Fleet
from fareclass.planner.job import Job
from fareclass.planner.pools import Pool
from fareclass.planner.results import ModelResult, Tally, model_result
from fareclass.planner.trace import Arrival
from fareclass.policy.calendar import in_force, in_force_us, next_change_us
from fareclass.sched.brain import Brain
from fareclass.sched.reserves import Floor
from fareclass.sched.ticket import NOWHERE, Ticket

TOLD_US = 2_000_000
"""So often the brain hears what a replica's calls have made, beside the ends of each."""
_TOLD_EVERY = 1_000


class ReplayError(ValueError):
    """A replay that can't be run as asked; the message says why and what to do."""


class PoolReplay(Fleet):
    """One pool under a trace's requests. Times are microseconds since the trace's first arrival.

    Requests of a project with reservations on the model claim from its floor, whatever the hour, and overflow (R3, R21);
    those of a project without any that ask for `reserved` run as if their floor always had room. `tallies` count the
    jobs that `counts` says.
    """

    def __init__(
        self,
        pool: Pool,
        floors: "Floors",
        quotas: Mapping[str, Quota],
        counts: Callable[[Job], bool] = lambda _: True,
        *,
        kind: type[Brain] = Brain,
        engine: type[SimReplica] = SimReplica,
        told_us: int = TOLD_US,
    ) -> None:
        self.pool = pool
        self.brain = pool.brain(kind)
        super().__init__(self.brain, [engine(lane.speed) for lane in pool.lanes], (), told_us=told_us)
        self.tallies = {tier: Tally(pool.book) for tier in TIERS}
        self.floors = floors
        self.busy_us = self.offered = self.open = 0
        self.kept_ppm = MICRO
        self._counts = counts
        self._quotas = quotas
        self._context_tokens = pool.context_tokens
        self._estimates = Estimates(pool.model, pool.max_tokens_default) if quotas or floors.overflows else None

    def arrive(self, arrival: Arrival, tier: Tier, at_us: int) -> None:
        """A request comes at this time, none before the last one's."""
        self._follow(at_us)
        self.pass_time(at_us)
        self.now_us = max(self.now_us, at_us)
        self.offer(
            Job(
                arrival.project,
                tier,
                at_us,
                max(1, arrival.input) + arrival.cache_read,
                max(1, arrival.output),
                max_tokens=arrival.max_tokens,
                streamed=arrival.streamed,
                overflow=self.floors.overflows.get(arrival.project) or tier,
                cache_read=arrival.cache_read,
            )
        )
        self._settle()

    def offer(self, job: Job) -> None:
        """What does not fit into the model's context is refused before the line, as an engine would."""
        self.offered += 1
        self.open += 1
        if job.prompt + job.output > self._context_tokens:
            self._end(job, Outcome.INVALID)
            return
        now, project = self.now_us / US, job.project
        quota = self._quotas.get(project)
        likely = 0 if self._estimates is None else self._estimates.output_tokens(project, job.max_tokens)
        usage = Usage(input=job.prompt - job.cache_read, cache_read=job.cache_read, output=likely)
        ticket = Ticket(
            str(self.offered),
            project,
            job.tier,
            prompt_tokens=job.prompt,
            hold_tokens=0 if quota is None else self.pool.burndown.quota_tokens(usage),
            continuable=True,
            deadline=now + BATCH_WINDOW_S if job.tier is Tier.BATCH else None,
            holders=dict.fromkeys(self.brain.replicas, job.cache_read) if job.cache_read else NOWHERE,
        )
        if job.tier is Tier.RESERVED and project in self.floors.overflows:
            ticket.floor_input = self.pool.burndown.floor_input(usage)
            ticket.floor_output = usage.output
            self._claim(ticket, job)
            if ticket.floor is None and self.floors.overflows[project] is None:
                self._end(job, Outcome.THROTTLED)
                return
        self._jobs[ticket] = job
        self._effects += self.brain.offer(ticket, now, quota)

    def finish(self) -> None:
        """Nothing more arrives: what is under way and in line comes to its end."""
        while self.open and self.floors.next_us < NEVER_US:
            self._follow(self.floors.next_us)
        self.pass_time(NEVER_US - 1)

    def _follow(self, until_us: int) -> None:
        """Floors begin and end on their way to this time (R18)."""
        while self.floors.next_us <= until_us:
            at_us = self.floors.next_us
            self.pass_time(at_us)
            self.now_us = max(self.now_us, at_us)
            self._effects += self.brain.set_floors(self.floors.at(at_us), self.now_us / US)
            self.kept_ppm = min(self.kept_ppm, self.brain.reserves.share_ppm)
            self._settle()

    def _over(self, job: Job) -> None:
        self._end(job, Outcome.COMPLETED if job.refused is None else job.refused.outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        self.open -= 1
        self.busy_us += job.busy_us
        if self._counts(job):
            self.tallies[job.tier].count(job, outcome)

    def result(self) -> ModelResult:
        """What has come of it until now."""
        slots = self.pool.slots
        fee_pico = self.floors.fee_pico(self.pool.book, self.now_us)
        return model_result(
            self.pool.model,
            self.tallies,
            end_us=self.now_us,
            slots=slots,
            busy_us=self.busy_us,
            fee_pico=fee_pico,
            kept_ppm=self.kept_ppm,
        )


class Floors:
    """The floors of one model's reservations over a trace, in which `load` seconds pass in one second of the replay.

    `overflows` say by project where its requests go that its floor has no room for: as the reservation says that ends
    last (R3), None is refused. `next_us` is when the floors are others than before.
    """

    def __init__(self, reservations: Sequence[Reservation] = (), start_us: int = 0, load: float = 1.0) -> None:
        self._reservations = reservations
        self._start_us = start_us
        self._load = load
        self.next_us = 0 if reservations else NEVER_US
        lasting = sorted(reservations, key=lambda one: NEVER_US if one.ends_us is None else one.ends_us)
        self.overflows = {one.project: one.overflow for one in lasting}

    def at(self, at_us: int) -> dict[str, Floor]:
        """Those in force at this time of the replay, several of one project added up (R3)."""
        trace_us = self._start_us + int(at_us * self._load)
        changes = [next_change_us(one, trace_us) for one in self._reservations]
        change_us = min(changes, default=NEVER_US)
        self.next_us = NEVER_US if change_us >= NEVER_US else max(at_us + 1, self._replayed_us(change_us))
        floors: dict[str, Floor] = {}
        for one in self._reservations:
            if in_force(one, trace_us):
                before = floors.get(one.project, Floor(0, 0))
                floors[one.project] = Floor(before.input_tpm + one.input_tpm, before.output_tpm + one.output_tpm)
        return floors

    def fee_pico(self, book: PriceBook, until_us: int) -> int:
        """What they cost from the trace's start to this time (R18)."""
        trace_us = self._start_us + int(until_us * self._load)
        return sum(
            minute_fee(book, one.input_tpm, one.output_tpm)
            * int(in_force_us(one, self._start_us, trace_us) / self._load)
            // MINUTE_US
            for one in self._reservations
        )

    def _replayed_us(self, trace_us: int) -> int:
        return math.ceil((trace_us - self._start_us) / self._load)


def replay(
    arrivals: Iterable[Arrival],
    pools: Mapping[str, Pool],
    *,
    mix: Mapping[Tier, float] | None = None,
    seed: int = 1,
    load: float = 1.0,
    model: str | None = None,
    reservations: Sequence[Reservation] = (),
    quotas: Mapping[tuple[str, str], Quota] = MappingProxyType({}),
    project: str | None = None,
    told: Callable[[int, int], None] = lambda _count, _us: None,
) -> list[ModelResult]:
    """What each tier got, by model. The same arguments give the same answer.

    Each request goes at its own tier (`default` where it has none), or at one drawn by the shares of `mix`; to its own
    model or to `model`. They come `load` times as fast. Floors and quotas (by project and model) are those given; only
    the requests of `project` are counted, if it is given. `told` hears now and then how many have come, and their time.

    Raises:
        ReplayError: a request is for a model that is none of the pools.
    """
    run = _Run(pools, model, load, reservations, quotas, project)
    draw = random.Random(seed)  # noqa: S311 - the same seed shall draw the same tiers
    tiers, shares = tuple(mix or ()), tuple(accumulate((mix or {}).values()))
    for count, arrival in enumerate(arrivals):
        if not count:
            run.start_us = arrival.at_us
        pool = run.pool(arrival)
        at_us = int((arrival.at_us - run.start_us) / load)
        tier = draw.choices(tiers, cum_weights=shares)[0] if tiers else arrival.tier
        pool.arrive(arrival, Tier.DEFAULT if tier is None else tier, at_us)
        if not count % _TOLD_EVERY:
            told(count, at_us)
    for pool in run.replays.values():
        pool.finish()
    return [pool.result() for pool in run.replays.values()]


class _Run:
    """The pools of one replay, each made when the first request comes to it."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        model: str | None,
        load: float,
        reservations: Sequence[Reservation],
        quotas: Mapping[tuple[str, str], Quota],
        project: str | None,
    ) -> None:
        self.start_us = 0
        self.replays: dict[str, PoolReplay] = {}
        self._pools = pools
        self._only = next(iter(pools)) if len(pools) == 1 else ""
        self._model = model
        self._load = load
        self._reservations = reservations
        self._quotas = quotas
        self._project = project

    def pool(self, arrival: Arrival) -> PoolReplay:
        name = self._model or arrival.model or self._only
        if name not in self.replays:
            self.replays[name] = self._made(name)
        return self.replays[name]

    def _made(self, name: str) -> PoolReplay:
        if name not in self._pools:
            there = f"models that can be replayed: {', '.join(self._pools) or 'none'}"
            if name == self._model:
                raise ReplayError(f"there is no model {name!r}; {there}")
            asked = f"for model {name!r}" if name else "that name no model"
            raise ReplayError(f"the trace has requests {asked}; send all of it to one with --model; {there}")
        project = self._project
        return PoolReplay(
            self._pools[name],
            Floors([one for one in self._reservations if one.model == name], self.start_us, self._load),
            {owner: quota for (owner, model), quota in self._quotas.items() if model == name},
            (lambda _: True) if project is None else (lambda job: job.project == project),
        )
