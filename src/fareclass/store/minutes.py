"""Tokens of each minute by project and model, in burn-down units: what was asked, served or not (R24, R43).

Requests without a first token count with their estimates, unless they could never have run. Batches are left out: no
reservation serves them.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.core.outcomes import CALLER_ERRORS
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.store import histograms
from fareclass.store.rollup_tables import day_loads, minutes
from fareclass.store.rollups import DAYS, Part, columns, during, folded

LOADS = ("input", "output")
_ROWS_AT_ONCE = 1_000
_of = itemgetter(0, 1)


class _Load(NamedTuple):
    """What a project asked of a model in one busy minute; or on a day in one at most, and all its minutes packed."""

    project: str
    model: str
    input: int
    output: int
    packed: bytes | None = None


class Loads(msgspec.Struct, kw_only=True):
    """All busy minutes of a project and model: one by one, or packed by day."""

    inputs: list[int] = []
    outputs: list[int] = []
    packed: list[bytes] = []
    max_input: int = 0
    max_output: int = 0


def read_loads(
    connection: Connection,
    burndowns: Mapping[str, Burndown],
    project: str | None,
    model: str | None,
    times: tuple[int, int],
    *,
    exact: bool,
) -> Iterator[tuple[str, str, Loads]]:
    """The busy minutes by project and model, None is all, in their order; if not `exact`, whole days come packed.

    It reads as it is asked, one project and model at a time: the connection's transaction must stay open until it ends.
    """
    streams = [
        _days(connection, part, project, model)
        if part.table.name == DAYS
        else _minutes(connection, part, burndowns, project, model)
        for part in folded(connection).parts(*times, MINUTE_US if exact else None)
    ]
    for (owner, of), found in groupby(heapq.merge(*streams, key=_of), key=_of):
        loads = Loads()
        for one in found:
            loads.max_input, loads.max_output = max(loads.max_input, one.input), max(loads.max_output, one.output)
            if one.packed is not None:
                loads.packed.append(one.packed)
            else:
                loads.inputs.append(one.input)
                loads.outputs.append(one.output)
        yield owner, of, loads


def day_rows(connection: Connection, day_us: int, burndowns: Mapping[str, Burndown]) -> list[tuple[Any, ...]]:
    """Rows of the table `day_loads` of a day whose minutes are summed."""
    part = Part(minutes, MINUTE_US, [(day_us, day_us + DAY_US)])
    rows = []
    for owner, busy in groupby(_minutes(connection, part, burndowns, None, None), key=_of):
        inputs, outputs = zip(*((one.input, one.output) for one in busy), strict=True)
        rows.append((day_us, *owner, max(inputs), max(outputs), _packed_minutes(inputs, outputs)))
    return rows


def _packed_minutes(inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
    found = [histograms.codes(place, np.array(each, np.int64)) for place, each in enumerate((inputs, outputs))]
    return histograms.pack(*np.unique(np.concatenate(found), return_counts=True))


def _days(connection: Connection, part: Part, project: str | None, model: str | None) -> Iterator[_Load]:
    at = day_loads.c
    query = sa.select(at.project, at.model, at.max_input, at.max_output, at.counts)
    query = query.where(during(at.start_us, part.ranges))
    return _read(connection, query, at, project, model)


def _minutes(
    connection: Connection, part: Part, burndowns: Mapping[str, Burndown], project: str | None, model: str | None
) -> Iterator[_Load]:
    at = columns(part.table)
    minute, asked = part.time // MINUTE_US, [sa.func.sum(side) for side in _burnt(at, burndowns)]
    query = sa.select(at["project"], at["model"], *asked).group_by(at["project"], at["model"], minute)
    query = query.where(
        part.within(),
        at["requested_tier"] != Tier.BATCH.word,
        sa.or_(at["used"], at["outcome"].not_in(CALLER_ERRORS)),
    )
    for one in _read(connection, query, part.table.c, project, model):
        yield one._replace(input=-(-int(one.input) // 100), output=-(-int(one.output) // 100))


def _read(
    connection: Connection, query: sa.Select[Any], at: Any, project: str | None, model: str | None
) -> Iterator[_Load]:
    """In the order of project and model as Python has it, whatever the database's language."""
    if project is not None:
        query = query.where(at.project == project)
    if model is not None:
        query = query.where(at.model == model)
    words = "BINARY" if connection.dialect.name == "sqlite" else "C"
    query = query.order_by(at.project.collate(words), at.model.collate(words))
    for row in connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield _Load(*row)


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
