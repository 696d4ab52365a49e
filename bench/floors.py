"""What a floor promises, clause by clause (R22, R23), on simulated fleets with endless batch behind.

Steady demand of 1.5 × a floor of 480 requests a minute by 1, 8 and 64 callers, streamed and not (then it can't be moved either), with and without
`max_tokens`, three kinds of answer lengths: what was made in five minutes, and whether the floor's books balance to
the last unit. A project alone on the pool. An owner who comes back while all slots were lent out. A replica that fails.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import loads, policies
from bench.books import Books
from bench.isolation import books
from bench.loads import MEAN_OUTPUT, MEAN_PROMPT, SLOTS, SPEED, engines
from bench.machine import heading
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.planner.estimates import Estimates
from fareclass.planner.fleet import US, Fleet, Scheduler
from fareclass.planner.job import Job
from fareclass.sched.reserves import Floor
from tests.sim.fluid import UNITS

SEED = 1
WIDTH = 120
REQUESTS = 480
DEMAND = 1.5
WARM_S = 200
"""A full bucket lasts for two minutes of such a demand."""
PROMPT = 200
CALLERS = (1, 8, 64)
BACK_REPLICAS = 4
Draw = Callable[[random.Random], int]


def lengths() -> dict[str, Draw]:
    """How long answers are, by name."""
    found: dict[str, Draw] = {
        "gamma": lambda dice: max(1, round(dice.gammavariate(2, MEAN_OUTPUT / 2))),
        "lognormal": lambda dice: loads.lognormal(dice, MEAN_OUTPUT),
    }
    if loads.traces_present():
        answers = [max(1, job.output) for job in loads.traces(SEED, 1, 1.0, 1_800)]
        found["real traces"] = lambda dice: dice.choice(answers)
    return found


def fleet_of(scheduler: Scheduler, replicas: int, jobs: Sequence[Job], backlog: Callable[[int], Job] | None) -> Fleet:
    """Simulated replicas, with a backlog that never ends."""
    waiting = 4 * SPEED.limit * replicas if backlog is not None else 0
    return Fleet(
        scheduler, engines(replicas), jobs, backlog=backlog, backlog_waiting=waiting, estimates=Estimates()
    )  # fmt: skip


def inside(jobs: Sequence[Job], project: str = "owner") -> int:
    """Output tokens that reached callers as reserved work."""
    return sum(job.delivered for job in jobs if job.served is Tier.RESERVED and job.project == project)


class Steady(NamedTuple):
    """A demand of 1.5 × the floor, and how five minutes of it went: what was charged, and what reached callers, as shares
    of the floor − 1. They differ by what the estimates in flight at either end were off.
    """

    charged: float
    made: float
    diverted: int
    refused: int
    unexplained: int
    faults: int


def steady(draw: Draw, callers: int, *, streamed: bool, capped: bool, seconds: int) -> Steady:
    """One combination. Each caller sends evenly, from a moment of its own on, whatever its answers take."""
    dice = random.Random(SEED)
    sample = [min(draw(dice), _cap(capped)) for _ in range(20_000)]
    mean = sum(sample) // len(sample)
    floor = Floor(2 * REQUESTS * PROMPT, REQUESTS * mean)
    replicas = next(n for n in range(1, 65) if loads.sold(n, 2 * PROMPT, mean).output_tpm >= floor.output_tpm)
    every = 60 / (DEMAND * REQUESTS) * callers
    jobs = []
    for _ in range(callers):
        at = dice.uniform(0, every)
        while at < WARM_S + seconds:
            output = min(draw(dice), _cap(capped))
            cap = _cap(capped) if capped else None
            job = Job("owner", Tier.RESERVED, int(at * US), PROMPT, output, max_tokens=cap)
            job.streamed = job.movable = streamed
            jobs.append(job)
            at += every
    jobs.sort(key=lambda job: job.arrival_us)
    brain = books({"owner": floor}, replicas)
    fleet = fleet_of(brain, replicas, jobs, loads.batch_backlog(SEED))
    fleet.run(WARM_S * US)
    before = _charged(brain), inside(jobs)
    fleet.run((WARM_S + seconds) * US)
    settled = sum(job.output for job in jobs if job.whole_us is not None and job.served is Tier.RESERVED)
    return Steady(
        (_charged(brain) - before[0]) * 60 / (floor.output_tpm * seconds) - 1,
        (inside(jobs) - before[1]) * 60 / (floor.output_tpm * seconds) - 1,
        brain.wrong + brain.wrong_levels,
        sum(job.refused is not None and job.served is Tier.RESERVED for job in jobs),
        brain.unexplained("owner", settled, fleet.now_us / US),
        sum(fleet.faults.values()),
    )


def _charged(brain: Books) -> float:
    """Output tokens that the owner's floor was charged so far, holds included."""
    side = brain.sides["owner"][1]
    return (side.spent + sum(side.drawn.values())) / UNITS


def _cap(capped: bool) -> int:
    return 2 * MEAN_OUTPUT if capped else 8_000


