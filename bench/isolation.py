"""What a project inside its floor feels while others offer ten times the fleet, and what headroom costs and gains.

As much is reserved as may be sold (R19). One project asks 80 % of it; the others offer 10 × the fleet as priority,
default and flex, and endless batch stands behind. Then three projects that share the floor burst at the same instant:
each idle for a minute, then twice its floor for a minute. Last, none, half or all of the others' work can neither be
paused nor restarted, with the derived headroom and with none (R10). The yardstick is the reserved project alone on the
idle fleet, and for the work done the same load first come, first served.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import loads, policies
from bench.books import Books
from bench.loads import MEAN_OUTPUT, MEAN_PROMPT, SLOTS, SPEED, engines
from bench.machine import heading
from bench.measure import Run, measure, pair, percentile
from fareclass.core.tiers import Tier
from fareclass.planner.estimates import Estimates
from fareclass.planner.fleet import US, Fleet, Scheduler
from fareclass.planner.job import Job
from fareclass.sched.reserves import Floor

SEED = 1
WARM_S = 60
WIDTH = 120
ASKED = 0.8
OFFERED = 10.0
OTHERS = {Tier.PRIORITY: 0.18, Tier.DEFAULT: 0.47, Tier.FLEX: 0.35}
ALL_RESERVED = {Tier.RESERVED: 1.0}
FLEETS = ((1, 2_400, 2.5), (4, 900, 2.0), (16, 300, 2.0))
"""Replicas, seconds of a run, and the bound on reserved TTFT p99 as a multiple of alone."""
TRACE_BOUND = 3.0
OWNERS = {"small": 1, "middle": 2, "large": 3}
"""Who bursts together, and their parts of the floor."""
UNMOVABLE = (0.0, 0.5, 1.0)
Load = Callable[[int, int, float, int, dict[Tier, float]], list[Job]]


class Contest(NamedTuple):
    """One fleet: what is reserved there, the owner's requests, the others', and both runs to compare with."""

    title: str
    replicas: int
    seconds: int
    bound: float
    floor: Floor
    mine: Callable[[], list[Job]]
    others: Callable[[float], list[Job]]


def contest(replicas: int, seconds: int, bound: float) -> Contest:
    """The synthetic load: an owner whose requests have the mean that its floor was sold for."""
    floor = loads.sold(replicas, MEAN_PROMPT, MEAN_OUTPUT)
    rate = ASKED * floor.output_tpm / MEAN_OUTPUT / 60
    load = rate * loads.work_s(MEAN_PROMPT, MEAN_OUTPUT) / replicas
    title = f"{replicas} replica{'s' * (replicas > 1)} × {SLOTS} slots"
    return _contest(title, replicas, seconds, bound, floor, loads.synthetic, load)


def trace_contest(seconds: int) -> Contest:
    """The real half hours; the floor is sold for what their requests are like."""
    replicas = 4
    rows = loads.traces(SEED, replicas, 0.5, loads.HALF_HOUR_US // US, ALL_RESERVED)
    prompt, output = (round(sum(each) / len(rows)) for each in zip(*((j.prompt, j.output) for j in rows), strict=True))
    floor = loads.sold(replicas, prompt, output)
    load = ASKED * floor.output_tpm / output / 60 * loads.work_s(prompt, output) / replicas
    title = f"Azure code + Mooncake on {replicas} replicas"
    return _contest(title, replicas, seconds, TRACE_BOUND, floor, loads.traces, load)


def _contest(
    title: str, replicas: int, seconds: int, bound: float, floor: Floor, draw: Callable[..., list[Job]], load: float
) -> Contest:
    def mine() -> list[Job]:
        jobs = draw(SEED, replicas, load, seconds, ALL_RESERVED)
        for job in jobs:
            job.project = "owner"
        return jobs

    def others(unmovable: float) -> list[Job]:
        return _partly_fixed(draw(SEED + 1, replicas, OFFERED, seconds, OTHERS), unmovable)

    return Contest(title, replicas, seconds, bound, floor, mine, others)


def _partly_fixed(jobs: list[Job], unmovable: float) -> list[Job]:
    dice = random.Random(SEED)
    for job in jobs:
        job.movable = dice.random() >= unmovable
    return jobs


def _backlog(unmovable: float) -> Callable[[int], Job]:
    draw, dice = loads.batch_backlog(SEED), random.Random(SEED)

    def one(now_us: int) -> Job:
        job = draw(now_us)
        job.movable = dice.random() >= unmovable
        return job

    return one


def books(floors: dict[str, Floor], replicas: int, headroom: int | None = None) -> Books:
    """The brain, with these floors in force."""
    brain = policies.brain(replicas, SLOTS, kind=Books, capacity=loads.capacity(replicas), headroom=headroom)
    assert isinstance(brain, Books)
    brain.set_floors(floors, 0.0)
    return brain


def run(each: Contest, scheduler: Scheduler, jobs: list[Job], unmovable: float | None) -> Run:
    """One run of a fleet; `unmovable` None leaves the batch backlog out."""
    return measure(
        scheduler,
        each.replicas,
        sorted(jobs, key=lambda job: job.arrival_us),
        seconds=each.seconds,
        warm_s=min(WARM_S, each.seconds // 4),
        backlog=None if unmovable is None else _backlog(unmovable),
        estimates=Estimates(),
        progress=lambda _share: None,
    )


class Outcome(NamedTuple):
    """One contest: its yardsticks, the run, and the brain that ran it."""

    contest: Contest
    alone: Run
    served: Run
    brain: Books
    first_come: Run
    jobs: Sequence[Job]

    @property
    def times(self) -> float:
        return self.served.tiers[Tier.RESERVED].ttft_p99 / self.alone.tiers[Tier.RESERVED].ttft_p99

    @property
    def work(self) -> float:
        return self.served.work / self.first_come.work


def hold(each: Contest, unmovable: float = 0.0, headroom: int | None = None) -> Outcome:
    """The contest: alone, against everybody, and first come, first served."""
    alone = run(each, books({"owner": each.floor}, each.replicas), each.mine(), None)
    brain, mine = books({"owner": each.floor}, each.replicas, headroom), each.mine()
    served = run(each, brain, mine + each.others(unmovable), unmovable)
    simple = policies.FirstComeFirstServed(each.replicas, SLOTS)
    first_come = run(each, simple, each.mine() + each.others(unmovable), unmovable)
    return Outcome(each, alone, served, brain, first_come, mine)


def isolation_table(outcomes: Sequence[Outcome]) -> Table:
    """What the owner felt, a column for each fleet."""
    table = Table(
        title=f"A project at {ASKED:.0%} of its floor, others at {OFFERED:g} × the fleet", title_justify="left"
    )
    table.add_column("times in s: p50/p99", min_width=24)
    for outcome in outcomes:
        table.add_column(outcome.contest.title, justify="right", max_width=19)

    def row(label: str, tell: Callable[[Outcome], str]) -> None:
        table.add_row(label, *(tell(outcome) for outcome in outcomes))

    row(
        "floor: input, output k/min",
        lambda o: f"{o.contest.floor.input_tpm / 1e3:.0f}, {o.contest.floor.output_tpm / 1e3:.0f}",
    )
    row("  of the fleet's output", lambda o: f"{_share(o):.0%}")
    row("reserved requests", lambda o: f"{len(o.jobs):,}")
    row("  throttled or shed", lambda o: str(sum(job.refused is not None for job in o.jobs)))
    row("  spilled", lambda o: str(sum(job.served is not Tier.RESERVED for job in o.jobs)))
    row("  diverted though it fitted", lambda o: str(o.brain.wrong + o.brain.wrong_levels))
    row("TTFT alone", lambda o: _ttft(o.alone, Tier.RESERVED))
    row("TTFT", lambda o: _ttft(o.served, Tier.RESERVED))
    row("  p99 × alone, bound", lambda o: f"{o.times:.2f} {_bound(o.times, o.contest.bound)}")
    row("  ms per token", lambda o: f"{o.served.tiers[Tier.RESERVED].token_ms:.1f}")
    for tier in OTHERS:
        row(f"{tier.word} TTFT", partial(lambda word, o: _ttft(o.served, word), tier))
        row("  refused", partial(lambda word, o: f"{o.served.tiers[word].refused:.0%}", tier))
    row("work / first come, ≥ 93 %", lambda o: f"{o.work:.1%} {'ok' if o.work >= 0.93 else 'under'}")
    row("pauses/s/replica", lambda o: f"{o.served.pauses_s:.2f}")
    row("broken promises", lambda o: o.served.faults)
    return table


def _share(outcome: Outcome) -> float:
    return outcome.contest.floor.output_tpm / loads.capacity(outcome.contest.replicas).output_tpm


def _ttft(seen: Run, tier: Tier) -> str:
    return pair(seen.tiers[tier].ttft_p50, seen.tiers[tier].ttft_p99)


def _bound(times: float, bound: float) -> str:
    return f"≤ {bound:g} {'ok' if times <= bound else 'over'}"


def burst_table(each: Contest, periods: int) -> Table:
    """Three owners at once: idle for a minute, then twice their floors for a minute, over and over.

    What an owner asks within 10 s of its floor goes ahead of what any asks beyond it (R8).
    """
    parts = sum(OWNERS.values())
    floors = {
        name: Floor(each.floor.input_tpm * part // parts, each.floor.output_tpm * part // parts)
        for name, part in OWNERS.items()
    }
    brain = books(floors, each.replicas)
    jobs = [job for number, name in enumerate(OWNERS) for job in _bursts(name, floors[name], periods, SEED + number)]
    waiting = 4 * SPEED.limit * each.replicas
    fleet = Fleet(
        brain,
        engines(each.replicas),
        sorted(jobs + each.others(0.0), key=lambda job: job.arrival_us),
        backlog=_backlog(0.0),
        backlog_waiting=waiting,
        estimates=Estimates(),
    )
    fleet.run(periods * 120 * US)
    table = Table(
        title=f"Three owners burst at once, {each.title}: idle 60 s, 2 × the floor for 60 s, {periods} times",
        title_justify="left",
    )
    for column in (
        "owner",
        "floor",
        "requests",
        "refused",
        "spilled",
        "wait p50/p99",
        "within 10 s",
        "TTFT",
        "beyond",
        "TTFT",
    ):
        table.add_column(column, justify="left" if column == "owner" else "right")
    for name in OWNERS:
        _owner_row(table, name, floors[name], [job for job in jobs if job.project == name], fleet.now_us)
    table.caption = (
        f"{brain.claims:,} claims: {brain.wrong} diverted though they fitted, "
        f"{brain.wrong_levels} levels other than the books', faults: {dict(fleet.faults) or 'none'}"
    )
    return table


def _owner_row(table: Table, name: str, floor: Floor, jobs: list[Job], end_us: int) -> None:
    inside = [job for job in jobs if job.served is Tier.RESERVED]
    waits = [((job.run_us or end_us) - job.arrival_us) / US for job in inside]
    ttft: dict[Tier, list[float]] = {Tier.RESERVED: [], Tier.PRIORITY: []}
    for job in inside:
        ttft[job.rank].append(((job.first_us or end_us) - job.arrival_us) / US)
    table.add_row(
        name,
        f"{floor.output_tpm:,}",
        f"{len(jobs):,}",
        str(sum(job.refused is not None for job in jobs)),
        str(len(jobs) - len(inside)),
        pair(percentile(waits, 0.5), percentile(waits, 0.99)),
        *(
            tell
            for times in ttft.values()
            for tell in (str(len(times)), pair(percentile(times, 0.5), percentile(times, 0.99)))
        ),
    )


def _bursts(name: str, floor: Floor, periods: int, seed: int) -> list[Job]:
    dice, jobs = random.Random(seed), []
    rate = 2 * floor.output_tpm / MEAN_OUTPUT / 60
    for period in range(periods):
        at, end = 120 * period + 60 + dice.expovariate(rate), 120 * (period + 1)
        while at < end:
            prompt, output = loads.lognormal(dice, MEAN_PROMPT), loads.lognormal(dice, MEAN_OUTPUT)
            jobs.append(Job(name, Tier.RESERVED, int(at * US), prompt, output))
            at += dice.expovariate(rate)
    return jobs


def headroom_table(contests: Sequence[Contest], progress: Progress) -> Table:
    """What headroom costs and gains, by how much of the others' work can't be moved."""
    table = Table(title="Headroom: its price and its gain", title_justify="left")
    for column in (
        "replicas",
        "can't be moved",
        "headroom",
        "slots kept",
        "TTFT p50/p99",
        "p99 × alone",
        "work / first come",
    ):
        table.add_column(column, justify="right")
    task = progress.add_task("headroom", total=len(contests) * len(UNMOVABLE) * 2)
    for each in contests:
        for unmovable in UNMOVABLE:
            for label, by_hand in (("derived", None), ("none", 0)):
                outcome = hold(each, unmovable, by_hand)
                table.add_row(
                    str(each.replicas),
                    f"{unmovable:.0%}",
                    label,
                    f"{outcome.brain.headroom.slots} of {each.replicas * SLOTS}",
                    _ttft(outcome.served, Tier.RESERVED),
                    f"{outcome.times:.2f}",
                    f"{outcome.work:.1%}",
                )
                progress.advance(task)
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="isolation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", type=float, default=1.0, help="this part of each run's time, to look at it quickly")
    part = parser.parse_args().part
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    whole = loads.capacity(1)
    console.print(
        f"Replica: {SLOTS} slots, step 8 ms + 1.5 ms × sequences, prefill 20k tokens/s in chunks of 512, so alone it does "
        f"{whole.input_tpm:,} input or {whole.output_tpm:,} output tokens a minute; floors are what may be sold of that for "
        f"requests of {MEAN_PROMPT} / {MEAN_OUTPUT} tokens. The first {WARM_S} s don't count. Seed {SEED}, one run each."
        + ("" if part == 1 else f" [yellow]Only {part:g} of the time.[/]")
    )
    contests = [contest(replicas, round(seconds * part), bound) for replicas, seconds, bound in FLEETS]
    fair = contests + ([trace_contest(round(900 * part))] if loads.traces_present() else [])
    with Progress(console=console, transient=True) as progress:
        outcomes = [hold(each) for each in progress.track(fair, description="isolation")]
        progress.console.print(isolation_table(outcomes))
        for each in progress.track(contests, description="bursts"):
            progress.console.print(burst_table(each, max(1, each.seconds // 120)))
        progress.console.print(headroom_table(contests, progress))


if __name__ == "__main__":
    main()
