"""Where the batches of projects may read and write, in SQL (R47)."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.store.tables import batch_roots


class RootRow(msgspec.Struct, frozen=True, kw_only=True):
    """One place: a folder of the gateway's machine, or an object store of the configuration."""

    uri: str
    folder: str | None
    store: str | None


def list_roots(connection: Connection, project: str) -> list[RootRow]:
    """A project's."""
    columns = batch_roots.c
    query = sa.select(columns.uri, columns.folder, columns.store).where(columns.project == project)
    return [
        RootRow(uri=row.uri, folder=row.folder, store=row.store) for row in connection.execute(query.order_by("uri"))
    ]


def put_roots(connection: Connection, project: str, roots: Sequence[RootRow]) -> None:
    """These and no others."""
    connection.execute(sa.delete(batch_roots).where(batch_roots.c.project == project))
    if roots:
        connection.execute(
            sa.insert(batch_roots), [{"project": project, **msgspec.structs.asdict(root)} for root in roots]
        )
