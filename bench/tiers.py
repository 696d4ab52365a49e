"""What each tier gets when a simulated fleet is overloaded, beside simpler policies.

Fleets of 1, 4 and 16 replicas at 2 × overload and at 0.6 load, split 15 / 15 / 40 / 30 %
reserved / priority / default / flex with endless batch behind; then two real half hours
on 4 replicas. The reference is the reserved traffic alone on the idle fleet. With
`--engine local` the same on the built-in engine, through the whole gateway, on one load.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import live, loads, policies
from bench.loads import SLOTS
from bench.machine import heading
from bench.measure import Run, Seen, brief, measure, pair
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.planner.fleet import Scheduler
from fareclass.planner.job import Job

SEED = 1
WARM_S = 60
WIDTH = 100


class Scenario(NamedTuple):
    """One load on one fleet, and the bound on reserved TTFT p99 as a multiple of alone."""

    title: str
    replicas: int
    seconds: int
    bound: float
    jobs: Callable[[], list[Job]]


class Contender(NamedTuple):
    """A policy that runs the fleet."""

    name: str
    make: Callable[[int], Scheduler]
    engine_orders: bool = False


def _brain_with(share: float) -> Callable[[int], Scheduler]:
    changed = {
        tier: msgspec.structs.replace(policy, max_batch=share) if tier <= Tier.PRIORITY else policy
        for tier, policy in DEFAULT_POLICIES.items()
    }
    return lambda replicas: policies.brain(replicas, SLOTS, changed)


CONTENDERS = (
    Contender("Fareclass", lambda replicas: policies.brain(replicas, SLOTS)),
    Contender("max_batch 1.0", _brain_with(1.0)),
    Contender("max_batch 0.5", _brain_with(0.5)),
    Contender("first come", lambda replicas: policies.FirstComeFirstServed(replicas, SLOTS)),
    Contender("strict order", lambda replicas: policies.StrictOrder(replicas, SLOTS)),
    Contender("engine order", lambda replicas: policies.EnginePriority(replicas, SLOTS), engine_orders=True),
)


def synthetic_scenarios() -> list[Scenario]:
    """Longer runs on smaller fleets, so that each has a few thousand reserved requests."""
    return [
        Scenario(
            f"load {load} on {replicas} replica{'s' * (replicas > 1)}",
            replicas,
            seconds,
            2.5 if replicas == 1 else 2.0,
            partial(loads.synthetic, SEED, replicas, load, seconds),
        )
        for load in (2.0, 0.6)
        for replicas, seconds in ((1, 2_400), (4, 900), (16, 300))
    ]


def trace_scenarios() -> list[Scenario]:
    return [
        Scenario(
            f"Azure code + Mooncake, load {load} on 4 replicas",
            4,
            600,
            3.0,
            partial(loads.traces, SEED, 4, load, 600),
        )
        for load in (0.7, 1.0, 2.0)
    ]


def run_scenario(scenario: Scenario, progress: Progress) -> Table:
    """Every contender on the same load, in one table."""
    task = progress.add_task(scenario.title, total=len(CONTENDERS) + 1)

    def run(number: int, each: Contender, jobs: list[Job], *, batch: bool) -> Run:
        return measure(
            each.make(scenario.replicas),
            scenario.replicas,
            jobs,
            seconds=scenario.seconds,
            warm_s=WARM_S,
            backlog=loads.batch_backlog(SEED) if batch else None,
            engine_orders=each.engine_orders,
            progress=lambda share: progress.update(task, completed=number + share),
        )

    reserved = [job for job in scenario.jobs() if job.tier is Tier.RESERVED]
    alone = run(0, CONTENDERS[0], reserved, batch=False)
    runs = {each.name: run(number, each, scenario.jobs(), batch=True) for number, each in enumerate(CONTENDERS, 1)}
    progress.remove_task(task)
    return _table(scenario, alone.tiers[Tier.RESERVED], runs)


def _table(scenario: Scenario, alone: Seen, runs: dict[str, Run]) -> Table:
    base = runs["first come"].work
    table = Table(
        title=f"{scenario.title}: reserved alone {pair(alone.ttft_p50, alone.ttft_p99)} s, "
        f"{alone.token_ms:.1f} ms/token; bound {scenario.bound} ×",
        width=WIDTH,
        title_justify="left",
    )
    table.add_column("times in s: p50/p99", min_width=20)
    for name in runs:
        table.add_column(name.replace(" ", "\n"), justify="right", min_width=9)

    def row(label: str, tell: Callable[[Run], str]) -> None:
        table.add_row(label, *(tell(run) for run in runs.values()))

    def tier_row(label: str, tier: Tier, tell: Callable[[Seen], str]) -> None:
        row(label, lambda run: tell(run.tiers[tier]))

    tier_row("reserved TTFT", Tier.RESERVED, _ttft)
    tier_row("  p99 × alone", Tier.RESERVED, lambda seen: _verdict(seen.ttft_p99 / alone.ttft_p99, scenario.bound))
    tier_row("  wait in line, p99", Tier.RESERVED, lambda seen: brief(seen.queue_p99))
    tier_row("  ms per token", Tier.RESERVED, lambda seen: f"{seen.token_ms:.1f}")
    for tier in (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX):
        tier_row(f"{tier.word} TTFT", tier, _ttft)
        tier_row("  refused", tier, lambda seen: f"{seen.refused:.0%}")
    row("work / first come", lambda run: f"{run.work / base:.1%}")
    row("output tok/s/replica", lambda run: f"{run.output_s:.0f}")
    row("work thrown away", lambda run: f"{run.thrown_away:.2%}")
    row("pauses/s/replica", lambda run: f"{run.pauses_s:.2f}")
    for tier in (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX, Tier.BATCH):
        tier_row(f"{tier.word} gap p99/max", tier, lambda seen: pair(seen.gap_p99, seen.gap_max))
    row("most pauses", lambda run: str(max(seen.most_pauses for seen in run.tiers.values())))
    row("broken promises", lambda run: run.faults)
    return table


def _ttft(seen: Seen) -> str:
    return pair(seen.ttft_p50, seen.ttft_p99)


def _verdict(times: float, bound: float) -> str:
    return f"{times:.{2 if times < 100 else 0}f} {'ok' if times <= bound else 'over'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tiers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["simulated", "local"], default="simulated")
    run = live.main if parser.parse_args().engine == "local" else _simulated
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    run(console)


def _simulated(console: Console) -> None:
    console.print(
        f"Replica: {SLOTS} slots, step 8 ms + 1.5 ms × sequences, prefill 20k tokens/s in chunks of 512, 262,144 "
        "tokens of memory (LRU), 0.1 s to notice an abort. Prompts and outputs lognormal, mean 600 / 200 (batch "
        f"1,000 / 200), sigma {loads.SIGMA}. The first {WARM_S} s don't count."
    )
    scenarios = synthetic_scenarios()
    if loads.traces_present():
        scenarios += trace_scenarios()
    else:
        console.print(f"[yellow]The real half hours are left out: {loads.TRACES} is not there.")
    with Progress(console=console, transient=True) as progress:
        for scenario in scenarios:
            progress.console.print(run_scenario(scenario, progress))


if __name__ == "__main__":
    main()
