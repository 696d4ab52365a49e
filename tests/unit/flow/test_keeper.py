"""What outlives a restart is loaded in the loop, and one fault ends neither its keeping nor the floors (R18, R20)."""

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import Connection

from fareclass.core.snapshot import Snapshot
from fareclass.flow import keeper, reserved
from fareclass.flow.keeper import Keeper
from fareclass.flow.reserved import Standing
from fareclass.sched.reserves import Floor
from fareclass.store.database import Store


class Part:
    """Counts up; says in which threads it was asked, and what of it was written."""

    def __init__(self) -> None:
        self.threads: dict[str, threading.Thread] = {}
        self.saved: list[int] = []
        self.number = 0
        self.faults = 0
        self.written = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def fetch(self, connection: Connection) -> str:
        self.threads["fetch"] = threading.current_thread()
        return "kept"

    def load(self, state: str) -> None:
        assert state == "kept"
        self.threads["load"] = threading.current_thread()

    def dump(self) -> int:
        self.number += 1
        return self.number

    def save(self, connection: Connection, state: int) -> None:
        if self.faults:
            self.faults -= 1
            raise ValueError("nobody thought of this one")
        self.saved.append(state)
        self._loop.call_soon_threadsafe(self.written.set)

    def unsaved(self, state: int) -> None:
        self.number -= 1


async def test_it_is_read_in_a_thread_and_taken_in_in_the_loop(store: Store) -> None:
    """Health watches drive the same brains meanwhile."""
    part = Part()
    kept = Keeper(store, [part])
    await kept.open()
    await kept.close()
    assert part.threads["fetch"] is not part.threads["load"] is threading.current_thread()


async def test_a_fault_that_nobody_thought_of_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "KEEP_S", 0.001)
    part = Part()
    part.faults = 2
    kept = Keeper(store, [part])
    await kept.open()
    await asyncio.wait_for(part.written.wait(), 10)
    assert part.saved[0] == 1, "what could not be written twice is in the third"
    await kept.close()


async def test_floors_follow_the_time_of_day_after_a_fault_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """R18: and the floors that could not be put into force are, with the next look."""
    monkeypatch.setattr(reserved, "LOOK_S", 0.001)
    told = asyncio.Event()
    calls: list[Any] = []

    class Pool:
        def set_floors(self, floors: dict[str, Floor]) -> None:
            calls.append(floors)
            if len(calls) == 1:
                raise ValueError("nobody thought of this one")
            told.set()

    made = Snapshot(projects={}, keys={}, models={}, quotas={}, books={}, reservations={})
    task = asyncio.create_task(Standing(lambda: made, {"m": Pool()}).run())  # type: ignore[dict-item]
    await asyncio.wait_for(told.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert calls == [{}, {}]
