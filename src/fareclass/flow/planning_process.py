"""Plans are made in a process of their own: they take seconds of computing, and the gateway's is for requests (R44)."""

import asyncio
import logging
import os
import resource
import signal
import sys
import traceback
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
from fareclass.planner.demand import MINUTE_S, US, Demand
from fareclass.planner.plan import Subject, Workload, plan
from fareclass.planner.pools import Pool
from fareclass.planner.shape import Asked
from fareclass.planner.trace import Arrival
from fareclass.planner.waits import Replayed
from fareclass.store.records import moment

_NICER = 10
_SIZE_BYTES = 4
_log = logging.getLogger(__name__)


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


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process makes of a task: a row, or the traceback of a fault; neither where memory is at its end."""

    row: PlanRow | None = None
    fault: str | None = None


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


def failed(task: Task, error: PlanFailed) -> PlanRow:
    """The row of a task that no plan came of."""
    minutes = len(task.requests) // 8 * task.step_s // MINUTE_S
    return PlanRow(
        project=task.project,
        project_name=task.project_name,
        model=task.model,
        start=moment(task.start_us),
        end=moment(task.start_us + minutes * MINUTE_S * US),
        minutes=minutes,
        advice=f"No plan was made: {error}.",
        failed=True,
    )


class PlanProcess:
    """The process, from the first task to the end of `async with`. It gets one task after the other: memory stays small.

    One that died over a task is started anew for the next.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def plan(self, task: Task) -> PlanRow:
        """Raises:
        PlanFailed: it took too much memory, or failed otherwise, which is logged.
        """
        process = await self._running()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(_framed(msgspec.msgpack.encode(task)))
            await stdin.drain()
            size = int.from_bytes(await stdout.readexactly(_SIZE_BYTES))
            answer = msgspec.msgpack.decode(await stdout.readexactly(size), type=Answer)
        except (OSError, asyncio.IncompleteReadError):
            status = await process.wait()
            answer = Answer(fault=None if status == -signal.SIGKILL else f"the process ended with status {status}")
        if answer.row is not None:
            return answer.row
        whose = f"that of {task.project_name} on {task.model}"
        if answer.fault is None:
            raise PlanFailed(f"{whose} takes too much memory; take a shorter time")
        _log.error("a plan failed", extra={"project": task.project, "model": task.model, "fault": answer.fault})
        raise PlanFailed(f"{whose} failed, and the gateway's log says how")

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("FARECLASS_")}
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-P", "-m", __name__],
                stdin=pipe,
                stdout=pipe,
                env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process


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


def answer_to(raw: bytes) -> bytes:
    """A task's `Answer`, encoded both."""
    try:
        row = plan_here(msgspec.msgpack.decode(raw, type=Task))
        return msgspec.msgpack.encode(Answer(row=row))
    except MemoryError:
        return msgspec.msgpack.encode(Answer())
    except Exception:  # noqa: BLE001 - the gateway logs it, and the other tasks go on
        return msgspec.msgpack.encode(Answer(fault=traceback.format_exc()))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_SIZE_BYTES) + body


def main() -> None:
    """Tasks on standard input, their answers on standard output, each behind its size."""
    os.nice(_NICER)
    resource.setrlimit(resource.RLIMIT_DATA, (PLAN_MEMORY_BYTES, PLAN_MEMORY_BYTES))
    while head := sys.stdin.buffer.read(_SIZE_BYTES):
        sys.stdout.buffer.write(_framed(answer_to(sys.stdin.buffer.read(int.from_bytes(head)))))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
