"""Cache-affine placement on real conversations: hit rate, TTFT and balance against an ideal cache of the same size (R16).

Virtual time, as `scheduler`. Traces: half an hour of chat (blocks of 512 tokens) and sessions of coding agents
(blocks of 64 tokens, here taken 16 at a time). `ideal` is one cache as large as those of all replicas together that
every request finds at once; `random` and `least loaded` place without looking at what is cached.
`--engine local` measures the built-in engine instead: the first token of a prompt of 2,000 tokens, cold and cached.
"""

import argparse
import asyncio
import gzip
import json
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

import pyarrow.parquet as pq

from bench import cache_local, machine
from bench.loads import HALF_HOUR_US, MOONCAKE, SLOTS, TICK_US, TRACES
from bench.measure import percentile
from fareclass.core.prefix import Prefix
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.engine.sim_cache import Piece, PrefixCache
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.planner.fleet import US, Fleet
from fareclass.planner.job import Job
from fareclass.policy.caching import Index
from fareclass.sched.brain import Brain

CLAUDE = TRACES / "claude_code_sessions_A.parquet"
KV_TOKENS = 2_000_000
"""Of each replica: about what HBM and main memory of a machine hold."""
SPEED = Speed(limit=SLOTS + 2, kv_tokens=KV_TOKENS, prefill_tokens_s=40_000, chunk_tokens=2_048)
COARSE = 16
Holders = Mapping[str, int]
Load = Callable[[int, int, int], list[Job]]


