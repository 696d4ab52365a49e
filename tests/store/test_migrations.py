"""The schema: made by migrations, the same on both databases as the tables that the queries use."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.tables import meta, metadata


def test_migrations_make_exactly_the_tables(store: Store) -> None:
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrade_is_repeatable_and_told(store_url: str) -> None:
    store = Store(store_url)
    found, needed = store.current()
    assert found is None
    store.upgrade()
    store.upgrade()
    assert store.current() == (needed, needed)
    store.close()


def test_a_database_of_a_newer_program_is_refused(store: Store) -> None:
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'ffff'")
    with pytest.raises(StoreError, match=r"newer Fareclass.*older backup"):
        store.upgrade()


def test_sqlite_commits_reach_the_disk(store: Store) -> None:
    """R35: WAL with an fsync at each commit."""
    if not store.is_sqlite:
        with store.read() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        return
    with store.read() as other:
        for connection in (store.claim(), other):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_a_block_that_raises_changes_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        _insert_and_fail(store)
    with store.read() as connection:
        assert connection.execute(sa.select(meta)).all() == []


def _insert_and_fail(store: Store) -> None:
    with store.write() as connection:
        connection.execute(sa.insert(meta).values(name="a", value="b"))
        raise ZeroDivisionError
