"""What a replay takes, and how far it is from the truth.

(a) A week of a million requests through the real brain, on one core: reservations, quotas, all tiers. The load is
synthetic and seeded: prompts and answers lognormal (sigma 0.8) with means of 2,400 and 800 tokens, arrivals Poisson with
a daily wave (±60 %, highest at 14 h) and a weekend a third below the week, on 4 replicas of 16 slots: 0.7 of what they
can decode on average, 1.2 at weekdays' peaks. Memory is the process's own, its highest in the first and last tenth.

(b) Two stretches of that week on the same engines without strides: one step at a time, each step told to the brain. Where
tiers wait for each other, anything at all changes who is paused, and all that follows. So the second stretch runs five
times on each side, every other request 0, 50, … 200 µs later: the medians are compared, and in brackets stands how far
the runs step by step lie from their own median, which is chance.

(c) vLLM 0.19 with Llama-3.1-8B, measured on two GPUs: the speed is fitted on the first half of the requests and judged
on the second, which it has not seen. The traces are not part of this repository.
"""

import json
import math
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.loads import SLOTS, SPEED, TRACES, capacity, lognormal
from bench.machine import heading
from fareclass.core.snapshot import Quota, Reservation
from fareclass.core.tiers import DEFAULT_POLICIES, TIERS, Tier
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.metering.pricing import free_book
from fareclass.planner.fit import Felt, Measured, fit, measured, simulated
from fareclass.planner.pools import Lane, Pool
from fareclass.planner.replay import TOLD_US, Floors, PoolReplay, replay
from fareclass.planner.results import ModelResult, Quantiles, TierResult
from fareclass.planner.trace import Arrival
from tests.sim.step_by_step import StepByStep

WEEK = 1_000_000
SHORT = 10_000
STRETCHES = (("from 4 h on, load 0.4 to 0.6", 4, (0,)), ("from 9 h on, load 0.9 to 1.1", 9, (0, 50, 100, 150, 200)))
REPLICAS = 4
MEAN_PROMPT, MEAN_OUTPUT = 2_400, 800
WEEK_S, DAY_H = 7 * 86_400, 24
SHARES = (15, 15, 40, 25, 5)
PROJECTS = 4
WIDTH = 150
RESERVED = tuple(
    Reservation(
        id=project, project=project, model="m", input_tpm=12_000, output_tpm=4_000, overflow=Tier.DEFAULT, starts_us=0
    )
    for project in ("project-0", "project-1")
)
QUOTAS = {("project-2", "m"): Quota(tpm=60_000, rpm=60)}
POOL = Pool(
    model="m",
    lanes=(Lane(slots=SLOTS, speed=SPEED),) * REPLICAS,
    policies=DEFAULT_POLICIES,
    book=free_book("m"),
    capacity=capacity(REPLICAS),
)
VLLM = Speed(sequence_us=0, context_ns=50, chunk_tokens=2_048, lead_steps=1)
GPUS = (
    ("RTX PRO 6000", "vllm_measured_RTXPRO6000_Llama-3.1-8B", replace(VLLM, limit=128, kv_tokens=500_000)),
    ("RTX 4090", "vllm_measured_RTX4090_Llama-3.1-8B", replace(VLLM, limit=256, kv_tokens=41_408, overcommits=True)),
)
HALF = 150
COMPARED: tuple[tuple[str, Callable[[TierResult], float]], ...] = (
    ("done", lambda tier: tier.completed),
    ("ttft p50 s", lambda tier: seconds(tier.ttft_ms, "p50")),
    ("ttft p99 s", lambda tier: seconds(tier.ttft_ms, "p99")),
    ("in all p50 s", lambda tier: seconds(tier.whole_ms, "p50")),
    ("in all p99 s", lambda tier: seconds(tier.whole_ms, "p99")),
)


class Runs(NamedTuple):
    """Several runs of one load, and what each request of them cost."""

    results: list[ModelResult]
    us: float


def seconds(of: Quantiles | None, name: str) -> float:
    return float("nan") if of is None else float(getattr(of, name)) / 1e3


