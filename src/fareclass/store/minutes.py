"""Tokens of each minute by project and model, in burn-down units: what was asked, served or not (R24, R43).

Requests without a first token count with their estimates, unless they could never have run. Batches are left out: no
reservation serves them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.store import histograms
from fareclass.store.rollup_tables import day_loads, minutes
from fareclass.store.rollups import DAY_US, DAYS, MINUTE_US, Part, columns, during, folded

LOADS = ("input", "output")
_NO_DEMAND = tuple(
    outcome.value for outcome in (Outcome.INVALID, Outcome.UNAUTHENTICATED, Outcome.FORBIDDEN, Outcome.NOT_FOUND)
)


class Load(NamedTuple):
    """One minute in which a project asked something of a model. `input` and `output` have what was refused in them."""

    minute_us: int
    project: str
    model: str
    input: int
    output: int
    refused_input: int
    refused_output: int
    requests: int


class Loads(msgspec.Struct, kw_only=True):
    """All busy minutes of a project and model: one by one, or packed by day."""

    inputs: list[int] = []
    outputs: list[int] = []
    packed: list[bytes] = []
    max_input: int = 0
    max_output: int = 0


def per_minute(
    connection: Connection, project: str, model: str, from_us: int, to_us: int, burndown: Burndown = Burndown()
) -> list[Load]:
    """The busy minutes of a project and model, in order. Times are whole minutes."""
    parts = folded(connection).parts(from_us, to_us, MINUTE_US)
    return sorted(_minutes(connection, parts, {model: burndown}, project, model))


def read_loads(
    connection: Connection,
    burndowns: Mapping[str, Burndown],
    project: str | None,
    model: str | None,
    times: tuple[int, int],
    *,
    exact: bool,
) -> dict[tuple[str, str], Loads]:
    """The busy minutes by project and model, None is all; where they need not be `exact`, whole days come packed."""
    found: dict[tuple[str, str], Loads] = {}
    parts = folded(connection).parts(*times, MINUTE_US if exact else None)
    packed = [part for part in parts if part.table.name == DAYS]
    for one in _minutes(connection, [part for part in parts if part not in packed], burndowns, project, model):
        loads = found.setdefault((one.project, one.model), Loads())
        loads.inputs.append(one.input)
        loads.outputs.append(one.output)
        loads.max_input, loads.max_output = max(loads.max_input, one.input), max(loads.max_output, one.output)
    for owner, of, max_input, max_output, counts in _days(connection, packed, project, model):
        loads = found.setdefault((owner, of), Loads())
        loads.packed.append(counts)
        loads.max_input, loads.max_output = max(loads.max_input, max_input), max(loads.max_output, max_output)
    return found


def day_rows(connection: Connection, day_us: int, burndowns: Mapping[str, Burndown]) -> list[tuple[Any, ...]]:
    """Rows of the table `day_loads` of a day whose minutes are summed."""
    found: dict[tuple[str, str], list[Load]] = {}
    part = Part(minutes, MINUTE_US, [(day_us, day_us + DAY_US)])
    for one in _minutes(connection, [part], burndowns, None, None):
        found.setdefault((one.project, one.model), []).append(one)
    rows = []
    for owner, busy in found.items():
        inputs, outputs = [one.input for one in busy], [one.output for one in busy]
        rows.append((day_us, *owner, max(inputs), max(outputs), _packed_minutes(inputs, outputs)))
    return rows


def _packed_minutes(inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    found = [histograms.codes(place, np.array(each, np.int64)) for place, each in enumerate((inputs, outputs))]
    return histograms.pack(*np.unique(np.concatenate(found), return_counts=True))


def _days(connection: Connection, parts: Iterable[Part], project: str | None, model: str | None) -> Iterable[Any]:
    at = day_loads.c
    for part in parts:
        query = sa.select(at.project, at.model, at.max_input, at.max_output, at.counts)
        query = query.where(during(at.start_us, part.ranges))
        yield from connection.execute(_of(query, at, project, model))


def _minutes(
    connection: Connection,
    parts: Iterable[Part],
    burndowns: Mapping[str, Burndown],
    project: str | None,
    model: str | None,
) -> Iterable[Load]:
    for part in parts:
        at = columns(part.table)
        minute = (part.time // MINUTE_US * MINUTE_US).label("minute_us")
        asked, made = _burnt(at, burndowns)
        used = at["used"]
        sums = [
            sa.func.sum(one)
            for one in (
                asked,
                made,
                sa.case((used, 0), else_=asked),
                sa.case((used, 0), else_=made),
                at["requests"],
            )
        ]
        query = sa.select(minute, at["project"], at["model"], *sums).group_by(minute, at["project"], at["model"])
        query = query.where(
            part.within(),
            at["requested_tier"] != Tier.BATCH.word,
            sa.or_(used, at["outcome"].not_in(_NO_DEMAND)),
        )
        for row in connection.execute(_of(query, part.table.c, project, model)):
            counts = [-(-int(count) // 100) for count in row[3:7]]
            yield Load(row[0], row[1], row[2], counts[0], counts[1], counts[2], counts[3], int(row[7]))


def _of(query: sa.Select[Any], at: Any, project: str | None, model: str | None) -> sa.Select[Any]:
    if project is not None:
        query = query.where(at.project == project)
    return query if model is None else query.where(at.model == model)


def _burnt(
    at: Mapping[str, ColumnElement[Any]], burndowns: Mapping[str, Burndown]
) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """What a row counts on either side, in hundredths of a token, by the weights of its model."""
    models: dict[Burndown, list[str]] = {}
    for model, weights in burndowns.items():
        if weights != Burndown():
            models.setdefault(weights, []).append(model)
    sides = []
    for kinds in (("input", "cache_write_5m", "cache_write_1h", "cache_read"), ("output",)):
        usual, *others = (
            sum((at[kind] * getattr(weights, kind) for kind in kinds[1:]), at[kinds[0]] * getattr(weights, kinds[0]))
            for weights in (Burndown(), *models)
        )
        cases = [(at["model"].in_(names), side) for names, side in zip(models.values(), others, strict=True)]
        sides.append(sa.case(*cases, else_=usual) if cases else usual)
    return sides[0], sides[1]
