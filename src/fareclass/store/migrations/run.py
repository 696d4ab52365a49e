"""Brings a database's schema up to this program's."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from fareclass.store import StoreError
from fareclass.store.migrations import known, revision


def migrate(connection: sa.Connection, until: str = "head") -> None:
    """Take the steps that are missing until this revision, in the transaction that `connection` is in.

    Raises:
        StoreError: a newer program has changed the database.
    """
    found = revision(connection)
    if found is not None and found not in known():
        raise StoreError(
            f"the database is at schema {found}, which this version does not know: "
            "a newer Fareclass has upgraded it; run that one, or restore an older backup"
        )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, until)
