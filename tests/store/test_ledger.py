"""R35: an answered request is in the ledger, once, whatever happens."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from fareclass.core.outcomes import Outcome
from fareclass.metering.ledger import Ledger, LedgerUnavailable
from fareclass.store.database import DatabaseLostError, Store
from fareclass.store.entries import EntryWriter
from fareclass.store.tables import ledger as table
from fareclass.store.tables import meta
from tests.engine.conftest import eventually
from tests.store.made import disk_full, entry

ROOT = Path(__file__).parents[2]
WAIT_S = 0.4
"""Bound of an append in these tests."""


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    made = Ledger(store, wait_s=WAIT_S)
    yield made
    await made.close()


@contextmanager
def server_gone(store_url: str) -> Iterator[None]:
    """PostgreSQL cuts this database's connections and takes no new ones."""
    with psycopg.connect(store_url.replace("/fareclass?", "/postgres?"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE fareclass ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fareclass'")
        try:
            yield
        finally:
            connection.execute("ALTER DATABASE fareclass ALLOW_CONNECTIONS true")


def broken(store: Store, store_url: str) -> AbstractContextManager[None]:
    return disk_full() if store.is_sqlite else server_gone(store_url)


def ids(store: Store) -> list[str]:
    with store.read() as connection:
        return sorted(connection.execute(sa.select(table.c.id)).scalars())


async def healthy_again(ledger: Ledger) -> None:
    async with asyncio.timeout(10):
        while not ledger.healthy or ledger.pending:  # noqa: ASYNC110 - the ledger tells nobody, it is asked
            await asyncio.sleep(0.01)


async def test_an_append_returns_once_the_entry_is_there(store: Store, ledger: Ledger) -> None:
    entries = [entry() for _ in range(300)]
    for made in entries[:3]:
        await ledger.append(made)
        assert made.id in ids(store)
    await asyncio.gather(*(ledger.append(made) for made in entries[3:]))
    assert ids(store) == sorted(made.id for made in entries)


async def test_many_appends_share_few_commits(store: Store, ledger: Ledger) -> None:
    """R35: group commit. WAL frames would tell too; the connection's statements are counted here."""
    statements: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    await asyncio.gather(*(ledger.append(entry()) for _ in range(200)))
    assert len([text for text in statements if text.startswith("INSERT")]) <= 5


async def test_close_writes_what_is_pending(store: Store) -> None:
    ledger = Ledger(store)
    entries = [entry() for _ in range(250)]
    for made in entries:
        ledger.note(made)
    await ledger.close()
    assert ids(store) == sorted(made.id for made in entries)


async def test_trouble_is_told_and_nothing_is_lost(store: Store, store_url: str, ledger: Ledger) -> None:
    """R35: disk full (SQLite), server gone (PostgreSQL): told within the bound, refused while it lasts, then whole."""
    before, during, refused, after = entry(), entry(), entry(), entry()
    await ledger.append(before)
    with broken(store, store_url):
        started = asyncio.get_running_loop().time()
        with pytest.raises(LedgerUnavailable):
            await ledger.append(during)
        assert asyncio.get_running_loop().time() - started < WAIT_S + 2
        assert not ledger.healthy
        await eventually(lambda: ledger.lag_s >= WAIT_S)
        ledger.note(refused)
    await healthy_again(ledger)
    await eventually(lambda: not ledger.lag_s)
    await ledger.append(after)
    assert ids(store) == sorted(made.id for made in (before, during, refused, after))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    """A database in `tmp_path`."""
    made = Store(f"sqlite:///{tmp_path / 'f.db'}")
    made.upgrade()
    yield made
    made.release()
    made.close()


@pytest.mark.parametrize("another", [False, True], ids=["deleted", "replaced"])
async def test_a_database_file_that_is_gone_is_noticed_at_the_next_entry(
    another: bool, sqlite: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R35: what goes into a file that no path names would be missing; put back in its place, it is whole."""
    ledger = Ledger(sqlite, wait_s=WAIT_S)
    file, aside = tmp_path / "f.db", tmp_path / "aside.db"
    before, during = entry(), entry()
    await ledger.append(before)
    file.rename(aside)
    if another:
        file.write_bytes(aside.read_bytes())
    with pytest.raises(LedgerUnavailable):
        await ledger.append(during)
    assert not ledger.healthy
    causes = [record.__dict__["cause"] for record in caplog.records if "cause" in record.__dict__]
    assert f"the database file {file} was deleted, moved or replaced while it was in use" in causes[0]
    with pytest.raises(DatabaseLostError), sqlite.read(), sqlite.read(), sqlite.read():
        pytest.fail("a new connection would make a new file, or see another database")
    assert file.exists() == another, "nothing is made in its place"
    with pytest.raises(DatabaseLostError), sqlite.write() as connection:
        connection.execute(sa.insert(meta).values(name="an", value="operator's change"))
    aside.rename(file)
    await healthy_again(ledger)
    await ledger.close()
    assert ids(sqlite) == sorted([before.id, during.id])
    with sqlite.read() as connection:
        assert connection.execute(sa.select(meta)).all() == [], "a command that was refused changed nothing"


async def test_an_undelivered_answer_is_not_billed(store: Store, store_url: str, ledger: Ledger) -> None:
    """R35, R6: the caller got an error since the entry could not be written; later it says so and costs nothing."""
    told = entry(cost_pico=99)
    with broken(store, store_url):
        with pytest.raises(LedgerUnavailable):
            await ledger.append(told)
        ledger.void(told)
    await healthy_again(ledger)
    await ledger.append(entry())
    with store.read() as connection:
        row = connection.execute(sa.select(table.c.outcome, table.c.cost_pico).where(table.c.id == told.id)).one()
    assert tuple(row) == ("internal", 0)


async def test_a_stuck_disk_does_not_hold_an_answer_for_ever(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R35: a commit that neither succeeds nor fails."""
    stuck = threading.Event()
    await ledger.append(entry())
    insert = EntryWriter.insert

    def hang(writer: EntryWriter, entries: object) -> None:
        stuck.wait(30)
        insert(writer, entries)  # type: ignore[arg-type]

    monkeypatch.setattr(EntryWriter, "insert", hang)
    waiting = [entry() for _ in range(3)]
    told = await asyncio.gather(*(ledger.append(made) for made in waiting), return_exceptions=True)
    assert [type(answer) for answer in told] == [LedgerUnavailable] * 3
    assert not ledger.healthy
    stuck.set()
    await healthy_again(ledger)
    assert {made.id for made in waiting} <= set(ids(store))


async def test_one_bad_entry_does_not_stop_the_others(
    store: Store, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """R35: an amount that no database holds is told to its caller and kept in the log."""
    bad = entry(cost_pico=2**70)
    good = [entry() for _ in range(5)]
    told = await asyncio.gather(*(ledger.append(made) for made in (*good, bad)), return_exceptions=True)
    assert [type(answer) for answer in told] == [type(None)] * 5 + [LedgerUnavailable]
    assert ids(store) == sorted(made.id for made in good)
    assert any(bad.id in str(record.__dict__.get("entry")) for record in caplog.records)
    assert ledger.healthy


async def test_too_many_pending_refuse_new_work(
    store: Store, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14: the line has a bound; what nobody waits for is dropped and counted."""
    monkeypatch.setattr("fareclass.metering.ledger.LEDGER_PENDING", 500)
    await ledger.append(entry())
    with broken(store, store_url):
        for _ in range(700):
            ledger.note(entry())
        await eventually(lambda: not ledger.healthy)
        assert 0 < ledger.dropped <= 200
        with pytest.raises(LedgerUnavailable):
            await ledger.append(entry())
    await healthy_again(ledger)
    await ledger.append(entry())
    assert len(ids(store)) == 3 + 700 - ledger.dropped


async def test_closing_without_a_database_keeps_the_entries_in_the_log(
    store: Store, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(store, wait_s=WAIT_S)
    await ledger.append(entry())
    lost = entry()
    with broken(store, store_url):
        with pytest.raises(LedgerUnavailable):
            await ledger.append(lost)
        async with asyncio.timeout(10):
            await ledger.close()
    assert any(lost.id in str(record.__dict__.get("entry")) for record in caplog.records)


def test_kill_9_loses_no_answered_request(store: Store, store_url: str) -> None:
    """R35: every id that was answered is there, exactly once."""
    command = [sys.executable, "-m", "tests.store.ledger_writer", store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(500)]
        process.kill()
        answered += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert len(answered) >= 500
    found = ids(store)
    assert len(found) == len(set(found))
    assert set(answered) <= set(found)


async def test_work_that_is_run_again_is_billed_once(store: Store, ledger: Ledger):
    """R35, R38: what was cut off gives way to the run that completed, in whatever groups they are; nothing gives way after."""
    cut, done = Outcome.CANCELLED, Outcome.COMPLETED
    first, again = entry(id="batch_1", outcome=cut, cost_pico=5), entry(id="batch_1", outcome=done, cost_pico=7)
    await asyncio.gather(ledger.append(first), ledger.append(again))
    await ledger.append(entry(id="batch_2", outcome=cut, cost_pico=0))
    await ledger.append(entry(id="batch_2", outcome=done, cost_pico=9))
    await ledger.append(entry(id="batch_2", outcome=done, cost_pico=11))
    EntryWriter(store.claim()).insert(
        [entry(id="batch_3", outcome=cut), entry(id="batch_3", outcome=done, cost_pico=13)]
    )
    with store.read() as connection:
        found = connection.execute(sa.select(table.c.id, table.c.outcome, table.c.cost_pico).order_by(table.c.id)).all()
    assert [tuple(row) for row in found] == [
        ("batch_1", "completed", 7),
        ("batch_2", "completed", 9),
        ("batch_3", "completed", 13),
    ]
