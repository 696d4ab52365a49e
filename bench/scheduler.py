"""Scheduling passes a second, the worst pass, and memory of a waiting ticket, by tickets waiting and replicas.

Every event told to the brain counts as one pass, with all that it decides. A full pool is
kept in a steady state: in turn a request arrives (15 % reserved and 15 % priority, which
take slots from what runs; 70 % default), a running call ends, and whoever starts gives a
first token. Times are processor time. Default, flex and batch of 50 projects stand in line. Python's own garbage
collector is off while passes are timed; what a full collection takes is shown beside.

A virtual machine that loses its core for some milliseconds finds them in its processor time. So
the same seeded schedule runs three times, and `worst` is the slowest pass by the best of its
three times; `single` is the slowest of all, and the last line of the table the same for a fixed
loop that decides nothing.
"""

import gc
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import policies
from bench.loads import SLOTS
from bench.machine import heading
from bench.measure import percentile
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.core.usage import Usage
from fareclass.sched.ticket import Effect, Pause, Refuse, Start, State, Ticket

WAITING = (1_000, 10_000, 100_000)
REPLICAS = (1, 4, 16, 64)
ROUNDS = 10_000
RUNS = 3
CONTROL_STEPS = 1_000
CONTROL_PASSES = 300_000
PROJECTS = 50
SERVICE_S = 6.4
NEVER_S = 1e9
ARRIVING = ((Tier.RESERVED, Tier.PRIORITY, Tier.DEFAULT), (15, 15, 70))
IN_LINE = ((Tier.DEFAULT, Tier.FLEX, Tier.BATCH), (1, 1, 1))


class Passes(NamedTuple):
    """One setting: passes in a second, the slowest ones, and a full garbage collection."""

    a_second: float
    p99_ms: float
    worst_ms: float
    single_ms: float
    collection_ms: float


class Pool:
    """A full pool with a long line, kept in a steady state."""

    def __init__(self, replicas: int, waiting: int) -> None:
        patient = {
            tier: msgspec.structs.replace(policy, max_wait_s=NEVER_S, queue_limit=10**9)
            for tier, policy in DEFAULT_POLICIES.items()
        }
        self.brain = policies.brain(replicas, SLOTS, patient)
        self.passes: list[float] = []
        self._now = 0.0
        self._step_s = 0.0
        self._draw = random.Random(1)
        self._number = 0
        self._running: list[Ticket] = []
        self._effects: deque[Effect] = deque()
        for _ in range(replicas * SLOTS + waiting):
            self.arrive(*IN_LINE)
        self._step_s = SERVICE_S / (replicas * SLOTS) / 4

    def arrive(self, tiers: Sequence[Tier], shares: Sequence[int]) -> None:
        """One more request."""
        self._number += 1
        tier = self._draw.choices(tiers, shares)[0]
        ticket = Ticket(
            str(self._number),
            f"project-{self._draw.randrange(PROJECTS)}",
            tier,
            prompt_tokens=self._draw.randint(10, 400),
            continuable=True,
            deadline=NEVER_S if tier is Tier.BATCH else None,
        )
        self._pass(lambda now: self.brain.offer(ticket, now))

    def finish_one(self) -> None:
        """A running call ends."""
        ticket = self._draw_running()
        self._pass(lambda now: self.brain.finish(ticket, now, Usage(output=300)))

    def _draw_running(self) -> Ticket:
        while True:
            at = self._draw.randrange(len(self._running))
            self._running[at], self._running[-1] = self._running[-1], self._running[at]
            ticket = self._running.pop()
            if ticket.state is State.RUNNING:
                return ticket

    def _pass(self, event: Callable[[float], list[Effect]]) -> None:
        """Tell one event, take its time, then do what the brain wants and tell what follows from it."""
        self._timed(event)
        while self._effects:
            effect = self._effects.popleft()
            if isinstance(effect, Start):
                self._begin(effect.ticket)
            elif isinstance(effect, Pause):
                self._timed(partial(self.brain.paused, effect.ticket))
            elif isinstance(effect, Refuse):
                raise TypeError(f"nothing should be refused here: {effect.message}")
        wake = self.brain.next_wake
        if wake is not None and wake <= self._now:
            self._timed(self.brain.tick)

    def _begin(self, ticket: Ticket) -> None:
        self._running.append(ticket)
        self.brain.produced(ticket, 50, self._now)
        self.brain.sent(ticket)
        self._timed(lambda now: self.brain.first_token(ticket, now))

    def _timed(self, event: Callable[[float], list[Effect]]) -> None:
        self._now += self._step_s
        began = time.thread_time()
        effects = event(self._now)
        self.passes.append(time.thread_time() - began)
        self._effects += effects


