"""How far apart two busy projects drift in tokens served, beside hostile ones, against R8's bound.

Two well-behaved projects of one tier always have work. Beside them stand projects that
send huge prompts, floods of tiny ones, long answers, and bursts after being idle. The bound on
the drift, over any stretch of time, is 2 × max(largest input weight, slots × largest output weight).
"""

import random
from collections import Counter
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.loads import SLOTS, engines
from bench.machine import heading
from bench.policies import FirstComeFirstServed, brain
from fareclass.core.tiers import Tier
from fareclass.planner.fleet import US, Fleet, Scheduler
from fareclass.planner.job import Job
from fareclass.sched.fairness import INPUT_WEIGHT, OUTPUT_WEIGHT

REPLICAS = 2
TOKENS = 1_000_000


class Habit(NamedTuple):
    """How a project behaves: it keeps `waiting` requests in line while it is `busy_s` of every `period_s` awake."""

    name: str
    prompt: tuple[int, int]
    output: tuple[int, int]
    waiting: int
    busy_s: int = 1
    period_s: int = 1


STEADY = (Habit("steady A", (200, 1_000), (50, 350), 20), Habit("steady B", (200, 1_000), (50, 350), 20))
HOSTILE = (
    Habit("huge prompts", (6_000, 8_000), (1, 5), 20),
    Habit("flood of tiny ones", (1, 20), (1, 10), 300),
    Habit("long answers", (10, 50), (600, 800), 20),
    Habit("idle, then burst", (200, 4_000), (50, 350), 100, busy_s=10, period_s=60),
)
HABITS = (*STEADY, *HOSTILE)
BOUND = 2 * max(
    max(habit.prompt[1] for habit in HABITS) * INPUT_WEIGHT,
    REPLICAS * SLOTS * max(habit.output[1] for habit in HABITS) * OUTPUT_WEIGHT,
)
"""The largest weights are those of a whole request's input, and of its output in every slot."""
SLICE_US = 50_000


class Served(NamedTuple):
    """One run: weighted tokens by project, the largest drift between the steady ones, and tokens in all."""

    by_project: dict[str, float]
    drift: float
    tokens: int
    seconds: float


def run(scheduler: Scheduler, progress: Progress, title: str) -> Served:
    """Keep every project at its habit until a million tokens are served."""
    draw = random.Random(1)
    task = progress.add_task(title, total=TOKENS)
    fleet = Fleet(scheduler, engines(REPLICAS), [])
    waiting: dict[Habit, list[Job]] = {habit: [] for habit in HABITS}
    inputs: Counter[str] = Counter()
    lowest = highest = 0.0
    tokens = 0
    while tokens < TOKENS:
        for habit, jobs in waiting.items():
            inputs[habit.name] += sum(job.prompt for job in jobs if job.started)
            jobs[:] = [job for job in jobs if not job.started]
            awake = fleet.now_us // US % habit.period_s < habit.busy_s
            for _ in range(habit.waiting - len(jobs) if awake else 0):
                jobs.append(
                    Job(habit.name, Tier.FLEX, fleet.now_us, draw.randint(*habit.prompt), draw.randint(*habit.output))
                )
                fleet.offer(jobs[-1])
        fleet.run(fleet.now_us + SLICE_US)
        ahead = _weighted(fleet, inputs, STEADY[0]) - _weighted(fleet, inputs, STEADY[1])
        lowest, highest = min(lowest, ahead), max(highest, ahead)
        tokens = sum(fleet.delivered_output.values()) + sum(fleet.delivered_prompt.values())
        progress.update(task, completed=tokens)
    progress.remove_task(task)
    by_project = {habit.name: _weighted(fleet, inputs, habit) for habit in HABITS}
    return Served(by_project, highest - lowest, tokens, fleet.now_us / US)


def _weighted(fleet: Fleet, inputs: Counter[str], habit: Habit) -> float:
    """What a project was served: input when it started, output as it was made."""
    return inputs[habit.name] * INPUT_WEIGHT + fleet.delivered_output[habit.name] * OUTPUT_WEIGHT


def main() -> None:
    console = Console(width=100)
    console.print(heading(), soft_wrap=True)
    table = Table(
        title=f"Tokens served (input × {INPUT_WEIGHT:g}, output × {OUTPUT_WEIGHT:g}) on {REPLICAS} replicas × {SLOTS} slots",
        title_justify="left",
    )
    table.add_column("project")
    with Progress(console=console, transient=True) as progress:
        runs = {
            "Fareclass": run(brain(REPLICAS, SLOTS), progress, "Fareclass"),
            "first come": run(FirstComeFirstServed(REPLICAS, SLOTS), progress, "first come, first served"),
        }
    for name, served in runs.items():
        table.add_column(f"{name}, {served.tokens / 1e6:.2f} M tokens in {served.seconds:.0f} s", justify="right")
    for habit in HABITS:
        shares = (served.by_project[habit.name] / sum(served.by_project.values()) for served in runs.values())
        table.add_row(habit.name, *(f"{share:.1%}" for share in shares))
    table.add_section()
    table.add_row("drift of A and B", *(f"{served.drift:,.0f}" for served in runs.values()))
    table.add_row("bound of R8", *(f"{BOUND:,.0f}" for _ in runs))
    table.add_row("drift / bound", *(f"{served.drift / BOUND:.3f}" for served in runs.values()))
    console.print(table)


if __name__ == "__main__":
    main()
