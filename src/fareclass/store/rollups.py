"""Which part of the ledger is summed by minute and day, and how a report puts sums and ledger together.

The tables `minutes` and `days` are derived: each stands for the ledger from its `from_us` until its `until_us`, but
for what is stale. So a report that takes whole days from `days`, whole minutes from `minutes` and all the rest from
the ledger, in one snapshot of the database, is exact at any time.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Table

from fareclass.core.limits import STALE_PARTS
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.core.usage import KINDS
from fareclass.store.rollup_tables import days, minutes, rollups, stale
from fareclass.store.tables import ledger

HALF = 10**9
"""Amounts are summed as quotient and remainder of this: no sum of 64-bit amounts overflows 64 bits."""
DIMENSIONS = (
    "project", "key", "model", "route", "workload", "tags", "requested_tier", "served_tier", "outcome", "spilled",
    "used", "book_version",
)  # fmt: skip
MEASURES = ("requests", *KINDS, "cost_high", "cost_low", "pauses", "restarts")
MINUTES, DAYS = minutes.name, days.name
_BEGIN_US, _END_US = -(2**62), 2**62
Range = tuple[int, int]
"""The first microsecond of a time, and the first one after it."""


class Horizon:
    """Up to where minutes are summed, or are being summed now: the end of each request that is later is news.

    The ledger's writer holds `lock` while it commits. Who sums holds it to move `until_us` before reading: so an
    entry is either there by then, or its writer knows that it is late and marks its minute as stale.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until_us = 0


class Part(NamedTuple):
    """What a table says of these times. `unit_us` is the length of its rows, None of the ledger's entries."""

    table: Table
    unit_us: int | None
    ranges: Sequence[Range]

    @property
    def time(self) -> ColumnElement[int]:
        """When its rows are."""
        return self.table.c.ended_us if self.unit_us is None else self.table.c.start_us

    def within(self) -> ColumnElement[bool]:
        """Only rows of these times."""
        return during(self.time, self.ranges)


class Folded(NamedTuple):
    """What is summed. `stale_minutes` tells for each how often it has changed."""

    minutes: Range
    days: Range
    stale_minutes: Mapping[int, int]
    stale_days: Mapping[int, int]

    def parts(self, from_us: int | None, to_us: int | None, step_us: int | None) -> list[Part]:
        """The tables that together say everything of a time, the coarsest first; each row lies within one step."""
        whole = _BEGIN_US if from_us is None else from_us, _END_US if to_us is None else to_us
        rest = [whole] if whole[0] < whole[1] else []
        found = []
        wrong_days = {*self.stale_days, *(at // DAY_US * DAY_US for at in self.stale_minutes)}
        for table, unit_us, known, wrong in (
            (days, DAY_US, self.days, wrong_days),
            (minutes, MINUTE_US, self.minutes, self.stale_minutes.keys()),
        ):
            if step_us is None or step_us % unit_us == 0:
                ranges, rest = _taken(rest, unit_us, _right(unit_us, known, wrong))
                found.append(Part(table, unit_us, ranges))
        return [part for part in (*found, Part(ledger, None, rest)) if part.ranges]


def folded(connection: Connection) -> Folded:
    """What is summed now. The first thing that a report reads in its snapshot."""
    found = {name: (from_us, until_us) for name, from_us, until_us in connection.execute(sa.select(rollups))}
    wrong: dict[str, dict[int, int]] = {MINUTES: {}, DAYS: {}}
    for name, start_us, times in connection.execute(sa.select(stale).order_by(stale.c.start_us)):
        wrong[name][start_us] = times
    nothing = 0, 0
    return Folded(found.get(MINUTES, nothing), found.get(DAYS, nothing), wrong[MINUTES], wrong[DAYS])


def mark_stale(connection: Connection, name: str, starts_us: Iterable[int]) -> None:
    """The ledger has changed in these minutes or days."""
    for start_us in sorted(starts_us):
        where = stale.c.name == name, stale.c.start_us == start_us
        if connection.execute(sa.update(stale).where(*where).values(times=stale.c.times + 1)).rowcount == 0:
            connection.execute(sa.insert(stale).values(name=name, start_us=start_us, times=1))


def mark_fresh(connection: Connection, name: str, seen: Mapping[int, int]) -> None:
    """These were summed as they were when they had changed so often; what has changed again since stays stale."""
    for start_us, times in seen.items():
        connection.execute(
            sa.delete(stale).where(stale.c.name == name, stale.c.start_us == start_us, stale.c.times == times)
        )


def during(time: ColumnElement[int], ranges: Sequence[Range]) -> ColumnElement[bool]:
    return sa.or_(*(sa.and_(time >= first, time < last) for first, last in ranges))


def columns(table: Table) -> dict[str, ColumnElement[Any]]:
    """Dimensions and measures of a row, whichever table it is of. `tags` is text."""
    at = table.c
    if table is not ledger:
        return {name: at[name] for name in (*DIMENSIONS, *MEASURES)}
    return {
        **{name: at[name] for name in (*DIMENSIONS, *KINDS, "pauses", "restarts") if name not in ("tags", "used")},
        "tags": sa.cast(at.tags, sa.Text),
        "used": at.first_token_us.is_not(None),
        "requests": sa.literal_column("1", sa.Integer),
        "cost_high": at.cost_pico // HALF,
        "cost_low": at.cost_pico % HALF,
    }


def _right(unit_us: int, known: Range, wrong: Iterable[int]) -> list[Range]:
    """What is summed of a range without what is stale; of too much that is stale all between is left out."""
    holes = sorted(start for start in wrong if known[0] <= start < known[1])
    if len(holes) > STALE_PARTS:
        gaps = [(holes[0], holes[-1] + unit_us)]
    else:
        gaps = [(start, start + unit_us) for start in holes]
    edges = [known[0], *(edge for gap in gaps for edge in gap), known[1]]
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if first < last]


def _taken(wanted: Sequence[Range], unit_us: int, there: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """What is there of what is wanted, in whole units; and the rest of it."""
    taken, rest = [], []
    for first, last in wanted:
        at = first
        for begin, end in there:
            start, stop = max(begin, -(-first // unit_us) * unit_us), min(end, last // unit_us * unit_us)
            if start < stop:
                taken.append((start, stop))
                if at < start:
                    rest.append((at, start))
                at = stop
        if at < last:
            rest.append((at, last))
    return taken, rest
