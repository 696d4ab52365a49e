"""Checkpoints in SQL: what the gateway knows in memory and goes on from after a restart."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import checkpoints


class Checkpoint(NamedTuple):
    """One part of it, and the time of day at which it was so, in microseconds since the epoch."""

    at_us: int
    state: Any


def list_checkpoints(connection: Connection, prefix: str) -> dict[str, Checkpoint]:
    """Those whose name begins so, by the rest of their name."""
    query = sa.select(checkpoints).where(checkpoints.c.name.startswith(prefix, autoescape=True))
    return {row.name.removeprefix(prefix): Checkpoint(row.at_us, row.state) for row in connection.execute(query)}


def put_checkpoints(connection: Connection, prefix: str, states: Mapping[str, Any], at_us: int) -> None:
    """Set these."""
    names = [prefix + name for name in states]
    if names:
        old = sa.delete(checkpoints).where(checkpoints.c.name == sa.bindparam("old"))
        connection.execute(old, [{"old": name} for name in names])
        rows = [{"name": prefix + name, "at_us": at_us, "state": state} for name, state in states.items()]
        connection.execute(sa.insert(checkpoints), rows)