def run(replicas: int, waiting: int) -> tuple[list[float], float]:
    """Rounds of an arrival and an end each, on a pool that is full: the time of each pass, of a collection."""
    pool = Pool(replicas, waiting)
    began = time.thread_time()
    gc.collect()
    collection_s = time.thread_time() - began
    pool.passes.clear()
    gc.disable()
    for _ in range(ROUNDS):
        pool.arrive(*ARRIVING)
        pool.finish_one()
    gc.enable()
    return pool.passes, collection_s


def control() -> list[float]:
    """A fixed loop for as long as the slowest setting takes: what the machine alone adds to a pass."""
    passes = []
    for _ in range(CONTROL_PASSES):
        began = time.thread_time()
        for _ in range(CONTROL_STEPS):
            pass
        passes.append(time.thread_time() - began)
    return passes


def seen(runs: list[list[float]], collection_s: float) -> Passes:
    """The same passes, timed in several runs."""
    every = [each for run in runs for each in run]
    best = [min(each) for each in zip(*runs, strict=True)]
    return Passes(
        len(every) / sum(every),
        percentile(every, 0.99) * 1e3,
        max(best) * 1e3,
        max(every) * 1e3,
        collection_s * 1e3,
    )


def ticket_bytes(waiting: int) -> float:
    """What one more waiting ticket takes, its place in line and its timer included."""
    tracemalloc.start()
    empty = Pool(1, 0)
    before = tracemalloc.get_traced_memory()[0]
    full = Pool(1, waiting)
    full.passes.clear()
    size = (tracemalloc.get_traced_memory()[0] - before) / waiting
    tracemalloc.stop()
    del empty, full
    return size


def row(table: Table, waiting: str, replicas: str, timed: Passes, collection: str, size: str) -> None:
    slowest = f"{timed.p99_ms * 1e3:.0f}", f"{timed.worst_ms:.2f}", f"{timed.single_ms:.2f}"
    table.add_row(
        waiting, replicas, f"{timed.a_second:,.0f}", f"{1e6 / timed.a_second:.1f}", *slowest, collection, size
    )


def main() -> None:
    console = Console(width=100)
    console.print(heading(), soft_wrap=True)
    table = Table(
        title="Scheduling passes (one event told to the brain, with all that it decides)", title_justify="left"
    )
    for column in (
        "waiting",
        "replicas",
        "passes/s",
        "mean µs",
        "p99 µs",
        "worst ms",
        "single ms",
        "gc ms",
        "bytes/ticket",
    ):
        table.add_column(column, justify="right")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("passes", total=len(WAITING) * len(REPLICAS) + 1)
        for waiting in WAITING:
            size = ticket_bytes(waiting)
            for replicas in REPLICAS:
                runs = [run(replicas, waiting) for _ in range(RUNS)]
                timed = seen([passes for passes, _ in runs], min(collection for _, collection in runs))
                row(table, f"{waiting:,}", str(replicas), timed, f"{timed.collection_ms:.0f}", f"{size:,.0f}")
                progress.advance(task)
            table.add_section()
        row(table, "fixed", "loop", seen([control() for _ in range(RUNS)], 0.0), "", "")
    console.print(table)


if __name__ == "__main__":
    main()
