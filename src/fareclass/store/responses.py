"""Stored responses in SQL, each looked up by project and id (R51)."""

from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import responses

UNFINISHED: Final = ("queued", "in_progress")
"""States of a background response that is not over."""


class ResponseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One response; `tables.responses` says what its parts are."""

    id: str
    project: str
    key: str
    status: str
    background: bool
    created_us: int
    body: bytes
    input: bytes
    asked: bytes | None = None
    events: bytes | None = None

    @property
    def size_bytes(self) -> int:
        return sum(len(part or b"") for part in (self.body, self.input, self.asked, self.events))


def put_responses(connection: Connection, rows: Iterable[ResponseRow]) -> None:
    """Write these; one that is there is replaced."""
    values = [msgspec.structs.asdict(row) | {"size_bytes": row.size_bytes} for row in rows]
    if values:
        connection.execute(
            sa.delete(responses).where(responses.c.id == sa.bindparam("old")), [{"old": v["id"]} for v in values]
        )
        connection.execute(sa.insert(responses), values)


def find_responses(connection: Connection, project: str, ids: Collection[str]) -> list[ResponseRow]:
    """Those of them that the project has."""
    mine = (responses.c.project == project) & responses.c.id.in_(ids)
    return [_row(found) for found in connection.execute(sa.select(responses).where(mine))]


def responses_bytes(connection: Connection, project: str, ids: Collection[str]) -> int:
    """What those of them that the project has take."""
    mine = (responses.c.project == project) & responses.c.id.in_(ids)
    return int(connection.execute(sa.select(sa.func.sum(responses.c.size_bytes)).where(mine)).scalar() or 0)


def delete_response(connection: Connection, project: str, id: str) -> bool:
    """Whether it was there."""
    mine = (responses.c.project == project) & (responses.c.id == id)
    return bool(connection.execute(sa.delete(responses).where(mine)).rowcount)


def list_unfinished(connection: Connection) -> list[ResponseRow]:
    """Background responses that were waiting or running when the gateway ended, oldest first."""
    query = sa.select(responses).where(responses.c.status.in_(UNFINISHED)).order_by(responses.c.id)
    return [_row(found) for found in connection.execute(query)]


def sweep_responses(connection: Connection, before_us: int, *, count: int, size_bytes: int) -> None:
    """Delete what is older, and of each project the oldest beyond so many, or beyond so many bytes."""
    over = responses.c.status.not_in(UNFINISHED)
    connection.execute(sa.delete(responses).where((responses.c.created_us < before_us) & over))
    sums = sa.select(responses.c.project, sa.func.count(), sa.func.sum(responses.c.size_bytes))
    for project, number, total in connection.execute(sums.group_by(responses.c.project)).all():
        if number > count or total > size_bytes:
            _trim(connection, project, count, size_bytes)


def _trim(connection: Connection, project: str, count: int, size_bytes: int) -> None:
    mine = (responses.c.project == project) & responses.c.status.not_in(UNFINISHED)
    query = sa.select(responses.c.id, responses.c.size_bytes).where(mine)
    kept = 0
    for number, (old, size) in enumerate(
        connection.execute(query.order_by(responses.c.created_us.desc(), responses.c.id.desc())).all()
    ):
        kept += size
        if number >= count or kept > size_bytes:
            delete_response(connection, project, old)


def _row(found: sa.Row[Any]) -> ResponseRow:
    return ResponseRow(**{name: getattr(found, name) for name in ResponseRow.__struct_fields__})
