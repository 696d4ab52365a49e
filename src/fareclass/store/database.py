"""One database, SQLite or PostgreSQL, behind one code path: synchronous, used from threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

BUSY_MS = 5_000
"""How long one SQLite writer waits for another."""
MIGRATION_LOCK = 0x66617265
"""PostgreSQL advisory lock: of several gateways that start together, one migrates."""
POSTGRES = MappingProxyType({"connect_timeout": 5, "tcp_user_timeout": 10_000})
"""A server that has vanished from the network is noticed within seconds, not by TCP's quarter of an hour."""


class StoreError(Exception):
    """The database can't be used as it is; the message says what to do."""


class Store:
    """Connections to the database.

    `read` and `write` give a connection inside one transaction, which ends with the block:
    committed, or rolled back if the block raised. On SQLite `write` takes the write lock at
    once, so that a transaction that reads before it writes never fails half-way. A commit
    has reached the disk when it returns.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        address = sa.make_url(url)
        if password is not None:
            address = address.set(password=password)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        if self.is_sqlite:
            file = Path(address.database or "")
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                file.touch(mode=0o600)  # usage and tags are nobody else's on this machine
        elif address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(
            address,
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else POSTGRES,
        )
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._writes = self._engine.execution_options(fareclass_write=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with self._writes.connect() as connection, connection.begin():
            yield connection

    def autocommit(self) -> sa.Connection:
        """A connection on which every statement is a transaction of its own; whoever asks closes it."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def upgrade(self) -> None:
        """Bring the schema up to this program's.

        Raises:
            StoreError: a newer program has changed the database, or it can't be used at all.
        """
        try:
            self._upgrade()
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StoreError(f"the database {self._engine.url!r} can't be used: {cause}") from error

    def _upgrade(self) -> None:
        config = _alembic()
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            found = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if found is not None and found not in known:
                raise StoreError(
                    f"the database is at schema {found}, which this version does not know: "
                    "a newer Fareclass has upgraded it; run that one, or restore an older backup"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def current(self) -> tuple[str | None, str]:
        """The database's schema revision (None if it is empty) and this program's."""
        with self.read() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        newest = ScriptDirectory.from_config(_alembic()).get_current_head()
        return found, newest or ""

    def close(self) -> None:
        self._engine.dispose()


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(files("fareclass.store") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL with an fsync at every commit (R35); transactions are begun by `_begin_sqlite`, not by the driver."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("fareclass_write") else "BEGIN")
