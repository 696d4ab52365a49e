"""Summing the ledger by minute and by day (R42, R43).

What is read is read without a lock, in steps of the database during which Python's other threads run; what is written
then are few rows, in one short transaction that replaces whole minutes or a whole day. So it may be done over and
over, and end anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.core.limits import FOLD_ENTRIES, FOLD_STALE, MINUTE_DAYS, SUM_DAYS
from fareclass.core.snapshot import Burndown
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.store import histograms
from fareclass.store.database import Store
from fareclass.store.minutes import day_rows
from fareclass.store.rollup_tables import day_loads, day_spreads, days, minute_spreads, minutes, rollups
from fareclass.store.rollups import (
    DAYS,
    DIMENSIONS,
    MEASURES,
    MINUTES,
    Folded,
    Horizon,
    Range,
    columns,
    during,
    folded,
    mark_fresh,
    mark_stale,
)
from fareclass.store.spreads import GROUP, SPREADS, codes, values
from fareclass.store.tables import ledger

_PIECE_US = 10 * MINUTE_US
"""Old minutes are deleted, and brought back, in pieces of this length."""
_COLUMNS = ("start_us", *DIMENSIONS, *MEASURES)
_REQUESTS = _COLUMNS.index("requests")
_OF_PROJECT = tuple(map(_COLUMNS.index, ("start_us", *GROUP)))
_OF_ALL = tuple(place for place in _OF_PROJECT if _COLUMNS[place] != "project")
Rows = Sequence[tuple[Any, ...]]
"""In the order of their table's columns."""


