"""Ledger entries in SQL: writing them in groups, voiding one, and exact sums over them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import TIERS
from fareclass.core.times import MINUTE_US
from fareclass.core.usage import KINDS, Usage
from fareclass.store.ids import first_request_id
from fareclass.store.rollups import HALF, MEASURES, MINUTES, Horizon, Part, columns, folded, mark_stale
from fareclass.store.tables import ledger

_AGAIN = "ON CONFLICT (id) DO UPDATE SET {} WHERE ledger.outcome <> 'completed'".format(
    ", ".join(f"{column.name} = excluded.{column.name}" for column in ledger.columns if column.name != "id")
)
_WORDS = tuple(tier.word for tier in TIERS)


class EntryWriter:
    """Writes entries with one statement each time, which is its own transaction.

    The connection is in autocommit mode. SQLite gets positional parameters, because its
    driver gives up the interpreter lock at each step and one statement is one step;
    PostgreSQL gets one JSON array, which costs the gateway a tenth of binding each value
    (5 against 52 µs an entry, in groups of 16). An entry that is there already stays as it is if its request was
    completed; else the later one stands: work of a batch is run again after a stop, under the same id.

    What changes in minutes before the `horizon` makes them stale, in the same transaction.
    """

    def __init__(self, connection: Connection, horizon: Horizon | None = None) -> None:
        self._connection = connection
        self._horizon = horizon or Horizon()
        with self._horizon.lock:
            self._horizon.until_us = max(self._horizon.until_us, folded(connection).minutes[1])
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._row_text = f"({','.join('?' * len(ledger.columns))})"
        self._json_text = _postgres_insert(connection)

    def insert(self, entries: Sequence[Finished]) -> None:
        """Commit these entries; on return they are on disk."""
        with self._horizon.lock:
            late = self._late(entries) | self._replaced(entries)
            if not late:
                self._insert(entries)
                return
            with self._transaction():
                self._insert(entries)
                mark_stale(self._connection, MINUTES, late)

    def void(self, entries: Sequence[Finished]) -> None:
        """Commit that these entries, written before, were never delivered: outcome internal, nothing to pay."""
        ids = [entry.id for entry in entries]
        voided = sa.update(ledger).where(ledger.c.id.in_(ids)).values(outcome=Outcome.INTERNAL.value, cost_pico=0)
        with self._horizon.lock, self._transaction():
            self._connection.execute(voided)
            mark_stale(self._connection, MINUTES, self._late(entries))

    def _insert(self, entries: Sequence[Finished]) -> None:
        rows = [_row(entry) for entry in _last(entries)]
        if self._is_sqlite:
            values = ",".join([self._row_text] * len(rows))
            text = f"INSERT INTO ledger VALUES {values} {_AGAIN}"  # noqa: S608 - placeholders only
            self._connection.exec_driver_sql(text, tuple([value for row in rows for value in row]))
        else:
            self._connection.exec_driver_sql(self._json_text, (msgspec.json.encode(rows).decode(),))

    def _late(self, entries: Sequence[Finished]) -> set[int]:
        until_us = self._horizon.until_us
        return {entry.ended_us // MINUTE_US * MINUTE_US for entry in entries if entry.ended_us < until_us}

    def _replaced(self, entries: Sequence[Finished]) -> set[int]:
        """Minutes before the horizon from which entries go: the same id ended there before.

        An id that was made after it can't have; looking each one up would cost as much as writing it.
        """
        until_us = self._horizon.until_us
        fresh = first_request_id(until_us)
        ids = [entry.id for entry in entries if not (entry.id >= fresh and len(entry.id) == len(fresh))]
        if not ids or not until_us:
            return set()
        query = sa.select(ledger.c.ended_us).where(ledger.c.id.in_(ids), ledger.c.ended_us < until_us)
        return {ended_us // MINUTE_US * MINUTE_US for ended_us in self._connection.scalars(query)}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Several statements as one, on a connection whose statements are transactions of their own."""
        self._connection.exec_driver_sql("BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN")
        try:
            yield
            self._connection.exec_driver_sql("COMMIT")
        except BaseException:
            self._connection.exec_driver_sql("ROLLBACK")
            raise


def _last(entries: Sequence[Finished]) -> Iterable[Finished]:
    """One for each id, since a statement may not change a row twice: the completed one, else the last."""
    found: dict[str, Finished] = {}
    for entry in entries:
        before = found.get(entry.id)
        if before is None or before.outcome is not Outcome.COMPLETED:
            found[entry.id] = entry
    return found.values()


def _row(entry: Finished) -> tuple[object, ...]:
    """An entry in the order of the table's columns."""
    usage = entry.usage
    return (
        entry.id,
        _clean(entry.caller_id),
        entry.project,
        entry.key,
        entry.tags,
        _clean(entry.model),
        _clean(entry.endpoint),
        _WORDS[entry.requested_tier],
        _WORDS[entry.served_tier],
        entry.outcome.value,
        entry.code,
        entry.streamed,
        usage.input,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.cache_read,
        usage.output,
        entry.estimated,
        entry.cost_pico,
        entry.book_version,
        entry.arrived_us,
        entry.started_us,
        entry.first_token_us,
        entry.ended_us,
        entry.queue_ms,
        entry.paused_ms,
        entry.pauses,
        entry.restarts,
        entry.replica,
        entry.longest_gap_ms,
        entry.workload,
        entry.spilled,
        entry.escalated,
        entry.prefix,
        entry.width,
        entry.route,
    )


