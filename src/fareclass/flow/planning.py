"""Plans for operators: what projects should reserve, out of the minute table and the ledger, or of a trace (R43, R44)."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import msgspec
import numpy as np
from msgspec import structs
from sqlalchemy import Connection

from fareclass.core.limits import MODEL_CHARS, PLAN_ROWS, PLAN_S
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import BY_WORD, Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.flow.clock import now_us
from fareclass.flow.compile import price_book
from fareclass.flow.control import Control
from fareclass.flow.lookups import find_project
from fareclass.flow.operator_rules import ControlError
from fareclass.flow.planning_process import PlanFailed, PlanProcess, Task, failed, task_of
from fareclass.flow.threads import to_its_end
from fareclass.planner.advice import PlanRow
from fareclass.planner.demand import (
    Demand,
    DemandError,
    Minute,
    Series,
    TraceDemands,
    from_arrivals,
    from_minutes,
)
from fareclass.planner.plan import Subject, Workload
from fareclass.planner.pools import Pool
from fareclass.planner.search import HOURS_DAYS
from fareclass.planner.shape import Asked as AskedBy
from fareclass.planner.trace import Arrival, read_ledger
from fareclass.planner.waits import sample_size
from fareclass.store import catalog
from fareclass.store.asked import Asked, asked_by_day, asked_by_minute, askers

_SPAN_DAYS = 30
"""What a plan is made from where nobody says from when."""
_HOUR_US = 60 * MINUTE_US
_WEEK_US = 7 * DAY_US
_SEASON_WEEKS = 105
"""Two years and a week: what a season is forecast from."""


class PlanQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to plan: None is all. A project by id or name; times in microseconds since the epoch. `trace` replaces the ledger."""

    project: str | None = None
    model: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    trace: Sequence[Arrival] | None = None


class Planning:
    """Makes one plan at a time. Called in the event loop; it reads in a thread, and computes in a process of its own."""

    def __init__(self, control: Control, pools: Mapping[str, Pool]) -> None:
        self._control = control
        self._pools = pools
        self._work: asyncio.Task[list[PlanRow]] | None = None

    async def plan(self, query: PlanQuery) -> list[PlanRow]:
        """A row for each project and model that asked for anything, those with the most tokens first.

        A plan that is given up, by its time or its caller, stays the one under way until its read of the store has ended.

        Raises:
            ControlError: there is no such project or model, no such time, another plan is under way, or it takes too long.
        """
        if self._work is not None and not self._work.done():
            raise ControlError("in_use", "another plan is being made: one at a time; try again in a minute")
        work = self._work = asyncio.create_task(self._rows(query))
        try:
            async with asyncio.timeout(PLAN_S):
                return await asyncio.shield(work)
        except TimeoutError:
            what = f"it takes longer than {PLAN_S:.0f} s: name a project and a model, or a shorter time"
            raise ControlError("unavailable", f"no plan was made: {what}") from None
        except DemandError as error:
            raise ControlError("invalid", str(error), "trace" if query.trace is not None else "from") from None
        except PlanFailed as error:
            raise ControlError("unavailable", f"no plan was made: {error}") from None
        finally:
            work.cancel()

    async def _rows(self, query: PlanQuery) -> list[PlanRow]:
        """One after the other: a month's minutes of a hundred projects are not in memory at once.

        Raises:
            PlanFailed: all of them failed. Where only some do, their rows say so.
        """
        rows: list[PlanRow] = []
        failures: list[PlanFailed] = []
        async with PlanProcess() as process:
            for make in await to_its_end(self._makers, query):
                task = await to_its_end(make)
                if task is None:
                    continue
                try:
                    rows.append(await process.plan(task))
                except PlanFailed as error:
                    failures.append(error)
                    rows.append(failed(task, error))
        if failures and len(failures) == len(rows):
            raise failures[0]
        return rows

    def _makers(self, query: PlanQuery) -> list[Callable[[], Task | None]]:
        """What reads the task of each row: None where nothing was asked that a reservation serves."""
        if query.model is not None and query.model not in self._control.models:
            raise ControlError("not_found", f"no model {query.model[:MODEL_CHARS]!r}", "model")
        if query.trace is not None:
            return list(self._traced(query))
        times = _times(query)
        with self._control.store.read() as connection:
            names = {record.id: record.name for record in catalog.list_projects(connection)}
            wanted = None if query.project is None else find_project(connection, query.project).id
            pairs = [
                (project, model)
                for project, model in askers(connection, *times)
                if model in self._control.models
                and (wanted is None or project == wanted)
                and (query.model is None or model == query.model)
            ][:PLAN_ROWS]
        size, begins = sample_size(len(pairs)), query.from_us is None
        return [partial(self._of_ledger, pair, names.get(pair[0], pair[0]), times, size, begins) for pair in pairs]

    def _of_ledger(
        self, pair: tuple[str, str], name: str, times: tuple[int, int], size: int, begins: bool
    ) -> Task | None:
        with self._control.store.read() as connection:
            return self._task(connection, pair, name, times, size, begins=begins)

    def _task(
        self,
        connection: Connection,
        pair: tuple[str, str],
        name: str,
        times: tuple[int, int],
        size: int,
        *,
        begins: bool,
    ) -> Task | None:
        """One project on one model; `begins`: its first request is where the plan's time begins."""
        project, model = pair
        burndown = self._burndown(model)
        rows = asked_by_minute(connection, project, model, *times)
        if begins and rows:
            unit_us = _unit_us(times[1] - rows[0].start_us)
            times = rows[0].start_us // unit_us * unit_us, times[1]
        demand = from_minutes(
            (Minute(row.start_us, row.kinds, row.requests) for row in rows if row.tier != Tier.BATCH.word),
            *times,
            burndown,
        )
        if not demand.kinds.any():
            return None
        weeks = _weeks(connection, pair, times[1])
        subject = Subject(
            project=project,
            project_name=name,
            model=model,
            demand=demand,
            book=price_book(model, catalog.newest_book(connection, model)),
            workloads=_workloads(rows, times),
            weeks=weeks,
            season=len(weeks) > 0,
        )
        pool = self._pool(subject)
        sample = _sample(connection, demand, model, size) if pool is not None and size else []
        return task_of(subject, pool, sample)

    def _traced(self, query: PlanQuery) -> Iterator[Callable[[], Task | None]]:
        """What makes the tasks of a trace. The series are made one after the other, when their turn comes."""
        arrivals = [structs.replace(one, model=query.model or one.model) for one in query.trace or ()]
        unknown = next((one.model for one in arrivals if one.model not in self._control.models), None)
        if unknown is not None:
            raise ControlError(
                "not_found",
                f"no model {unknown[:MODEL_CHARS]!r}: name one in `model`, or in each request of the trace",
                "trace" if unknown else "model",
            )
        by_model: dict[str, list[Arrival]] = {}
        for one in arrivals:
            by_model.setdefault(one.model, []).append(one)
        demands = from_arrivals(arrivals)
        size = sample_size(len(demands))
        for project, model in demands:
            yield partial(self._of_trace, demands, project, model, by_model[model], size)

    def _of_trace(
        self, demands: TraceDemands, project: str, model: str, arrivals: list[Arrival], size: int
    ) -> Task | None:
        demand = replace(demands[project, model], burndown=self._burndown(model))
        if not demand.kinds.any():
            return None
        with self._control.store.read() as connection:
            book = price_book(model, catalog.newest_book(connection, model))
        subject = Subject(project=project, project_name=project, model=model, demand=demand, book=book)
        from_us = _busiest_us(demand)
        sample = islice((one for one in arrivals if one.at_us >= from_us), size)
        return task_of(subject, self._pool(subject), list(sample))

    def _burndown(self, model: str) -> Burndown:
        return self._control.models[model].burndown

    def _pool(self, subject: Subject) -> Pool | None:
        pool = self._pools.get(subject.model)
        return None if pool is None else structs.replace(pool, book=subject.book)


