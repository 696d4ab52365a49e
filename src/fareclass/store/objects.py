"""Files and batches in SQL. Every look-up is by project and id (R51)."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import batches, files, projects

ENDED = "ended"
"""The state of a batch that is over; what of it came to what is in its `result`."""


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a project; what it holds lies in the data folder."""

    id: str
    project: str
    purpose: str
    name: str
    size_bytes: int
    created_us: int
    expires_us: int


class BatchRow(msgspec.Struct, kw_only=True):
    """One batch. `terms` is what its API keeps of the call that made it, `books` the price books of then by model."""

    id: str
    project: str
    key: str
    api: str
    state: str
    input: str
    terms: dict[str, Any]
    books: dict[str, Any]
    created_us: int
    deadline_us: int
    started_us: int | None = None
    finalizing_us: int | None = None
    cancelling_us: int | None = None
    ended_us: int | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    result: dict[str, Any] | None = None
    token: str | None = None


def take_turn(connection: Connection, project: str) -> None:
    """Until this transaction ends, no other that asks for its turn adds files of the project.

    On SQLite, a transaction that writes is alone anyway.
    """
    query = sa.select(projects.c.id).where(projects.c.id == project)
    connection.execute(query.with_for_update(key_share=True))  # rows that only refer to the project are still added


def is_file(connection: Connection, id: str) -> bool:
    """Whether any project has a file with this id."""
    return connection.execute(sa.select(files.c.id).where(files.c.id == id)).first() is not None


def add_file(connection: Connection, row: FileRow) -> None:
    connection.execute(sa.insert(files).values(msgspec.structs.asdict(row)))


def get_file(connection: Connection, project: str, id: str) -> FileRow | None:
    found = connection.execute(sa.select(files).where(files.c.project == project, files.c.id == id)).first()
    return None if found is None else FileRow(**found._mapping)  # noqa: SLF001 - a row's public view


def list_files(
    connection: Connection, project: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
) -> list[FileRow]:
    """In the order of their making, or the other way round."""
    query = sa.select(files).where(files.c.project == project)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        query = query.where(files.c.id > after if ascending else files.c.id < after)
    order = files.c.id.asc() if ascending else files.c.id.desc()
    return [FileRow(**row._mapping) for row in connection.execute(query.order_by(order).limit(limit))]  # noqa: SLF001


def delete_file(connection: Connection, project: str, id: str) -> bool:
    """Whether it was there."""
    gone = connection.execute(sa.delete(files).where(files.c.project == project, files.c.id == id))
    return gone.rowcount > 0


def file_totals(connection: Connection, project: str) -> tuple[int, int]:
    """How many files a project has, and their bytes."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.size_bytes), 0))
    count, size = connection.execute(query.where(files.c.project == project)).one()
    return count, int(size)


def drop_expired_files(connection: Connection, now_us: int) -> list[str]:
    """Forget those whose time is over and that no open batch reads; their ids."""
    read = sa.select(batches.c.input).where(batches.c.ended_us.is_(None))
    due = sa.select(files.c.id).where(files.c.expires_us <= now_us, files.c.id.not_in(read))
    ids = list(connection.execute(due).scalars())
    for gone in ids:
        connection.execute(sa.delete(files).where(files.c.id == gone))
    return ids


def is_read(connection: Connection, file: str) -> bool:
    """Whether a batch that has not ended reads this file."""
    query = sa.select(batches.c.id).where(batches.c.input == file, batches.c.ended_us.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def add_batch(connection: Connection, row: BatchRow) -> None:
    connection.execute(sa.insert(batches).values(msgspec.structs.asdict(row)))


def get_batch(connection: Connection, project: str, api: str, id: str) -> BatchRow | None:
    query = sa.select(batches).where(batches.c.project == project, batches.c.api == api, batches.c.id == id)
    found = connection.execute(query).first()
    return None if found is None else BatchRow(**found._mapping)  # noqa: SLF001


def get_batch_of_token(connection: Connection, project: str, api: str, token: str) -> BatchRow | None:
    query = sa.select(batches).where(batches.c.project == project, batches.c.api == api, batches.c.token == token)
    found = connection.execute(query).first()
    return None if found is None else BatchRow(**found._mapping)  # noqa: SLF001


def delete_batch(connection: Connection, project: str, id: str) -> None:
    connection.execute(sa.delete(batches).where(batches.c.project == project, batches.c.id == id))


def list_batches(
    connection: Connection, project: str, api: str, *, after: str | None, before: str | None, limit: int
) -> list[BatchRow]:
    """Newest first; those right behind `after`, or right before `before`."""
    query = sa.select(batches).where(batches.c.project == project, batches.c.api == api)
    if after is not None:
        query = query.where(batches.c.id < after)
    if before is not None:
        query = query.where(batches.c.id > before)
    order = batches.c.id.desc() if before is None else batches.c.id.asc()
    found = [BatchRow(**row._mapping) for row in connection.execute(query.order_by(order).limit(limit))]  # noqa: SLF001
    return found if before is None else found[::-1]


def batches_of_all(
    connection: Connection, project: str | None, *, ended: bool | None, after: tuple[int, str] | None, limit: int
) -> list[BatchRow]:
    """Of all projects or one, whatever their API, newest first; those behind `after`, a time of making and an id.

    Without their price books, which are large.
    """
    columns = [column for column in batches.c if column.name != "books"]
    query = sa.select(*columns).order_by(batches.c.created_us.desc(), batches.c.id.desc()).limit(limit)
    if project is not None:
        query = query.where(batches.c.project == project)
    if ended is not None:
        query = query.where((batches.c.state == ENDED) == ended)
    if after is not None:
        query = query.where(sa.tuple_(batches.c.created_us, batches.c.id) < after)
    return [BatchRow(**row._mapping, books={}) for row in connection.execute(query)]  # noqa: SLF001


def open_batches(connection: Connection) -> list[BatchRow]:
    """All that have not ended, oldest first."""
    query = sa.select(batches).where(batches.c.state != ENDED).order_by(batches.c.created_us, batches.c.id)
    return [BatchRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001


def count_open(connection: Connection, project: str) -> int:
    query = sa.select(sa.func.count()).where(batches.c.project == project, batches.c.state != ENDED)
    return int(connection.execute(query).scalar_one())


def update_batch(connection: Connection, row: BatchRow) -> None:
    """Everything of it that changes."""
    names = (
        "state",
        "terms",
        "started_us",
        "finalizing_us",
        "cancelling_us",
        "ended_us",
        "total",
        "succeeded",
        "failed",
        "result",
    )
    values = {name: getattr(row, name) for name in names}
    connection.execute(sa.update(batches).where(batches.c.id == row.id).values(values))


def drop_old_batches(connection: Connection, before_us: int) -> Sequence[str]:
    """Forget those that ended before then; their ids."""
    due = sa.select(batches.c.id).where(batches.c.ended_us < before_us)
    ids = list(connection.execute(due).scalars())
    for gone in ids:
        connection.execute(sa.delete(batches).where(batches.c.id == gone))
    return ids
