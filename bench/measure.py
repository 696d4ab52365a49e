"""What callers saw of one run of a fleet."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from math import isnan
from typing import NamedTuple

from bench.loads import SPEED, engines, work_s
from fareclass.core.tiers import TIERS, Tier
from fareclass.planner.estimates import Estimates
from fareclass.planner.fleet import US, Fleet, Scheduler
from fareclass.planner.job import Job

NONE = float("nan")


def percentile(values: Seq[float], share: float) -> float:
    """The value that `share` of all stay at or below; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else NONE


def brief(seconds: float) -> str:
    """Three digits are enough: `.067`, `5.5`, `898`."""
    if isnan(seconds):
        return "-"
    return f"{seconds:.3f}".removeprefix("0") if seconds < 0.9995 else f"{seconds:.{1 if seconds < 99 else 0}f}"


def pair(one: float, other: float) -> str:
    return f"{brief(one)}/{brief(other)}" if not isnan(one) else "-"


class Seen(NamedTuple):
    """One tier in one run. Times in seconds; a request without a first token counts with its wait so far."""

    requests: int
    ttft_p50: float
    ttft_p99: float
    queue_p99: float
    token_ms: float
    refused: float
    pauses: int
    most_pauses: int
    gap_p99: float
    gap_max: float


class Run(NamedTuple):
    """One run. `work` is useful work as a share of what full batches could do (prompt and output
    tokens delivered once), `thrown_away` the share of all work that came to nothing.
    """

    tiers: dict[Tier, Seen]
    work: float
    output_s: float
    thrown_away: float
    pauses_s: float
    restarts: int
    faults: str


def measure(
    scheduler: Scheduler,
    replicas: int,
    jobs: list[Job],
    *,
    seconds: int,
    warm_s: int,
    backlog: Callable[[int], Job] | None = None,
    engine_orders: bool = False,
    estimates: Estimates | None = None,
    progress: Callable[[float], None],
) -> Run:
    """Run a load on a fleet for `seconds`, of which the first `warm_s` don't count. Requests are seen by served tier."""
    waiting = 4 * SPEED.limit * replicas if backlog is not None else 0
    fleet = Fleet(
        scheduler,
        engines(replicas),
        jobs,
        backlog=backlog,
        backlog_waiting=waiting,
        engine_orders=engine_orders,
        estimates=estimates,
    )
    fleet.run(warm_s * US)
    before = _tokens(fleet)
    for second in range(warm_s + 1, seconds + 1):
        fleet.run(second * US)
        progress(second / seconds)
    useful_prompt, useful_output, prompt, output = (
        now - then for now, then in zip(_tokens(fleet), before, strict=True)
    )
    useful, replica_s = work_s(useful_prompt, useful_output), replicas * (seconds - warm_s)
    counted = [job for job in fleet.jobs if job.arrival_us >= warm_s * US or job.tier is Tier.BATCH]
    return Run(
        tiers={tier: _seen([job for job in counted if job.served is tier], fleet.now_us) for tier in TIERS},
        work=useful / replica_s,
        output_s=useful_output / replica_s,
        thrown_away=1 - useful / work_s(prompt, output),
        pauses_s=sum(job.pauses for job in counted) / replica_s,
        restarts=fleet.restarts,
        faults=", ".join(f"{number} × {what}" for what, number in fleet.faults.items()) or "none",
    )


def _tokens(fleet: Fleet) -> tuple[int, int, int, int]:
    return (
        sum(fleet.delivered_prompt.values()),
        sum(fleet.delivered_output.values()),
        sum(replica.computed_prompt for replica in fleet.replicas),
        sum(replica.computed_output for replica in fleet.replicas),
    )


def _seen(jobs: list[Job], end_us: int) -> Seen:
    kept = [job for job in jobs if job.refused is None]
    ttft = [((job.first_us or end_us) - job.arrival_us) / US for job in kept]
    queue = [((job.run_us or end_us) - job.arrival_us) / US for job in kept]
    gaps = [gap / US for job in jobs for gap in (*job.gaps, *_open_gap(job, end_us))]
    return Seen(
        requests=len(jobs),
        ttft_p50=percentile(ttft, 0.5),
        ttft_p99=percentile(ttft, 0.99),
        queue_p99=percentile(queue, 0.99),
        token_ms=_token_ms(jobs),
        refused=(len(jobs) - len(kept)) / len(jobs) if jobs else NONE,
        pauses=sum(job.pauses for job in jobs),
        most_pauses=max((job.pauses for job in jobs), default=0),
        gap_p99=percentile(gaps, 0.99),
        gap_max=max(gaps, default=NONE),
    )


def _open_gap(job: Job, end_us: int) -> list[int]:
    """The silence of a stream that stands paused at the end of the run."""
    paused = job.first_us is not None and job.whole_us is None and job.call is None and job.refused is None
    return [end_us - job.last_us] if paused else []


def _token_ms(jobs: list[Job]) -> float:
    """Mean time from token to token in whole answers, the gaps of pauses left out."""
    spent = tokens = 0
    for job in jobs:
        if job.whole_us is not None and job.first_us is not None:
            spent += job.whole_us - job.first_us - sum(job.gaps)
            tokens += job.output - 1
    return spent / tokens / 1_000 if tokens else NONE