def week(seed: int, requests: int, from_h: int = 0) -> Iterator[Arrival]:
    """So many requests of the week, from an hour of its Monday on."""
    draw = random.Random(seed)
    at_s, mean = from_h * 3_600.0, WEEK / WEEK_S
    for _ in range(requests):
        day, hour = divmod(at_s / 3_600 % (7 * DAY_H), DAY_H)
        wave = 1 + 0.6 * math.cos((hour - 14) / DAY_H * 2 * math.pi)
        at_s += draw.expovariate(mean * wave * (1.1 if day < 5 else 0.75))
        yield Arrival(
            int(at_s * 1e6),
            lognormal(draw, MEAN_PROMPT),
            lognormal(draw, MEAN_OUTPUT),
            project=f"project-{draw.randrange(PROJECTS)}",
            tier=draw.choices(TIERS, SHARES)[0],
        )


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Seen:
    """Memory as the replay goes on, by tenth of the requests."""

    def __init__(self, progress: Progress) -> None:
        self.peaks_mb = [0.0] * 10
        self._progress = progress
        self._task = progress.add_task("a week", total=WEEK)

    def __call__(self, count: int, _at_us: int) -> None:
        tenth = count * 10 // WEEK
        self.peaks_mb[tenth] = max(self.peaks_mb[tenth], resident_mb())
        self._progress.update(self._task, completed=count)


def a_week(console: Console, progress: Progress) -> None:
    seen = Seen(progress)
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    (result,) = replay(week(1, WEEK), {"m": POOL}, reservations=RESERVED, quotas=QUOTAS, told=seen)
    took_s, wall_s = time.process_time() - began_s, time.perf_counter() - began_wall_s
    drawing_s = time.process_time()
    for _ in week(1, WEEK):
        pass
    drawing_s = time.process_time() - drawing_s
    console.print(
        f"(a) {WEEK:,} requests over {result.seconds / 86_400:.2f} days: {took_s:.1f} s of one core "
        f"({wall_s:.1f} s by the clock), {took_s / WEEK * 1e6:.0f} µs a request, of which drawing the load "
        f"{drawing_s / WEEK * 1e6:.0f}; memory at most {seen.peaks_mb[0]:.0f} MB in the first tenth, "
        f"{seen.peaks_mb[-1]:.0f} MB in the last; {result.used_share:.0%} of the slots used",
        soft_wrap=True,
    )
    table = Table(title="What every tier got", title_justify="left")
    for column in ("tier", "requests", "done", "throttled", "shed", "expired", "spilled", "wait s 50/99",
                   "ttft s 50/95/99", "tokens/s", "pauses", "slots"):  # fmt: skip
        table.add_column(column, justify="left" if column == "tier" else "right")
    for tier in result.tiers:
        rate = "" if tier.output_tokens_s is None else f"{tier.output_tokens_s.p50:.0f}"
        ended = (tier.requests, tier.completed, tier.throttled, tier.shed, tier.expired, tier.spilled)
        waits = pair(tier.queue_ms, "p50", "p99"), pair(tier.ttft_ms, "p50", "p95", "p99")
        table.add_row(tier.tier, *(f"{n:,}" for n in ended), *waits, rate, f"{tier.pauses:,}", f"{tier.slot_share:.1%}")
    console.print(table)


def pair(of: Quantiles | None, *names: str) -> str:
    return "" if of is None else "/".join(f"{getattr(of, name) / 1e3:.3g}" for name in names)


def held(engine: type[SimReplica], told_us: int, from_h: int, apart_us: int) -> ModelResult:
    """A stretch of the week on engines of this kind, every other request so much later."""
    floors, quotas = Floors(RESERVED), {project: quota for (project, _), quota in QUOTAS.items()}
    pool = PoolReplay(POOL, floors, quotas, engine=engine, told_us=told_us)
    for number, arrival in enumerate(week(2, SHORT, from_h)):
        assert arrival.tier is not None
        pool.arrive(arrival, arrival.tier, arrival.at_us + number % 2 * apart_us)
    pool.finish()
    assert not pool.faults, pool.faults
    return pool.result()