def steady_table(seconds: int, progress: Progress) -> Table:
    """All combinations."""
    table = Table(
        title=f"Demand of {DEMAND} × a floor of {REQUESTS} requests a minute: {seconds} s of output against the floor",
        title_justify="left",
    )
    for column in (
        "answers",
        "max_tokens",
        "callers",
        "charged: streamed / not",
        "made: streamed / not",
        "diverted",
        "refused",
        "unexplained",
        "faults",
    ):
        table.add_column(column, justify="left" if column == "answers" else "right")
    rows = list(itertools.product(lengths().items(), (False, True), CALLERS))
    for (name, draw), capped, callers in progress.track(rows, description="steady demand"):
        runs = [steady(draw, callers, streamed=streamed, capped=capped, seconds=seconds) for streamed in (True, False)]
        table.add_row(
            name,
            str(_cap(True)) if capped else "none",
            str(callers),
            f"{_both([run.charged for run in runs])} {'ok' if all(abs(run.charged) <= 0.01 for run in runs) else 'off'}",
            _both([run.made for run in runs]),
            *(
                str(sum(getattr(run, what) for run in runs))
                for what in ("diverted", "refused", "unexplained", "faults")
            ),
        )
    return table


def _both(shares: Sequence[float]) -> str:
    return " / ".join(f"{share:+.2%}" for share in shares)


def lone_table(seconds: int) -> Table:
    """A project alone on the pool asks twice of what it does; beside it the same requests all on the tier of its overflow."""
    replicas = BACK_REPLICAS
    floor = loads.sold(replicas, MEAN_PROMPT, MEAN_OUTPUT)
    table = Table(
        title=f"Alone on {replicas} replicas, asking 2 × what they do: output tokens a minute", title_justify="left"
    )
    for column in ("overflow", "inside the floor", "beyond it", "all on demand", "ceilings leave", "of what is left"):
        table.add_column(column, justify="right")
    ceiling = int(SLOTS * DEFAULT_POLICIES[Tier.RESERVED].max_batch)
    ceilings = {Tier.PRIORITY: 1.0, Tier.DEFAULT: ceiling / SPEED.step_us(ceiling, 0) / SLOTS * SPEED.step_us(SLOTS, 0)}
    for overflow, leave in ceilings.items():
        inner, whole = _alone(books({"owner": floor}, replicas), Tier.RESERVED, overflow, seconds)
        _, demand = _alone(policies.brain(replicas, SLOTS), overflow, overflow, seconds)
        share = whole / (demand * leave)
        table.add_row(
            overflow.word,
            f"{inner:,.0f} of {floor.output_tpm:,}",
            f"{whole - inner:,.0f}",
            f"{demand:,.0f}",
            f"{leave:.1%}",
            f"{share:.1%} {'ok' if share >= 0.99 else 'under'}",
        )
    return table