def _clean(text: str) -> str:
    """What callers wrote, without what a database refuses (NUL, lone surrogates)."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def _postgres_insert(connection: Connection) -> str:
    types = (column.type.compile(connection.dialect) for column in ledger.columns)
    values = ",".join(f"(e->>{place})::{kind}" for place, kind in enumerate(types))
    return f"INSERT INTO ledger SELECT {values} FROM json_array_elements(%s::json) AS e {_AGAIN}"  # noqa: S608 - column types only


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to sum: None is all. Times are of the entry's end, the first included, the last not."""

    projects: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    model: str | None = None
    tag: tuple[str, str] | None = None
    from_us: int | None = None
    to_us: int | None = None


def totals(
    connection: Connection,
    filters: Filters,
    by: Sequence[str],
    *,
    tag: str | None = None,
    step_us: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Exact sums, one row per time step and combination of `by`, in order. `by` holds dimensions, and `tag`: its value.

    `requests`, `pauses`, `restarts` and `cost` (10⁻¹² USD) are of all requests. Tokens are those of requests that
    reached their first token: the others hold estimates. Where there are more rows than `limit`, at least one more than
    that comes.
    """
    place = [*(["start_us"] if step_us is not None else []), *by]
    found: dict[tuple[Any, ...], list[int]] = {}
    for part in folded(connection).parts(filters.from_us, filters.to_us, step_us):
        query = _sums(connection, part, filters, by, tag, step_us).limit(None if limit is None else limit + 1)
        for row in connection.execute(query):
            key, new = row[: len(place)], [int(each) for each in row[len(place) :]]
            old = found.get(key)
            found[key] = new if old is None else [one + more for one, more in zip(old, new, strict=True)]
    rows = []
    for key in sorted(found, key=lambda key: [(value is None, value) for value in key]):
        sums = dict(zip(MEASURES, found[key], strict=True))
        cost = sums.pop("cost_high") * HALF + sums.pop("cost_low")
        rows.append(dict(zip(place, key, strict=True)) | sums | {"cost": cost})
    return rows


class Ended(NamedTuple):
    """What a request of `width` sequences that reached its first token used; `tier` is the one that served it."""

    project: str
    tier: str
    ended_us: int
    width: int
    usage: Usage


def ended_after(connection: Connection, model: str, at_us: int, limit: int) -> list[Ended]:
    """Requests of a model that reached their first token and ended after a time: the newest `limit`, oldest first."""
    columns = ledger.c.project, ledger.c.served_tier, ledger.c.ended_us, ledger.c.width
    query = sa.select(*columns, *(ledger.c[kind] for kind in KINDS)).order_by(ledger.c.ended_us.desc()).limit(limit)
    query = query.where(ledger.c.first_token_us.is_not(None), ledger.c.model == model, ledger.c.ended_us > at_us)
    found = connection.execute(query).all()
    return [
        Ended(project, tier, ended_us, width, Usage(**dict(zip(KINDS, counts, strict=True))))
        for project, tier, ended_us, width, *counts in reversed(found)
    ]


def escalated_cost(connection: Connection, from_us: int) -> dict[str, int]:
    """What escalated requests of each key that ended from then on cost, in 10⁻¹² USD (R40)."""
    high, low = sa.func.sum(ledger.c.cost_pico // HALF), sa.func.sum(ledger.c.cost_pico % HALF)
    query = sa.select(ledger.c.key, high, low).where(ledger.c.escalated, ledger.c.ended_us >= from_us)
    return {key: int(units) * HALF + int(rest) for key, units, rest in connection.execute(query.group_by(ledger.c.key))}


def _sums(
    connection: Connection, part: Part, filters: Filters, by: Sequence[str], tag: str | None, step_us: int | None
) -> sa.Select[Any]:
    at = columns(part.table)
    if tag is not None:
        at["tag"] = _tag(connection, part, tag)
    groups: list[ColumnElement[Any]] = [at[name].label(name) for name in by]
    if step_us is not None:
        groups.insert(0, (part.time // step_us * step_us).label("start_us"))
    sums = [
        sa.func.coalesce(sa.func.sum(sa.case((at["used"], at[name]), else_=0) if name in KINDS else at[name]), 0)
        for name in MEASURES
    ]
    query = sa.select(*groups, *(each.label(name) for name, each in zip(MEASURES, sums, strict=True)))
    query = query.where(part.within(), *_conditions(connection, part, filters)).group_by(*groups)
    return query if groups else query.having(sa.func.count() > 0)


def _tag(connection: Connection, part: Part, name: str) -> ColumnElement[Any]:
    """The value of a tag; it is text in the one table and JSON in the others, and SQLite knows no difference."""
    tags = part.table.c.tags
    is_sqlite = connection.dialect.name == "sqlite"
    document: Any = sa.type_coerce(tags, sa.JSON) if is_sqlite else sa.cast(tags, sa.JSON)
    value: ColumnElement[Any] = document[name].as_string()
    return value


def _conditions(connection: Connection, part: Part, filters: Filters) -> list[ColumnElement[bool]]:
    at = part.table.c
    wanted: list[ColumnElement[bool]] = []
    if filters.projects is not None:
        wanted.append(at.project.in_(filters.projects))
    if filters.keys is not None:
        wanted.append(at.key.in_(filters.keys))
    if filters.model is not None:
        wanted.append(at.model == filters.model)
    if filters.tag is not None:
        wanted.append(_tag(connection, part, filters.tag[0]) == filters.tag[1])
    return wanted
