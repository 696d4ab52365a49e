"""Responses that wait for the database: none is lost while it fails, or while the gateway ends (R35)."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from fareclass.flow.stored_responses import StoredResponses
from fareclass.store.database import Store
from fareclass.store.responses import ResponseRow, find_responses, put_responses, sweep_responses
from fareclass.store.tables import projects
from tests.engine.conftest import eventually
from tests.migrated import migrated

BROKEN = OperationalError("INSERT", {}, Exception("disk full"))
FLOW = "fareclass.flow.stored_responses."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = migrated(tmp_path / "db" / "fareclass.db")
    with opened.write() as connection:
        connection.execute(projects.insert(), [{"id": "proj_a", "name": "acme", "weight": 1, "created_us": 1}])
    yield opened
    opened.close()


def row(name: str) -> ResponseRow:
    return ResponseRow(
        id=f"resp_{name}",
        project="proj_a",
        key="key_a",
        status="completed",
        background=False,
        created_us=2**60,
        body=b"{}",
        input=b"[]",
    )


def on_disk(store: Store, *names: str) -> set[str]:
    with store.read() as connection:
        return {found.id for found in find_responses(connection, "proj_a", [f"resp_{name}" for name in names])}


async def test_r35_a_database_that_fails_for_a_while_loses_no_response(store, monkeypatch):
    failures, mended = 0, False

    def fail_at_first(*what) -> None:
        nonlocal failures
        if not mended:
            failures += 1
            raise BROKEN
        put_responses(*what)

    monkeypatch.setattr(FLOW + "put_responses", fail_at_first)
    monkeypatch.setattr(FLOW + "_RETRY_S", 0.01)
    stored = StoredResponses(store)
    stored.open()
    stored.put(row("a"))
    await eventually(lambda: failures > 1)
    assert (await stored.find("proj_a", ["resp_a"])).keys() == {"resp_a"}
    stored.put(row("b"))
    mended = True
    await eventually(lambda: on_disk(store, "a", "b") == {"resp_a", "resp_b"})
    await stored.close()


async def test_r35_what_comes_while_the_gateway_ends_is_written(store, monkeypatch):
    sweeping, swept = threading.Event(), threading.Event()

    def sweep(*what, **bounds) -> None:
        sweeping.set()
        assert swept.wait(10)
        sweep_responses(*what, **bounds)

    monkeypatch.setattr(FLOW + "sweep_responses", sweep)
    stored = StoredResponses(store)
    stored.open()
    stored.put(row("a"))
    await eventually(sweeping.is_set)
    closing = asyncio.create_task(stored.close())
    await asyncio.sleep(0.02)
    stored.put(row("b"))
    swept.set()
    await closing
    assert on_disk(store, "a", "b") == {"resp_a", "resp_b"}


async def test_the_gateway_ends_though_the_database_is_gone(store, monkeypatch, caplog):
    """Its operator reads what that has cost."""

    def fail(*_) -> None:
        raise BROKEN

    monkeypatch.setattr(FLOW + "put_responses", fail)
    stored = StoredResponses(store)
    stored.open()
    stored.put(row("a"))
    stored.put(row("b"))
    async with asyncio.timeout(5):
        await stored.close()
    (lost,) = [record for record in caplog.records if "lost" in record.message]
    assert lost.count == 2


async def test_r14_what_waits_for_the_database_is_bounded(store, monkeypatch):
    monkeypatch.setattr(FLOW + "RESPONSES_PENDING_BYTES", 3 * row("a").size_bytes)
    stored = StoredResponses(store)
    for name in "abcde":
        stored.put(row(name))
    assert (await stored.find("proj_a", [f"resp_{name}" for name in "abcde"])).keys() == {"resp_a", "resp_b", "resp_c"}
    stored.open()
    await stored.close()
    assert on_disk(store, *"abcde") == {"resp_a", "resp_b", "resp_c"}


async def test_r14_the_size_of_responses_is_known_before_they_are_read(store):
    stored = StoredResponses(store)
    await stored.add(row("a"))
    stored.put(row("b"))
    asked = ["resp_a", "resp_b", "resp_c", "no id"]
    assert await stored.size_bytes("proj_a", asked) == row("a").size_bytes + row("b").size_bytes
    assert await stored.size_bytes("proj_b", asked) == 0
