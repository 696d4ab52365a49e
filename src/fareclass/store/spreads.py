"""How times and speeds of requests are spread, by tiers: out of packed histograms, and of the ledger what is not summed yet.

What is read comes in the order of time and is laid together step by step: so a report of any length is made in the
memory of one step.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.core.times import MINUTE_US
from fareclass.store import histograms
from fareclass.store.histograms import Counts, Pile
from fareclass.store.rollup_tables import day_spreads, minute_spreads
from fareclass.store.rollups import DAYS, Part, during
from fareclass.store.tables import ledger

SPREADS = ("ttft_us", "inter_token_us", "queue_us", "tokens_per_ks")
"""Time to the first token; mean time between two tokens of an answer; time in line; tokens in 1,000 s after the first."""
GROUP = ("project", "model", "requested_tier", "served_tier")
_PACKED_AT_ONCE = 500
_MINUTES_AT_ONCE = 20
"""Each comes with all codes of its entries."""
_Spread = tuple[int, str, str, bytes]
"""Start of the step, requested and served tier, a packed histogram."""


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
) -> Iterator[tuple[int, Mapping[tuple[str, str], Counts]]]:
    """Counts of every code by requested and served tier, step by step; None is all.

    Each step comes with its start, 0 where all time is one. It reads as it is asked: the connection's transaction must
    stay open until it ends.
    """
    streams = []
    for part in parts:
        read = _entries if part.unit_us is None else _packed
        streams.append(read(connection, part, project, model, step_us))
    start = itemgetter(0)
    for start_us, rows in groupby(heapq.merge(*streams, key=start), key=start):
        found: dict[tuple[str, str], Pile] = {}
        for _, requested, served, packed in rows:
            found.setdefault((requested, served), Pile(SPREADS)).add(packed)
        yield start_us, {tiers: pile.counts() for tiers, pile in found.items()}


def _packed(
    connection: Connection, part: Part, project: str | None, model: str | None, step_us: int | None
) -> Iterator[_Spread]:
    at = (day_spreads if part.table.name == DAYS else minute_spreads).c
    query = sa.select(_step(at.start_us, step_us), at.requested_tier, at.served_tier, at.counts)
    query = query.where(during(at.start_us, part.ranges), at.project == (project or "")).order_by(at.start_us)
    if model is not None:
        query = query.where(at.model == model)
    yield from connection.execute(query.execution_options(yield_per=_PACKED_AT_ONCE))


def _entries(
    connection: Connection, part: Part, project: str | None, model: str | None, step_us: int | None
) -> Iterator[_Spread]:
    """Minute by minute: the codes of more than that may be a text larger than memory or database allow."""
    at = ledger.c
    minute = (at.ended_us // MINUTE_US).label("minute")
    place = _step(at.ended_us, step_us).label("start"), minute, at.requested_tier, at.served_tier
    query = sa.select(*place, *(value.label(name) for name, value in values().items())).where(part.within())
    if project is not None:
        query = query.where(at.project == project)
    if model is not None:
        query = query.where(at.model == model)
    entries = query.subquery()
    shown = [entries.c.start, entries.c.requested_tier, entries.c.served_tier]
    summed = sa.select(*shown, codes(entries)).group_by(entries.c.minute, *shown).order_by(entries.c.start)
    for row in connection.execute(summed.execution_options(yield_per=_MINUTES_AT_ONCE)):
        parsed, counts = np.unique(histograms.parse([row[3]]), return_counts=True)
        yield row[0], row[1], row[2], histograms.pack(parsed, counts)


def _step(time: ColumnElement[int], step_us: int | None) -> ColumnElement[int]:
    return sa.literal_column("0", sa.Integer) if step_us is None else time // step_us * step_us
