"""Cached beginnings of prompts in SQL, by digest alone (R29)."""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import cache_entries


class CacheRow(NamedTuple):
    """One entry as it is kept over a restart: in the order of the table."""

    digest: str
    project: str
    model: str
    tokens: int
    ttl_s: int
    expires_us: int
    replica: str


def list_cache_entries(connection: Connection, now_us: int) -> list[CacheRow]:
    """Those that have not expired, the ones that expire last behind."""
    query = sa.select(cache_entries).where(cache_entries.c.expires_us > now_us).order_by(cache_entries.c.expires_us)
    return [CacheRow(*row) for row in connection.execute(query)]


def put_cache_entries(connection: Connection, rows: Iterable[CacheRow], now_us: int) -> None:
    """Set these, and forget what has expired."""
    connection.execute(sa.delete(cache_entries).where(cache_entries.c.expires_us <= now_us))
    values = [row._asdict() for row in rows]
    if values:
        old = sa.delete(cache_entries).where(cache_entries.c.digest == sa.bindparam("old"))
        connection.execute(old, [{"old": value["digest"]} for value in values])
        connection.execute(sa.insert(cache_entries), values)
