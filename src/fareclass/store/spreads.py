"""How times and speeds of requests are spread, by tiers: out of packed histograms, and of the ledger what is not summed yet."""

from collections.abc import Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.store import histograms
from fareclass.store.histograms import Counts
from fareclass.store.rollup_tables import day_spreads, minute_spreads
from fareclass.store.rollups import DAYS, Part, during
from fareclass.store.tables import ledger

SPREADS = ("ttft_us", "inter_token_us", "queue_us", "tokens_per_ks")
"""Time to the first token; mean time between two tokens of an answer; time in line; tokens in 1,000 s after the first."""
GROUP = ("project", "model", "requested_tier", "served_tier")


def values() -> dict[str, ColumnElement[int]]:
    """Those of one entry of the ledger; NULL where it has none."""
    at = ledger.c
    tokens, took_us = at.output - 1, at.ended_us - at.first_token_us
    flowed = sa.and_(tokens > 0, took_us > 0)
    return {
        "ttft_us": sa.case((at.first_token_us >= at.arrived_us, at.first_token_us - at.arrived_us)),
        "inter_token_us": sa.case((flowed, took_us // tokens)),
        "queue_us": sa.case((at.started_us.is_not(None), at.queue_ms * 1_000)),
        "tokens_per_ks": sa.case((flowed, tokens * 1_000_000_000 // took_us)),
    }


def codes(entries: sa.Subquery) -> ColumnElement[str]:
    """The codes of all entries of a group, one text; `entries` has the values as columns."""
    each = [sa.cast(histograms.code(place, entries.c[name]), sa.Text) for place, name in enumerate(SPREADS)]
    text: ColumnElement[str] = each[0]
    for one in each[1:]:
        text = text + "," + one
    return sa.func.aggregate_strings(text, ",")


def read_spreads(
    connection: Connection, parts: Sequence[Part], project: str | None, model: str | None, step_us: int | None
) -> Mapping[tuple[int, str, str], Counts]:
    """Counts of every code by start of the step (0 without one), requested and served tier; None is all."""
    found: dict[tuple[int, str, str], list[bytes]] = {}
    for part in parts:
        read = _entries if part.unit_us is None else _packed
        for start_us, requested, served, packed in read(connection, part, project, model, step_us):
            found.setdefault((start_us, requested, served), []).append(packed)
    return {key: histograms.merge(packed, SPREADS) for key, packed in found.items()}


def _packed(
    connection: Connection, part: Part, project: str | None, model: str | None, step_us: int | None
) -> list[tuple[int, str, str, bytes]]:
    at = (day_spreads if part.table.name == DAYS else minute_spreads).c
    query = sa.select(_step(at.start_us, step_us), at.requested_tier, at.served_tier, at.counts)
    query = query.where(during(at.start_us, part.ranges), at.project == (project or ""))
    if model is not None:
        query = query.where(at.model == model)
    return list(connection.execute(query).tuples())


def _entries(
    connection: Connection, part: Part, project: str | None, model: str | None, step_us: int | None
) -> list[tuple[int, str, str, bytes]]:
    at = ledger.c
    place = _step(at.ended_us, step_us).label("start"), at.requested_tier, at.served_tier
    query = sa.select(*place, *(value.label(name) for name, value in values().items())).where(part.within())
    if project is not None:
        query = query.where(at.project == project)
    if model is not None:
        query = query.where(at.model == model)
    entries = query.subquery()
    groups = [entries.c.start, entries.c.requested_tier, entries.c.served_tier]
    rows = connection.execute(sa.select(*groups, codes(entries)).group_by(*groups))
    made = []
    for row in rows:
        parsed, counts = np.unique(histograms.parse([row[3]]), return_counts=True)
        made.append((row[0], row[1], row[2], histograms.pack(parsed, counts)))
    return made


def _step(time: ColumnElement[int], step_us: int | None) -> ColumnElement[int]:
    return sa.literal_column("0", sa.Integer) if step_us is None else time // step_us * step_us
