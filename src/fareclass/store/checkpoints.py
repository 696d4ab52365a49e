"""Checkpoints in SQL: what the gateway knows in memory and goes on from after a restart."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import checkpoints

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """One part of it, and the time of day at which it was so, in microseconds since the epoch."""

    at_us: int
    state: Any


def list_checkpoints(connection: Connection, prefix: str, kind: Any) -> dict[str, Checkpoint]:
    """Those whose name begins so, by the rest of their name. What is not of this kind is told, and as if it were not there."""
    text = sa.cast(checkpoints.c.state, sa.Text).label("text")
    query = sa.select(checkpoints.c.name, checkpoints.c.at_us, text)
    found = {}
    for name, at_us, state in connection.execute(query.where(checkpoints.c.name.startswith(prefix, autoescape=True))):
        try:
            found[name.removeprefix(prefix)] = Checkpoint(at_us, msgspec.json.decode(state or "", type=kind))
        except (msgspec.MsgspecError, UnicodeError) as error:
            _log.error("a checkpoint can't be read and is left out", extra={"checkpoint": name, "cause": str(error)})
    return found


def put_checkpoints(connection: Connection, prefix: str, states: Mapping[str, Any], at_us: int) -> None:
    """Set these."""
    names = [prefix + name for name in states]
    if names:
        old = sa.delete(checkpoints).where(checkpoints.c.name == sa.bindparam("old"))
        connection.execute(old, [{"old": name} for name in names])
        rows = [{"name": prefix + name, "at_us": at_us, "state": state} for name, state in states.items()]
        connection.execute(sa.insert(checkpoints), rows)
