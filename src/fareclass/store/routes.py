"""Routes in SQL: public names over several models (R45)."""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from msgspec import convert
from sqlalchemy import Connection, Row

from fareclass.store.records import LimitsRecord, RouteModelRecord, RouteRecord, RuleRecord, moment
from fareclass.store.tables import routes


def put_route(connection: Connection, name: str, values: Mapping[str, Any], created_us: int) -> None:
    """Make it, or replace what it is but the time of its making."""
    if connection.execute(sa.update(routes).where(routes.c.name == name).values(**values)).rowcount == 0:
        connection.execute(sa.insert(routes).values(name=name, created_us=created_us, **values))


def find_route(connection: Connection, name: str, known: Collection[str]) -> RouteRecord | None:
    """`known` are the models that there are."""
    row = connection.execute(sa.select(routes).where(routes.c.name == name)).first()
    return None if row is None else _route(row, known)


def list_routes(
    connection: Connection, known: Collection[str], *, after: str = "", limit: int | None = None
) -> list[RouteRecord]:
    query = sa.select(routes).where(routes.c.name > after).order_by(routes.c.name).limit(limit)
    return [_route(row, known) for row in connection.execute(query)]


def delete_route(connection: Connection, name: str) -> None:
    connection.execute(sa.delete(routes).where(routes.c.name == name))


def _route(row: Row[Any], known: Collection[str]) -> RouteRecord:
    models = convert(row.models, tuple[RouteModelRecord, ...])
    return RouteRecord(
        name=row.name,
        models=models,
        order_by=row.order_by,
        limits=convert(row.limits or {}, LimitsRecord),
        by_tier=convert(row.by_tier or {}, dict[str, RuleRecord]),
        by_workload=convert(row.by_workload or {}, dict[str, RuleRecord]),
        unknown=tuple(each.model for each in models if each.model not in known),
        created=moment(row.created_us),
    )
