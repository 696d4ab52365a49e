"""The roll-up's thread: behind the ledger, through trouble with the database, over restarts (R42)."""

import time

import pytest
import sqlalchemy as sa

from fareclass.core.times import DAY_US
from fareclass.metering import rollup
from fareclass.metering.ledger import Ledger
from fareclass.metering.rollup import Rollup
from fareclass.store.database import Store
from fareclass.store.folding import Folder
from fareclass.store.rollup_tables import minutes
from tests.engine.conftest import eventually
from tests.store.made import entry


def summed(store: Store) -> int:
    with store.read() as connection:
        return connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(minutes.c.requests), 0))) or 0


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "FOLD_POLL_S", 0.01)


async def test_what_is_over_is_summed_and_what_comes_late_too(store: Store) -> None:
    """R42: the ledger's writer and the roll-up share a horizon; closing ends the thread; a restart goes on."""
    ledger = Ledger(store)
    past_us = time.time_ns() // 1000 - 300_000_000
    await ledger.append(entry(ended_us=past_us - DAY_US))  # whatever the time of day: summed is from its day on
    for before in (1, 3):
        made = Rollup(store, ledger.horizon, {})
        made.open()
        await eventually(lambda before=before: summed(store) == before)
        await ledger.append(entry(ended_us=past_us))
        await eventually(lambda before=before: summed(store) == before + 1)
        await ledger.append(entry(ended_us=past_us - 60_000_000))
        await eventually(lambda before=before: summed(store) == before + 2)
        await made.close()
        assert not made._thread.is_alive()
    await ledger.close()


async def test_trouble_is_told_once_and_outlived(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R42: reports read the ledger meanwhile."""
    tries, step = [0], Folder.step

    def failing(folder: Folder, closed_us: int) -> bool:
        tries[0] += 1
        if tries[0] < 5:
            raise sa.exc.OperationalError("SELECT", None, Exception("no space left"))
        return step(folder, closed_us)

    monkeypatch.setattr(Folder, "step", failing)
    ledger = Ledger(store)
    await ledger.append(entry(ended_us=time.time_ns() // 1000 - 300_000_000))
    made = Rollup(store, ledger.horizon, {})
    made.open()
    await eventually(lambda: summed(store) == 1)
    await made.close()
    await ledger.close()
    told = [record for record in caplog.records if record.name == "fareclass.metering.rollup"]
    assert ["no space left" in record.__dict__["cause"] for record in told] == [True]
