"""Plans are made in a process of their own: they take seconds of computing, and the gateway's is for requests (R44)."""

import asyncio
import os
import resource
import sys
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
from msgspec import structs

from fareclass.core.limits import PLAN_MEMORY_BYTES
from fareclass.core.snapshot import Burndown, PriceBook
from fareclass.core.tiers import BY_WORD
from fareclass.core.usage import KINDS
from fareclass.planner.advice import PlanRow
from fareclass.planner.demand import Demand
from fareclass.planner.plan import Subject, Workload, plan
from fareclass.planner.pools import Pool
from fareclass.planner.shape import Asked
from fareclass.planner.trace import Arrival
from fareclass.planner.waits import Replayed

_NICER = 10
_SIZE_BYTES = 4


class PlanFailed(Exception):
    """No plan came of it; the message says why."""


class WorkloadTask(msgspec.Struct, frozen=True, kw_only=True):
    """One workload: its tokens by minute as 64-bit floats, and the share of each tier, by its word."""

    name: str
    minutes: bytes
    tiers: dict[str, float]
    refused: float


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to plan: a `Subject`, its series as 64-bit numbers, and what to replay."""

    project: str
    project_name: str
    model: str
    start_us: int
    step_s: int
    kinds: bytes
    requests: bytes
    burndown: Burndown
    book: PriceBook
    workloads: list[WorkloadTask] = []
    weeks: list[float] = []
    season: bool = False
    pool: Pool | None = None
    sample: list[Arrival] = []


def task_of(subject: Subject, pool: Pool | None = None, sample: Sequence[Arrival] = ()) -> Task:
    """A subject in the form that goes to the process."""
    demand = subject.demand
    return Task(
        project=subject.project,
        project_name=subject.project_name,
        model=subject.model,
        start_us=demand.start_us,
        step_s=demand.step_s,
        kinds=demand.kinds.astype("<i8").tobytes(),
        requests=demand.requests.astype("<i8").tobytes(),
        burndown=demand.burndown,
        book=subject.book,
        workloads=[
            WorkloadTask(
                name=one.name,
                minutes=one.minutes.astype("<f8").tobytes(),
                tiers={tier.word: share for tier, share in one.asked.tiers.items()},
                refused=one.asked.refused,
            )
            for one in subject.workloads
        ],
        weeks=[float(week) for week in subject.weeks],
        season=subject.season,
        pool=None if pool is None else structs.replace(pool, policies=dict(pool.policies)),
        sample=list(sample),
    )


class PlanProcess:
    """The process, from its start to its end: `async with`. It is given one task after the other, so memory stays small."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        words = [sys.executable, "-m", __name__]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FARECLASS_")}
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, env=environment | {"OPENBLAS_NUM_THREADS": "1"}
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def plan(self, task: Task) -> PlanRow:
        """Raises:
        PlanFailed: it took too much memory.
        """
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(_framed(msgspec.msgpack.encode(task)))
            await stdin.drain()
            size = int.from_bytes(await stdout.readexactly(_SIZE_BYTES))
            return msgspec.msgpack.decode(await stdout.readexactly(size), type=PlanRow)
        except (OSError, asyncio.IncompleteReadError):
            raise PlanFailed(
                f"that of {task.project_name} on {task.model} takes too much memory: take a shorter time"
            ) from None


def plan_here(task: Task) -> PlanRow:
    """The same in this process."""
    subject = Subject(
        project=task.project,
        project_name=task.project_name,
        model=task.model,
        demand=Demand(
            task.start_us,
            task.step_s,
            np.frombuffer(task.kinds, "<i8").reshape(len(KINDS), -1),
            np.frombuffer(task.requests, "<i8"),
            task.burndown,
        ),
        book=task.book,
        workloads=[
            Workload(
                one.name,
                np.frombuffer(one.minutes, "<f8"),
                Asked({BY_WORD[word]: share for word, share in one.tiers.items()}, one.refused),
            )
            for one in task.workloads
        ],
        weeks=np.array(task.weeks),
        season=task.season,
    )
    if task.pool is None or not task.sample:
        return plan(subject)
    return plan(subject, Replayed(task.pool, task.project, task.sample))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_SIZE_BYTES) + body


def main() -> None:
    """Tasks on standard input, their plans on standard output, each behind its size."""
    os.nice(_NICER)
    resource.setrlimit(resource.RLIMIT_DATA, (PLAN_MEMORY_BYTES, PLAN_MEMORY_BYTES))
    while head := sys.stdin.buffer.read(_SIZE_BYTES):
        task = msgspec.msgpack.decode(sys.stdin.buffer.read(int.from_bytes(head)), type=Task)
        sys.stdout.buffer.write(_framed(msgspec.msgpack.encode(plan_here(task))))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
