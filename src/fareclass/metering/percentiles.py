"""Percentiles of what a project asks of a model in a minute, in burn-down units (R43)."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from sqlalchemy import Connection

from fareclass.core.limits import EXACT_DAYS, USAGE_ROWS
from fareclass.core.snapshot import Burndown
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.metering.report import ReportError
from fareclass.store import histograms
from fareclass.store.minutes import LOADS, Loads, read_loads

_SHARES = (0.25, 0.50, 0.90, 0.99)


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a minute: a share of all minutes has no more. `max` is exact."""

    p25: int
    p50: int
    p90: int
    p99: int
    max: int


class PercentileRow(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per minute of one project on one model, in burn-down units (R24).

    `input` and `output` are of all minutes asked for, idle ones included; `busy_…` of those with a request.
    """

    project: str
    project_name: str | None
    model: str
    minutes: int
    busy_minutes: int
    input: Percentiles
    output: Percentiles
    busy_input: Percentiles
    busy_output: Percentiles


def percentiles(
    connection: Connection,
    burndowns: Mapping[str, Burndown],
    *,
    project: str | None,
    model: str | None,
    from_us: int,
    to_us: int,
    names: Mapping[str, str],
) -> list[PercentileRow]:
    """By project and model, each that had any request; times are whole minutes. Exact up to `EXACT_DAYS`, else less than 1 % off.

    Raises:
        ReportError: more rows than a report may have.
    """
    exact = to_us - from_us <= EXACT_DAYS * DAY_US
    minutes = (to_us - from_us) // MINUTE_US
    rows: list[PercentileRow] = []
    for owner, of, loads in read_loads(connection, burndowns, project, model, (from_us, to_us), exact=exact):
        if len(rows) == USAGE_ROWS:
            raise ReportError("project", f"the report has more than {USAGE_ROWS} rows: ask for one project")
        rows.append(_row(owner, names.get(owner), of, loads, minutes))
    return rows


def _row(project: str, name: str | None, model: str, loads: Loads, minutes: int) -> PercentileRow:
    sides = []
    for place, (values, most) in enumerate(((loads.inputs, loads.max_input), (loads.outputs, loads.max_output))):
        counted = np.array(values, np.int64)
        counts = None if not loads.packed else _counts(loads.packed, place, counted)
        busy = len(values) if counts is None else int(counts.sum())
        for zeros in (minutes - busy, 0):
            if counts is None:
                ranked: Sequence[float] | None = histograms.exact_quantiles(counted, _SHARES, zeros)
            else:
                ranked = histograms.quantiles(counts, _SHARES, zeros)
            assert ranked is not None
            p25, p50, p90, p99 = (min(most, round(value)) for value in ranked)
            sides.append(Percentiles(p25=p25, p50=p50, p90=p90, p99=p99, max=most))
    return PercentileRow(
        project=project,
        project_name=name,
        model=model,
        minutes=minutes,
        busy_minutes=busy,
        input=sides[0],
        output=sides[2],
        busy_input=sides[1],
        busy_output=sides[3],
    )


def _counts(packed: Sequence[bytes], place: int, values: histograms.Counts) -> histograms.Counts:
    counts = histograms.merge(packed, LOADS)
    if len(values):
        counts += np.bincount(histograms.codes(place, values), minlength=len(counts))
    return histograms.of_measure(counts, place)
