"""One database, SQLite or PostgreSQL, behind one code path: synchronous, used from threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from fareclass.store import StoreError
from fareclass.store.claim import lock_beside, lock_session
from fareclass.store.migrations import newest, revision

BUSY_MS = 5_000
"""How long one SQLite writer waits for another."""
MIGRATION_LOCK = 0x66617265
"""PostgreSQL advisory lock: of several gateways that start together, one migrates."""
POSTGRES = MappingProxyType({"connect_timeout": 5, "tcp_user_timeout": 10_000})
"""A server that has vanished from the network is noticed within seconds, not by TCP's quarter of an hour."""


class DatabaseLostError(sa.exc.SQLAlchemyError):
    """What is written would be lost: the SQLite file that is open is no longer the one that its path names."""


class Store:
    """Connections to the database.

    `read` and `write` give a connection inside one transaction, which ends with the block:
    committed, or rolled back if the block raised. `read` sees the database as it is at its
    first query. On SQLite `write` takes the write lock at once, so that a transaction that
    reads before it writes never fails half-way. A commit has reached the disk when it returns.

    A gateway calls `claim` before anything else, so that it is the only one.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        address = sa.make_url(url)
        if password is not None:
            address = address.set(password=password)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self._file = Path(address.database or "")
        self._identity: tuple[int, int] | None = None
        self._lock: FileIO | None = None
        self._claimed: sa.Connection | None = None
        if self.is_sqlite:
            self._identity = _make_file(self._file)
        elif address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(
            address,
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else POSTGRES,
        )
        if self.is_sqlite:
            sa.event.listen(self._engine, "do_connect", lambda *_: self.check())
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._writes = self._engine.execution_options(fareclass_write=True)
        self._reads = self._engine
        if not self.is_sqlite:
            self._reads = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with self._reads.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with self._writes.connect() as connection, connection.begin():
            yield connection
            self.check()

    def claim(self) -> sa.Connection:
        """The connection that the ledger is written on; who has it is the only gateway on this database.

        Every statement on it is a transaction of its own. It is made when there is none, and
        stays until `release`: one thread at a time may use all this.

        Raises:
            StoreError: another gateway has the database, or it can't be used.
        """
        if self._claimed is None:
            if self.is_sqlite and self._lock is None:
                self._lock = lock_beside(self._file)
            with self._told():
                self._claimed = self._autocommit()
        return self._claimed

    def release(self) -> None:
        """Close the connection of `claim`. On SQLite the database stays claimed until `close`."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            claimed.close()

    def check(self) -> None:
        """Whether what was written until now is in the database that the next start will find.

        Raises:
            DatabaseLostError: the SQLite file was deleted, moved or replaced meanwhile.
        """
        if self._identity is not None and _identity(self._file) != self._identity:
            raise DatabaseLostError(
                f"the database file {self._file} was deleted, moved or replaced while it was in use: put it back, "
                "or stop the gateway and restore it from your backup"
            )

    def _autocommit(self) -> sa.Connection:
        connection = self._engine.connect()
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            if not self.is_sqlite:
                connection.detach()  # so that closing it ends the session, and with it the lock
                lock_session(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def upgrade(self) -> None:
        """Bring the schema up to this program's.

        Raises:
            StoreError: a newer program has changed the database, or it can't be used at all.
        """
        with self._told():
            self._upgrade()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the database says, as a sentence for who starts the gateway."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StoreError(f"the database {self._engine.url!r} can't be used: {cause}") from error

    def _upgrade(self) -> None:
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            if revision(connection) != newest():
                from fareclass.store.migrations.run import migrate  # Alembic, a sixth of a start's time

                migrate(connection)

    def current(self) -> tuple[str | None, str]:
        """The database's schema revision (None if it is empty) and this program's."""
        with self.read() as connection:
            return revision(connection), newest()

    def close(self) -> None:
        """Close what is not in use. Who claimed it has released it by now, or is stuck and must not be waited for."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()


def _make_file(file: Path) -> tuple[int, int] | None:
    """A new database is its owner's alone: usage and tags are nobody else's on this machine."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(mode=0o600)
    except OSError as error:
        raise StoreError(f"the database file {file} can't be made: {error.strerror}") from error
    return _identity(file)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file a path names; None if none. No other can be the same while this one is open."""
    try:
        found = os.stat(file)  # noqa: PTH116 - once per commit, and five times as fast
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL with an fsync at every commit (R35); transactions are begun by `_begin_sqlite`, not by the driver."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("fareclass_write") else "BEGIN")
