"""The process that computes plans: a fault of one plan is told, logged, and not the next one's (R44)."""

import asyncio
import signal

import msgspec
import numpy as np
import pytest

from fareclass.flow import planning_process
from fareclass.flow.planning_process import Answer, PlanFailed, PlanProcess, Task, answer_to, task_of
from fareclass.planner.plan import Subject
from tests.unit.planner.demands import book, demand

TASK = task_of(Subject("proj_1", "acme", "m", demand(np.full(60, 1_000)), book()))
BROKEN = msgspec.structs.replace(TASK, kinds=TASK.kinds[:8])


async def died_with(process: PlanProcess, number: signal.Signals) -> str:
    """What is said of a plan whose process is ended so while it works on it."""
    running = process._process
    assert running is not None
    running.send_signal(signal.SIGSTOP)
    plan = asyncio.create_task(process.plan(TASK))
    await asyncio.sleep(0)
    running.send_signal(number)
    running.send_signal(signal.SIGCONT)
    with pytest.raises(PlanFailed) as found:
        await plan
    return str(found.value)


async def test_a_fault_is_told_and_logged_and_the_next_plan_is_made(caplog: pytest.LogCaptureFixture) -> None:
    async with PlanProcess() as process:
        with pytest.raises(PlanFailed, match="that of acme on m failed, and the gateway's log says how"):
            await process.plan(BROKEN)
        (record,) = caplog.records
        assert "ValueError: cannot reshape" in record.fault and record.model == "m"
        first = process._process
        assert (await process.plan(TASK)).minutes == 60 and process._process is first


async def test_a_process_that_died_is_started_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Only one that was killed, as a system without memory does, is told to take too much."""
    async with PlanProcess() as process:
        await process.plan(TASK)
        assert "takes too much memory" in await died_with(process, signal.SIGKILL)
        assert not caplog.records
        assert (await process.plan(TASK)).project_name == "acme"
        assert "log says how" in await died_with(process, signal.SIGTERM)
        assert "status -15" in caplog.records[0].fault


def test_no_memory_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_task: Task) -> None:
        raise MemoryError

    monkeypatch.setattr(planning_process, "plan_here", full)
    assert msgspec.msgpack.decode(answer_to(msgspec.msgpack.encode(TASK)), type=Answer) == Answer()
