"""One gateway to a database: the second is told who has it, and a killed one leaves nothing to clean up."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from fareclass.metering.ledger import Ledger, LedgerUnavailable
from fareclass.store import StoreError
from fareclass.store.database import Store
from tests.engine.conftest import eventually
from tests.store.made import entry
from tests.store.test_ledger import healthy_again, ids

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No killed gateway's session is waited for where none was killed."""
    monkeypatch.setattr("fareclass.store.claim._PATIENCE", "100ms")


def test_a_second_gateway_is_refused_and_told_who_the_first_is(store: Store, store_url: str) -> None:
    """Each would take all slots for its own. Looking at the schema is nobody's privilege."""
    store.claim()
    second = Store(store_url)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(StoreError, match=f"in use by fareclass {holder}: two gateways can't share one"):
        second.claim()
    second.upgrade()
    assert second.current()[0] is not None
    store.release()
    store.close()
    second.claim()
    second.release()
    second.close()


def test_a_killed_gateways_database_is_free_at_once(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R35: `kill -9`, and the next start needs no cleaning up."""
    command = [sys.executable, "-m", "tests.store.ledger_writer", store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreError, match=f"in use by fareclass process {process.pid} on "):
            store.claim()
        process.kill()
    monkeypatch.undo()
    store.claim()


@pytest.fixture
async def cut_off(postgres_uri: str, caplog: pytest.LogCaptureFixture):
    """A gateway whose ledger's connection to PostgreSQL breaks, and another that has started before it writes again."""
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        first, second = Store(postgres_uri), Store(postgres_uri)
        first.upgrade()
        ledger = Ledger(first, wait_s=0.4)
        await ledger.append(entry())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'fareclass process%'"
        )
    await asyncio.to_thread(second.claim)
    yield ledger, second
    await ledger.close()
    first.close()
    second.close()


async def test_a_broken_connection_loses_the_claim_and_the_ledger_notices(cut_off, caplog) -> None:
    """R35: it writes nothing while another gateway has the database, says so, and loses nothing."""
    ledger, second = cut_off
    waiting = entry()
    with pytest.raises(LedgerUnavailable):
        await ledger.append(waiting)
    assert not ledger.healthy
    assert waiting.id not in ids(second)
    await eventually(
        lambda: any("in use by fareclass" in record.__dict__.get("cause", "") for record in caplog.records)
    )
    second.release()
    await healthy_again(ledger)
    await ledger.append(entry())
    assert waiting.id in ids(second)


def test_a_lock_that_can_not_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'f.db'}")
    (tmp_path / "f.db.lock").mkdir()
    with pytest.raises(StoreError, match=r"f\.db\.lock can't be taken: Is a directory"):
        store.claim()
    store.close()


def test_r51_the_lock_is_its_owners_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'f.db'}")
    store.claim()
    assert (tmp_path / "f.db.lock").stat().st_mode & 0o077 == 0
    store.release()
    store.close()