def _unit_us(span_us: int) -> int:
    """A plan's time begins at a whole minute, or a whole hour where there are enough days to tell hours apart."""
    return _HOUR_US if span_us >= HOURS_DAYS * DAY_US else MINUTE_US


def _times(query: PlanQuery) -> tuple[int, int]:
    """Past, and never before what was asked."""
    now = now_us() // MINUTE_US * MINUTE_US
    to_us = now if query.to_us is None else min(now, query.to_us // MINUTE_US * MINUTE_US)
    from_us = to_us - _SPAN_DAYS * DAY_US if query.from_us is None else query.from_us
    unit_us = _unit_us(to_us - from_us)
    from_us = -(-from_us // unit_us) * unit_us
    if from_us >= to_us:
        raise ControlError("invalid", "must be at least a minute before the end, and past", "from")
    return from_us, to_us


def _workloads(rows: Sequence[Asked], times: tuple[int, int]) -> list[Workload]:
    """By workload: tokens of each minute, and how they are asked for. Requests without one are one, too."""
    minutes = (times[1] - times[0]) // MINUTE_US
    groups: dict[str, list[Asked]] = {}
    for row in rows:
        groups.setdefault(row.workload, []).append(row)
    found = []
    for name, group in sorted(groups.items()):
        series = np.zeros(minutes)
        tiers = dict.fromkeys(BY_WORD.values(), 0.0)
        for row in group:
            tokens = float(sum(row.kinds))
            series[(row.start_us - times[0]) // MINUTE_US] += tokens
            tiers[BY_WORD[row.tier]] += tokens
        whole = sum(tiers.values()) or 1.0
        refused = sum(row.refused for row in group) / max(1, sum(row.requests for row in group))
        found.append(Workload(name, series, AskedBy({tier: part / whole for tier, part in tiers.items()}, refused)))
    return found


def _weeks(connection: Connection, pair: tuple[str, str], until_us: int) -> Series:
    """Tokens of whole weeks until now, the first one with any first."""
    end = until_us // DAY_US * DAY_US
    start = end - _SEASON_WEEKS * _WEEK_US
    weeks = np.zeros(_SEASON_WEEKS)
    for row in asked_by_day(connection, *pair, start, end):
        if row.tier != Tier.BATCH.word:
            weeks[(row.start_us - start) // _WEEK_US] += sum(row.kinds)
    busy = np.flatnonzero(weeks)
    return weeks[busy[0] :] if len(busy) else np.zeros(0)


def _sample(connection: Connection, demand: Demand, model: str, size: int) -> list[Arrival]:
    """The model's traffic, all projects', from the project's busiest time on."""
    from_us = _busiest_us(demand)
    arrivals = read_ledger(connection, model=model, from_us=from_us, to_us=from_us + _HOUR_US)
    return list(islice(arrivals, size))


def _busiest_us(demand: Demand) -> int:
    """A minute before the busiest one."""
    busiest = int(np.argmax(np.sum(demand.per_minute(), axis=0)))
    return demand.start_us + max(0, busiest - 1) * MINUTE_US