def mooncake(seed: int, replicas: int, seconds: int) -> list[Job]:
    """The half hour once for every four replicas, each copy with users of its own, shifted in time."""
    draw = random.Random(seed)
    with gzip.open(MOONCAKE, "rt") as file:
        rows = [json.loads(line) for line in file]
    jobs = []
    for copy in range(max(1, replicas // 4)):
        shift = draw.randrange(HALF_HOUR_US) if copy else 0
        for row in rows:
            at = (row["timestamp"] * 1_000 + draw.randrange(TICK_US) + shift) % HALF_HOUR_US
            names = [(copy, block) for block in row["hash_ids"]]
            if at < seconds * US:
                jobs.append(_job(at, row["input_length"], row["output_length"], names, 512))
    return sorted(jobs, key=lambda job: job.arrival_us)


def claude(seed: int, replicas: int, seconds: int) -> list[Job]:
    """Sessions that begin at random, so many that the fleet is about half busy with what is not cached."""
    draw = random.Random(seed)
    table = pq.read_table(CLAUDE, columns=["session", "t", "input_tokens", "output_tokens", "hash_ids"])
    sessions: dict[str, list[tuple[float, int, int, list[int]]]] = {}
    for row in table.to_pylist():
        asked = (row["t"], row["input_tokens"], row["output_tokens"], row["hash_ids"])
        sessions.setdefault(row["session"], []).append(asked)
    names = sorted(sessions)
    draw.shuffle(names)
    jobs: list[Job] = []
    for copy in range(8 * replicas):
        begin = draw.uniform(-seconds / 2, seconds * 0.9)
        for t, prompt, output, blocks in sessions[names[copy % len(names)]]:
            at = int((begin + t) * US)
            if 0 <= at < seconds * US and prompt + output < KV_TOKENS // 4:
                coarse = [(copy, *blocks[start : start + COARSE]) for start in range(0, len(blocks), COARSE)]
                jobs.append(_job(at, prompt, output, coarse, 64 * COARSE))
    return sorted(jobs, key=lambda job: job.arrival_us)


def _job(at: int, prompt: int, output: int, names: Iterable[object], block: int) -> Job:
    """A request whose prompt is these blocks; each is named with all that stands before it."""
    digest, left, pieces = b"", max(1, prompt), []
    for name in names:
        digest = blake2b(digest + repr(name).encode(), digest_size=16).digest()
        pieces.append(Piece(digest, min(block, left)))
        left -= pieces[-1].tokens
        if not left:
            break
    job = Job("project", Tier.DEFAULT, at, max(1, prompt), max(1, output))
    job.pieces = tuple(pieces)
    return job


def ideal(jobs: Iterable[Job], replicas: int) -> float:
    """The share of all prompt tokens that one cache for everybody would have had."""
    cache, hit, asked = PrefixCache(KV_TOKENS * replicas, SPEED.block_tokens), 0, 0
    for job in jobs:
        hit += cache.take(None, job.pieces, job.prompt, job.prompt) or 0
        cache.give_back(id(job), job.pieces, job.prompt, job.prompt)
        asked += job.prompt
    return hit / asked


class Affine:
    """What the gateway does: the index of what ran where."""

    def __init__(self) -> None:
        self._index = Index(digests=1_000_000)

    def holders(self, job: Job, now_us: int) -> Holders:
        return self._index.look(_prefix(job), now_us).holders

    def sent(self, job: Job, now_us: int) -> None:
        self._index.sent(_prefix(job), str(job.replica), job.prompt, now_us)


def _prefix(job: Job) -> Prefix:
    ends, end = [], 0
    for piece in job.pieces:
        end += piece.tokens
        ends.append(end)
    return Prefix(tuple(piece.key for piece in job.pieces), tuple(ends))  # type: ignore[misc]  # keys are digests here


class Nowhere:
    """Nothing is known of caches: the least loaded replica."""

    def holders(self, _job: Job, _now_us: int) -> Holders:
        return {}

    def sent(self, job: Job, now_us: int) -> None:
        """Nothing is learned."""


class Anywhere(Nowhere):
    """A replica drawn by lot, as if it held everything."""

    def __init__(self, replicas: int) -> None:
        self._draw = random.Random(1)
        self._replicas = replicas

    def holders(self, job: Job, _now_us: int) -> Holders:
        return {str(self._draw.randrange(self._replicas)): job.prompt}


def run(name: str, known: Affine | Nowhere, jobs: list[Job], replicas: int, seconds: int, best: float) -> list[object]:
    brain = Brain(DEFAULT_POLICIES)
    for number in range(replicas):
        brain.add_replica(str(number), SLOTS, 0.0)
        brain.set_replica(str(number), 0.0, continuable=True, recompute_tokens=16, keeps_cut=True)
    fleet = Fleet(brain, [SimReplica(SPEED) for _ in range(replicas)], jobs, placing=known)
    fleet.run(seconds * 2 * US)
    served = [job for job in fleet.jobs if job.first_us is not None]
    hits = sum(job.cached for job in served) / sum(job.prompt for job in served)
    ttft = [(job.first_us - job.arrival_us) / US for job in served if job.first_us is not None]
    load = [
        replica.computed_prompt / SPEED.prefill_tokens_s
        + replica.computed_output * SPEED.step_us(SLOTS, 0) / SLOTS / US
        for replica in fleet.replicas
    ]
    refused = sum(job.refused is not None for job in fleet.jobs)
    assert not fleet.faults, fleet.faults
    return [
        name, len(served), refused, f"{hits:.1%}", f"{hits / best:.1%}", f"{percentile(ttft, 0.5):.2f}",
        f"{percentile(ttft, 0.99):.2f}", f"{max(load) / statistics.mean(load):.2f}",
    ]  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--engine", choices=["simulated", "local"], default="simulated")
    arguments.add_argument("--seconds", type=int, default=1_500)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    print(machine.heading(), "\n")
    if given.engine == "local":
        asyncio.run(cache_local.measure())
        return
    loads: list[tuple[str, Load]] = [("mooncake chat", mooncake), ("coding agents", claude)]
    for title, load in loads:
        for replicas in (4, 16):
            jobs = load(given.seed, replicas, given.seconds)
            best = ideal(jobs, replicas)
            print(f"{title}, {replicas} replicas, {len(jobs)} requests in {given.seconds} s; ideal hit rate {best:.1%}")
            print("placement        served refused   hits  of ideal  TTFT p50    p99  max/mean load")
            for name, known in (
                ("random", Anywhere(replicas)), ("least loaded", Nowhere()), ("affine (ours)", Affine()),
            ):  # fmt: skip
                row = run(name, known, load(given.seed, replicas, given.seconds), replicas, given.seconds, best)
                print("{:16} {:6} {:7} {:>6} {:>9} {:>9} {:>6} {:>14}".format(*row), flush=True)
            print()


if __name__ == "__main__":
    main()