class Folder:
    """Does the next piece of work, if there is any. One thread at a time; `burndowns` names every model's weights."""

    def __init__(self, store: Store, horizon: Horizon, burndowns: Mapping[str, Burndown]) -> None:
        self._store = store
        self._horizon = horizon
        self._burndowns = burndowns

    def step(self, closed_us: int) -> bool:
        """Do one piece; whether there was any. Requests that ended before `closed_us` are in the ledger, or late."""
        with self._store.read() as connection:
            state = folded(connection)
        if state.minutes == (0, 0):
            return self._begin(closed_us)
        return self._minutes(state, closed_us) or self._stale(state) or self._day(state) or self._sweep(state)

    def _begin(self, closed_us: int) -> bool:
        """The first time ever: from the day of the first entry on."""
        with self._store.write() as connection:
            first = connection.scalar(sa.select(sa.func.min(ledger.c.ended_us)))
            start = min(closed_us, closed_us if first is None else first) // DAY_US * DAY_US
            rows = [{"name": name, "from_us": start, "until_us": start} for name in (MINUTES, DAYS)]
            connection.execute(sa.insert(rollups), rows)
        return True

    def _minutes(self, state: Folded, closed_us: int) -> bool:
        """The next minutes that are over."""
        start, closed = state.minutes[1], closed_us // MINUTE_US * MINUTE_US
        if start >= closed:
            return False
        with self._store.read() as connection:
            ahead = sa.select(ledger.c.ended_us).where(ledger.c.ended_us >= start).order_by(ledger.c.ended_us)
            at = connection.scalar(ahead.offset(FOLD_ENTRIES).limit(1))
        end = closed if at is None else min(closed, max(at // MINUTE_US * MINUTE_US, start + MINUTE_US))
        with self._horizon.lock:
            self._horizon.until_us = max(self._horizon.until_us, end)
        summed = self._read([(start, end)])
        with self._store.write() as connection:
            summed.write(connection)
            connection.execute(sa.update(rollups).where(rollups.c.name == MINUTES).values(until_us=end))
        return True

    def _stale(self, state: Folded) -> bool:
        """Minutes again in which the ledger has changed; their days must be, too."""
        some = dict(list(state.stale_minutes.items())[:FOLD_STALE])
        if not some:
            return False
        known = [(at, at + MINUTE_US) for at in some if state.minutes[0] <= at < state.minutes[1]]
        summed = self._read(known) if known else None
        with self._store.write() as connection:
            if summed is not None:
                summed.write(connection)
            mark_fresh(connection, MINUTES, some)
            in_days = {at // DAY_US * DAY_US for at in some}
            mark_stale(connection, DAYS, (day for day in in_days if state.days[0] <= day < state.days[1]))
        return True

    def _day(self, state: Folded) -> bool:
        """The next day whose minutes are all summed, or one that is stale."""
        begun = {at // DAY_US * DAY_US for at in state.stale_minutes}
        again = min(state.stale_days.keys() - begun, default=None)
        day = state.days[1] if again is None else again
        if day + DAY_US > state.minutes[1] or day in begun:
            return False
        if day < state.minutes[0]:
            self._bring_back(day)
        with self._store.read() as connection:
            loads = day_rows(connection, day, self._burndowns)
            summed = _sums_of_day(connection, day), _spreads_of_day(connection, day)
        with self._store.write() as connection:
            for table, rows in ((days, summed[0]), (day_spreads, summed[1]), (day_loads, loads)):
                _replace(connection, table, [(day, day + DAY_US)], rows)
            mark_fresh(connection, DAYS, {day: state.stale_days.get(day, 0)})
            if again is None:
                connection.execute(sa.update(rollups).where(rollups.c.name == DAYS).values(until_us=day + DAY_US))
        return True

    def _bring_back(self, day: int) -> None:
        """Minutes of a day that were deleted already; no report reads them, and they go with the next sweep."""
        for start in range(day, day + DAY_US, _PIECE_US):
            piece = [(start, start + _PIECE_US)]
            with self._store.read() as connection:
                summed = _read_minutes(connection, piece)
                left = connection.scalar(
                    sa.select(minutes.c.start_us).where(during(minutes.c.start_us, piece)).limit(1)
                )
            if summed.sums or left is not None:
                with self._store.write() as connection:
                    summed.write(connection)

    def _sweep(self, state: Folded) -> bool:
        """Let go what is older than it is kept; the ledger itself stays."""
        today = state.days[1]
        keep = max(state.minutes[0], today - MINUTE_DAYS * DAY_US), max(state.days[0], today - SUM_DAYS * DAY_US)
        if (state.minutes[0], state.days[0]) != keep:
            with self._store.write() as connection:
                for name, from_us in zip((MINUTES, DAYS), keep, strict=True):
                    connection.execute(sa.update(rollups).where(rollups.c.name == name).values(from_us=from_us))
            return True
        with self._store.read() as connection:
            oldest = [connection.scalar(sa.select(sa.func.min(table.c.start_us))) for table in (minutes, days)]
        done = False
        for at, from_us, tables, piece in (
            (oldest[0], keep[0], (minutes, minute_spreads), _PIECE_US),
            (oldest[1], keep[1], (days, day_spreads, day_loads), DAY_US),
        ):
            if at is not None and at < from_us:
                with self._store.write() as connection:
                    for table in tables:
                        _replace(connection, table, [(at, min(from_us, at + piece))], [])
                done = True
        return done

    def _read(self, ranges: Sequence[Range]) -> "_Minutes":
        with self._store.read() as connection:
            return _read_minutes(connection, ranges)


class _Minutes(NamedTuple):
    """What some minutes come to."""

    ranges: Sequence[Range]
    sums: Rows
    spreads: Rows

    def write(self, connection: Connection) -> None:
        _replace(connection, minutes, self.ranges, self.sums)
        _replace(connection, minute_spreads, self.ranges, self.spreads)


def _replace(connection: Connection, table: sa.Table, ranges: Sequence[Range], rows: Rows) -> None:
    connection.execute(sa.delete(table).where(during(table.c.start_us, ranges)))
    if rows:
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        values = ",".join([mark] * len(table.columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({values})", list(rows))  # noqa: S608 - placeholders only


def _read_minutes(connection: Connection, ranges: Sequence[Range]) -> _Minutes:
    at = columns(ledger)
    entry = sa.select(
        (ledger.c.ended_us // MINUTE_US * MINUTE_US).label("start_us"),
        *(column.label(name) for name, column in at.items()),
        *(value.label(name) for name, value in values().items()),
    ).where(during(ledger.c.ended_us, ranges))
    entries = entry.subquery()
    groups = [entries.c[name] for name in ("start_us", *DIMENSIONS)]
    sums = [sa.func.sum(entries.c[name]) for name in MEASURES]
    rows = connection.execute(sa.select(*groups, *sums, codes(entries)).group_by(*groups)).all()
    return _Minutes(ranges, [tuple(row[:-1]) for row in rows], _spread_rows(rows))


def _spread_rows(rows: Sequence[Sequence[Any]]) -> Rows:
    """The histograms of each project's groups, and of all projects together; those of no project are in the latter alone."""
    found = histograms.parse(row[-1] for row in rows)
    lengths = [len(SPREADS) * int(row[_REQUESTS]) for row in rows]
    made: list[tuple[Any, ...]] = []
    for places in (_OF_PROJECT, _OF_ALL):
        names: dict[tuple[Any, ...], int] = {}
        groups = [names.setdefault(tuple(row[place] for place in places), len(names)) for row in rows]
        packed = histograms.pack_groups(np.repeat(np.array(groups, np.int64), lengths), found, SPREADS)
        made += [
            (*_named(name), packed[number])
            for name, number in names.items()
            if number in packed and (places is _OF_ALL or name[1])
        ]
    return made


def _named(name: tuple[Any, ...]) -> tuple[Any, ...]:
    """A group's key in the table: that of all projects together has an empty project."""
    return name if len(name) == len(_OF_PROJECT) else (name[0], "", *name[1:])


def _sums_of_day(connection: Connection, day: int) -> Rows:
    groups = [minutes.c[name] for name in DIMENSIONS]
    sums = [sa.func.sum(minutes.c[name]) for name in MEASURES]
    query = sa.select(*groups, *sums).where(during(minutes.c.start_us, [(day, day + DAY_US)])).group_by(*groups)
    return [(day, *row) for row in connection.execute(query).all()]


def _spreads_of_day(connection: Connection, day: int) -> Rows:
    at = minute_spreads.c
    found: dict[tuple[str, ...], histograms.Pile] = {}
    query = sa.select(*(at[name] for name in GROUP), at.counts).where(during(at.start_us, [(day, day + DAY_US)]))
    for rows in connection.execute(query.execution_options(yield_per=FOLD_ENTRIES)).partitions():
        for *group, counts in rows:
            found.setdefault(tuple(group), histograms.Pile(SPREADS)).add(counts)
    return [(day, *group, pile.packed()) for group, pile in found.items()]
