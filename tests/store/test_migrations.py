"""The schema: made by migrations, the same on both databases as the tables that the queries use."""

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from fareclass.core.times import DAY_US
from fareclass.store import StoreError
from fareclass.store.database import Store
from fareclass.store.entries import Filters, totals
from fareclass.store.folding import Folder
from fareclass.store.migrations.run import migrate
from fareclass.store.rollup_tables import rollups
from fareclass.store.rollups import Horizon, folded
from fareclass.store.tables import meta, metadata

_COLUMNS = {
    True: "SELECT name FROM pragma_table_info('ledger')",
    False: "SELECT column_name FROM information_schema.columns WHERE table_name = 'ledger'",
}


def test_migrations_make_exactly_the_tables(store: Store) -> None:
    assert rollups.metadata is metadata
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


def test_a_ledger_from_before_the_sums_is_summed(store_url: str) -> None:
    """R42: the tables come empty, and what is there is summed behind the work that goes on."""
    store = Store(store_url)
    with store.write() as connection:
        migrate(connection, "0004")
        names = [row[0] for row in connection.exec_driver_sql(_COLUMNS[store.is_sqlite])]
        values = {"id": "req_1", "project": "proj_a", "outcome": "completed", "tags": "{}", "cost_pico": 7}
        values |= {"ended_us": 86_400_000_123, "first_token_us": 86_400_000_000, "input": 5}
        words = {"id", "caller_id", "key", "model", "endpoint", "requested_tier", "served_tier", "code", "replica"}
        words |= {"workload", "spilled", "prefix", "project", "outcome", "tags"}
        flags = {"streamed", "estimated", "escalated"}
        usual = {name: "" if name in words else name in flags or 0 for name in names}
        table = sa.table("ledger", *(sa.column(name, metadata.tables["ledger"].c[name].type) for name in names))
        connection.execute(sa.insert(table).values(**(usual | values | {"tags": {}})))
    store.upgrade()
    folder = Folder(store, Horizon(), {})
    while folder.step(3 * DAY_US):
        pass
    with store.read() as connection:
        assert folded(connection).days == (DAY_US, 3 * DAY_US)
        (row,) = totals(connection, Filters(from_us=DAY_US, to_us=2 * DAY_US), ["project", "route"])
    assert (row["project"], row["route"], row["requests"], row["input"], row["cost"]) == ("proj_a", "", 1, 5, 7)
    store.close()
