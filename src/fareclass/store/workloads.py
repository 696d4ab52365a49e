"""Workloads in SQL: named uses that keys take their terms from (R41)."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from msgspec import convert
from sqlalchemy import Connection, Row

from fareclass.store.records import EscalationRecord, WorkloadRecord
from fareclass.store.tables import keys, workloads


def put_workload(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    if connection.execute(sa.update(workloads).where(workloads.c.name == name).values(**values)).rowcount == 0:
        connection.execute(sa.insert(workloads).values(name=name, **values))


def find_workload(connection: Connection, name: str) -> WorkloadRecord | None:
    row = connection.execute(sa.select(workloads).where(workloads.c.name == name)).first()
    return None if row is None else _workload(row)


def list_workloads(connection: Connection, *, after: str = "", limit: int | None = None) -> list[WorkloadRecord]:
    query = sa.select(workloads).where(workloads.c.name > after).order_by(workloads.c.name).limit(limit)
    return [_workload(row) for row in connection.execute(query)]


def delete_workload(connection: Connection, name: str) -> None:
    """Revoked keys keep the name of what they were for."""
    connection.execute(sa.delete(workloads).where(workloads.c.name == name))


def user_ids(connection: Connection, name: str) -> list[str]:
    """Ids of keys in force that use it."""
    query = sa.select(keys.c.id).where(keys.c.workload == name, keys.c.revoked_us.is_(None)).order_by(keys.c.id)
    return list(connection.scalars(query))


def _workload(row: Row[Any]) -> WorkloadRecord:
    return WorkloadRecord(
        name=row.name,
        shape=row.shape,
        default_tier=row.default_tier,
        overflow=row.overflow,
        escalation=None if row.escalation is None else convert(row.escalation, EscalationRecord),
    )
