"""What the benches send: a synthetic load by seed, and two real half hours."""

import csv
import gzip
import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from fareclass.core.capacity import fits, load_micro
from fareclass.core.snapshot import Capacity
from fareclass.core.tiers import Tier
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.planner.fleet import US
from fareclass.planner.job import Job
from fareclass.sched.reserves import Floor

SLOTS = 16
SPEED = Speed(limit=SLOTS + 2)
SPLIT = {Tier.RESERVED: 0.15, Tier.PRIORITY: 0.15, Tier.DEFAULT: 0.40, Tier.FLEX: 0.30}
MEAN_PROMPT, MEAN_OUTPUT, SIGMA = 600, 200, 0.8
BATCH_PROMPT, BATCH_OUTPUT = 1_000, 200
TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"
AZURE = TRACES / "azure2023_code.csv.gz"
MOONCAKE = TRACES / "mooncake_conversation_0-30min.jsonl.gz"
TICK_US = 3 * US
HALF_HOUR_US = 1_800 * US


def engines(replicas: int) -> list[SimReplica]:
    """Idle ones."""
    return [SimReplica(SPEED) for _ in range(replicas)]


def work_s(prompt: float, output: float) -> float:
    """What tokens cost one replica at full batches, in seconds."""
    return prompt / SPEED.prefill_tokens_s + output * SPEED.step_us(SLOTS, 0) / SLOTS / US


def capacity(replicas: int) -> Capacity:
    """What such a fleet does of each kind alone (R19): whole chunks of one prompt, or full batches that decode."""
    chunks, steps = 60 * US / SPEED.step_us(1, SPEED.chunk_tokens), 60 * US / SPEED.step_us(SLOTS, 0)
    return Capacity(input_tpm=int(SPEED.chunk_tokens * chunks) * replicas, output_tpm=int(SLOTS * steps) * replicas)


def sold(replicas: int, prompt: int, output: int) -> Floor:
    """The floors that may be sold together on such a fleet, for requests of these means (R19)."""

    def too_many(requests: int) -> bool:
        return not fits(load_micro(requests * prompt, requests * output, capacity(replicas), slots), slots)

    slots = replicas * SLOTS
    requests = bisect_left(range(1_000_000), True, key=too_many) - 1
    return Floor(requests * prompt, requests * output)


def synthetic(seed: int, replicas: int, load: float, seconds: int, split: Mapping[Tier, float] = SPLIT) -> list[Job]:
    """Poisson arrivals; lognormal prompts (mean 600) and outputs (mean 200), sigma 0.8; tiers and projects drawn."""
    draw = random.Random(seed)
    rate = load * replicas / work_s(MEAN_PROMPT, MEAN_OUTPUT)
    tiers, shares = list(split), list(split.values())
    jobs, at = [], draw.expovariate(rate)
    while at < seconds:
        tier = draw.choices(tiers, shares)[0]
        project = f"project-{draw.randrange(4)}"
        jobs.append(Job(project, tier, int(at * US), lognormal(draw, MEAN_PROMPT), lognormal(draw, MEAN_OUTPUT)))
        at += draw.expovariate(rate)
    return jobs


def lognormal(draw: random.Random, mean: float) -> int:
    """A number of tokens."""
    return max(1, min(8_000, round(draw.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA))))


def batch_backlog(seed: int) -> Callable[[int], Job]:
    """Endless batch lines, 1,000 tokens in and 200 out on average."""
    draw = random.Random(seed)
    return lambda now_us: Job("batch", Tier.BATCH, now_us, lognormal(draw, BATCH_PROMPT), lognormal(draw, BATCH_OUTPUT))


def traces_present() -> bool:
    return AZURE.exists() and MOONCAKE.exists()


def traces(seed: int, replicas: int, load: float, seconds: int, split: Mapping[Tier, float] = SPLIT) -> list[Job]:
    """Azure code and Mooncake chat merged, tiers drawn, brought to `load` by thinning or by laying it over itself.

    Mooncake's times stand on ticks of 3 s: they are jittered inside them. Each copy of the
    half hour is turned round by its own offset, so bursts keep their shape.
    """
    draw = random.Random(seed)
    rows = _azure() + [(at + draw.randrange(TICK_US), prompt, output) for at, prompt, output in _mooncake()]
    offered = sum(work_s(prompt, output) for _, prompt, output in rows) / (HALF_HOUR_US / US) / replicas
    tiers, shares = list(split), list(split.values())
    jobs, left = [], load / offered
    while left > 0:
        shift = draw.randrange(HALF_HOUR_US)
        for at, prompt, output in rows:
            at = (at + shift) % HALF_HOUR_US
            if at < seconds * US and draw.random() < left:
                tier = draw.choices(tiers, shares)[0]
                jobs.append(Job(f"project-{draw.randrange(4)}", tier, at, max(1, prompt), max(1, output)))
        left -= 1
    jobs.sort(key=lambda job: job.arrival_us)
    return jobs


def _azure() -> list[tuple[int, int, int]]:
    with gzip.open(AZURE, "rt") as file:
        rows = [
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(file)
        ]
    start = rows[0][0]
    timed = [(round((at - start).total_seconds() * US), prompt, output) for at, prompt, output in rows]
    return [row for row in timed if row[0] < HALF_HOUR_US]


def _mooncake() -> list[tuple[int, int, int]]:
    with gzip.open(MOONCAKE, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [(row["timestamp"] * 1_000, row["input_length"], row["output_length"]) for row in rows]