def runs(engine: type[SimReplica], told_us: int, from_h: int, apart: Sequence[int], step: Callable[[], None]) -> Runs:
    """The stretch, as often as there are times apart; microseconds of the processor for each request."""
    began_s = time.process_time()
    results = []
    for apart_us in apart:
        results.append(held(engine, told_us, from_h, apart_us))
        step()
    return Runs(results, (time.process_time() - began_s) / SHORT / len(apart) * 1e6)


def against_steps(console: Console, progress: Progress) -> None:
    task = progress.add_task("step by step", total=2 * sum(len(apart) for _, _, apart in STRETCHES))
    for title, from_h, apart in STRETCHES:
        exact = runs(StepByStep, 0, from_h, apart, partial(progress.advance, task))
        ours = runs(SimReplica, TOLD_US, from_h, apart, partial(progress.advance, task))
        table = Table(
            title=f"(b) {SHORT:,} requests {title}: step by step ({exact.us:,.0f} µs a request), event by event "
            f"({ours.us:.0f} µs)",
            title_justify="left",
        )
        for column in ("tier", "requests", *(label for label, _ in COMPARED)):
            table.add_column(column, justify="left" if column == "tier" else "right")
        for number, tier in enumerate(exact.results[0].tiers):
            cells = []
            for _, value in COMPARED:
                one, other = ([value(result.tiers[number]) for result in side.results] for side in (exact, ours))
                middle = median(one)
                chance = f" [{max(abs(each / middle - 1) for each in one) * 100:.1f}]" if len(apart) > 1 else ""
                cells.append(beside(middle, median(other)) + chance)
            table.add_row(tier.tier, f"{tier.requests:,}", *cells)
        console.print(table)


def digits(value: float) -> int:
    """Three, or all of a whole number."""
    return max(3, len(f"{value:.0f}"))


def beside(one: float, other: float) -> str:
    """Two figures, and how far the second is off."""
    return f"{one:,.{digits(one)}g} {other:,.{digits(one)}g} {(other / one - 1) * 100:+.1f}%"


def run_of(folder: Path) -> list[Measured]:
    """A measured run; the frontend's clock and the engine's are laid over each other where they lie closest."""
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    apart = min(row["queued_ts"] - row["arrival_time"] for row in rows)
    start = rows[0]["arrival_time"]
    return [
        Measured(
            int((row["arrival_time"] - start) * 1e6),
            int((row["first_token_ts"] - apart - start) * 1e6),
            int((row["last_token_ts"] - apart - start) * 1e6),
            row["input_toks"],
            row["output_toks"],
        )
        for row in rows
    ]


def against_vllm(console: Console, progress: Progress) -> None:
    if not all((TRACES / folder).exists() for _, folder, _ in GPUS):
        console.print(f"(c) left out: the measured runs of vLLM are not in {TRACES}")
        return
    table = Table(title="(c) vLLM measured, simulated, and the error, on requests not fitted", title_justify="left")
    for column in ("GPU", "seconds", "p10", "p50", "p90", "p99"):
        table.add_column(column, justify="left" if column in {"GPU", "seconds"} else "right")
    for name, folder, engine in GPUS:
        task = progress.add_task(name, total=1)
        run = run_of(TRACES / folder)
        speed = fit(run, engine, HALF)
        rows_of(table, name, measured(run), simulated(run, speed))
        console.print(
            f"    {name}: base_us {speed.base_us}, context_ns {speed.context_ns}, prefill_tokens_s {speed.prefill_tokens_s}"
        )
        progress.advance(task)
    console.print(table)


def rows_of(table: Table, name: str, truth: Felt, told: Felt) -> None:
    for label, field in (("to first token", "ttft_s"), ("between tokens", "inter_token_s"), ("in all", "whole_s")):
        pick = partial(shares, (0.1, 0.5, 0.9, 0.99))
        pairs = zip(pick(getattr(truth, field)[HALF:]), pick(getattr(told, field)[HALF:]), strict=True)
        table.add_row(name, label, *(beside(one, other) for one, other in pairs))
    table.add_section()


def shares(of: Sequence[float], values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, of)]


def main() -> None:
    console = Console(width=WIDTH)
    console.print(heading(), soft_wrap=True)
    with Progress(console=console, transient=True) as progress:
        a_week(console, progress)
        against_steps(console, progress)
        against_vllm(console, progress)


if __name__ == "__main__":
    main()
