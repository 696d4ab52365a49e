"""Ledger entries in SQL: writing them in groups, voiding one, and exact sums over them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import TIERS
from fareclass.core.usage import KINDS, Usage
from fareclass.store.tables import ledger

HALF = 10**9
"""Amounts are summed as quotient and remainder of this: no sum of 64-bit amounts overflows 64 bits."""
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
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._row_text = f"({','.join('?' * len(ledger.columns))})"
        self._json_text = _postgres_insert(connection)

    def insert(self, entries: Sequence[Finished]) -> None:
        """Commit these entries; on return they are on disk."""
        rows = [_row(entry) for entry in _last(entries)]
        if self._is_sqlite:
            values = ",".join([self._row_text] * len(rows))
            text = f"INSERT INTO ledger VALUES {values} {_AGAIN}"  # noqa: S608 - placeholders only
            self._connection.exec_driver_sql(text, tuple([value for row in rows for value in row]))
        else:
            self._connection.exec_driver_sql(self._json_text, (msgspec.json.encode(rows).decode(),))

    def void(self, entries: Sequence[Finished]) -> None:
        """Commit that these entries, written before, were never delivered: outcome internal, nothing to pay."""
        ids = [entry.id for entry in entries]
        voided = sa.update(ledger).where(ledger.c.id.in_(ids)).values(outcome=Outcome.INTERNAL.value, cost_pico=0)
        self._connection.execute(voided)


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
    connection: Connection, filters: Filters, by: Sequence[str], tag: str | None, step_us: int | None, limit: int
) -> list[Mapping[str, Any]]:
    """Exact sums, one row per combination of `by` (ledger columns), tag value, time step and outcome.

    Tokens are those of requests that reached their first token: the others hold estimates.
    """
    groups: list[ColumnElement[Any]] = [ledger.c[name] for name in by if name != "outcome"]
    if tag is not None:
        groups.append(ledger.c.tags[tag].as_string().label("tag"))
    if step_us is not None:
        groups.insert(0, (ledger.c.ended_us // step_us * step_us).label("start_us"))
    groups.append(ledger.c.outcome)
    query = sa.select(*groups, *_sums()).where(*_conditions(filters)).group_by(*groups).order_by(*groups).limit(limit)
    return [row._asdict() for row in connection.execute(query)]


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


def _sums() -> list[ColumnElement[Any]]:
    used = ledger.c.first_token_us.is_not(None)
    return [
        sa.func.count().label("requests"),
        *(sa.func.sum(sa.case((used, ledger.c[kind]), else_=0)).label(kind) for kind in KINDS),
        sa.func.sum(ledger.c.cost_pico // HALF).label("cost_high"),
        sa.func.sum(ledger.c.cost_pico % HALF).label("cost_low"),
    ]


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if filters.projects is not None:
        wanted.append(ledger.c.project.in_(filters.projects))
    if filters.keys is not None:
        wanted.append(ledger.c.key.in_(filters.keys))
    if filters.model is not None:
        wanted.append(ledger.c.model == filters.model)
    if filters.tag is not None:
        wanted.append(ledger.c.tags[filters.tag[0]].as_string() == filters.tag[1])
    if filters.from_us is not None:
        wanted.append(ledger.c.ended_us >= filters.from_us)
    if filters.to_us is not None:
        wanted.append(ledger.c.ended_us < filters.to_us)
    return wanted