def _alone(scheduler: Scheduler, tier: Tier, overflow: Tier, seconds: int) -> tuple[float, float]:
    """Output tokens a minute, as reserved work and in all, once the first quarter of the time is over."""
    jobs = loads.synthetic(SEED, BACK_REPLICAS, 2.0, seconds, {tier: 1.0})
    for job in jobs:
        job.project, job.overflow = "owner", overflow
    fleet = fleet_of(scheduler, BACK_REPLICAS, jobs, None)
    fleet.run(seconds * US // 4)
    before = inside(jobs), sum(job.delivered for job in jobs)
    fleet.run(seconds * US)
    minutes = (seconds - seconds // 4) / 60
    return (inside(jobs) - before[0]) / minutes, (sum(job.delivered for job in jobs) - before[1]) / minutes


class Returning:
    """An owner's callers, each of whom asks again as soon as it has its answer."""

    def __init__(self, fleet: Fleet, callers: int) -> None:
        self._fleet = fleet
        self._dice = random.Random(SEED)
        self.jobs: list[Job] = []
        self._active: list[Job] = []
        self._callers = callers

    def run(self, seconds: float) -> None:
        """They come, or go on, for so long."""
        end_us = self._fleet.now_us + int(seconds * US)
        while self._fleet.now_us < end_us:
            self._active = [job for job in self._active if job.whole_us is None]
            for _ in range(self._callers - len(self._active)):
                sizes = (loads.lognormal(self._dice, mean) for mean in (MEAN_PROMPT, MEAN_OUTPUT))
                self._active.append(Job("owner", Tier.RESERVED, self._fleet.now_us, *sizes))
                self.jobs.append(self._active[-1])
                self._fleet.offer(self._active[-1])
            self._fleet.run(min(end_us, self._fleet.now_us + US // 100))


def back_table() -> Table:
    """An owner returns after two minutes, with callers enough for 1.25 × its floor."""
    table = Table(
        title=f"An owner comes back: {BACK_REPLICAS} replicas, all slots lent out for two minutes", title_justify="left"
    )
    for column in (
        "lent to",
        "can't be moved",
        "headroom",
        "slots taken",
        "second 1",
        "second 2",
        "seconds 2 to 11",
        "spilled",
    ):
        table.add_column(column, justify="left" if column == "lent to" else "right")
    for tier, unmovable, by_hand in (
        (Tier.BATCH, False, None), (Tier.FLEX, False, None), (Tier.PRIORITY, False, None),
        (Tier.FLEX, True, None), (Tier.PRIORITY, True, None), (Tier.FLEX, True, 0),
    ):  # fmt: skip
        table.add_row(*_back(tier, unmovable, by_hand))
    return table


def _back(tier: Tier, unmovable: bool, by_hand: int | None) -> list[str]:
    floor = loads.sold(BACK_REPLICAS, MEAN_PROMPT, MEAN_OUTPUT)
    brain = books({"owner": floor}, BACK_REPLICAS, by_hand)
    others = [] if tier is Tier.BATCH else loads.synthetic(SEED, BACK_REPLICAS, 3.0, 140, {tier: 1.0})
    for job in others:
        job.movable = not unmovable
    fleet = fleet_of(brain, BACK_REPLICAS, others, loads.batch_backlog(SEED) if tier is Tier.BATCH else None)
    fleet.run(120 * US)
    taken = sum(brain.running(rank) for rank in range(5))
    slots = BACK_REPLICAS * SLOTS
    owner = Returning(fleet, -(-5 * brain.reserves.load_micro // 4_000_000))
    made = [0]
    for _ in range(11):
        owner.run(1.0)
        made.append(inside(owner.jobs))
    a_second = floor.output_tpm / 60
    shares = [(later - before) / a_second for before, later in itertools.pairwise(made)]
    after = (made[-1] - made[1]) / a_second / 10
    return [
        tier.word,
        "all" if unmovable else "none",
        "derived" if by_hand is None else "none",
        f"{taken} of {slots}",
        f"{shares[0]:.0%}",
        f"{shares[1]:.0%} {'ok' if shares[1] >= 0.95 else 'under'}",
        f"{after:.0%}",
        str(sum(job.served is not Tier.RESERVED for job in owner.jobs)),
    ]


def failure_table() -> Table:
    """Two owners at 1.2 × their floors; one of four replicas is away for two minutes."""
    whole = loads.sold(BACK_REPLICAS, MEAN_PROMPT, MEAN_OUTPUT)
    floors = {
        name: Floor(whole.input_tpm * part // 3, whole.output_tpm * part // 3)
        for name, part in (("one", 1), ("two", 2))
    }
    brain, jobs = books(floors, BACK_REPLICAS), _evenly(floors, 800)
    fleet = fleet_of(brain, BACK_REPLICAS, jobs, loads.batch_backlog(SEED))
    table = Table(
        title="A replica of four fails and comes back; two owners at 1.2 × their floors", title_justify="left"
    )
    for column in ("", "floors kept", "one: output / floor kept", "two", "diverted", "refused", "faults"):
        table.add_column(column, justify="right")
    before = dict.fromkeys(floors, 0)
    for label, until, change in (("buckets drain", 500, None), ("all up", 620, fleet.fail), ("one down", 680, None),
                                 ("the next minute", 740, fleet.recover), ("all up again", 800, None)):  # fmt: skip
        since = fleet.now_us
        kept = brain.reserves.share_ppm / 1e6
        fleet.run(until * US)
        now = {name: inside(jobs, name) for name in floors}
        minutes = (fleet.now_us - since) / US / 60
        shares = [(now[name] - before[name]) / (floors[name].output_tpm * kept * minutes) for name in floors]
        refused = sum(job.refused is not None and job.served is Tier.RESERVED for job in jobs)
        table.add_row(
            label,
            f"{kept:.1%}",
            *(f"{share:.1%}" for share in shares),
            str(brain.wrong),
            str(refused),
            str(sum(fleet.faults.values())),
        )
        before = now
        if change is not None:
            change(0)
    return table


def _evenly(floors: dict[str, Floor], seconds: int) -> list[Job]:
    dice, jobs = random.Random(SEED), []
    for name, floor in floors.items():
        every = 60 / (1.2 * floor.output_tpm / MEAN_OUTPUT)
        for number in range(int(seconds / every)):
            sizes = (loads.lognormal(dice, MEAN_PROMPT), loads.lognormal(dice, MEAN_OUTPUT))
            jobs.append(Job(name, Tier.RESERVED, int(number * every * US), *sizes))
    return sorted(jobs, key=lambda job: job.arrival_us)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="floors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=300, help="time that steady demand is measured over")
    seconds = parser.parse_args().seconds
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    console.print(
        f"Replica: {SLOTS} slots, step 8 ms + 1.5 ms × sequences, prefill 20k tokens/s in chunks of 512. `diverted`: claims "
        "decided otherwise than an independent bucket says. `unexplained`: charged − (floor × time + fall of the bucket − "
        "refill lost − estimates in flight), in 1/6,000,000,000 tokens."
    )
    with Progress(console=console, transient=True) as progress:
        progress.console.print(steady_table(seconds, progress))
        for table in (lone_table, lambda _: back_table(), lambda _: failure_table()):
            progress.console.print(table(4 * seconds))


if __name__ == "__main__":
    main()
