"""The breaker as a table of events, and the watch over a replica that comes and goes."""

import asyncio

from fareclass.engine import health
from fareclass.engine.base import EngineFailed, Traits
from fareclass.engine.health import Breaker, State, Watch
from tests.engine.conftest import HANG, FakeServer


def test_the_breaker_opens_after_three_failures_in_a_row():
    """R46."""
    breaker = Breaker()
    for event in ("failed", "failed", "succeeded", "failed", "failed"):
        breaker.failed(0) if event == "failed" else breaker.succeeded()
        assert breaker.up
    breaker.failed(0)
    assert breaker.state is State.OPEN


def test_an_open_breaker_waits_longer_each_time_its_trial_fails_up_to_a_bound():
    breaker = Breaker()
    breaker.gone(0)
    now, waits = 0.0, []
    for _ in range(8):
        start = now
        while not breaker.up:
            now += 0.5
            breaker.found_healthy(now)
        waits.append(now - start)
        assert breaker.state is State.HALF_OPEN
        breaker.failed(now)
        assert breaker.state is State.OPEN
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_only_work_that_succeeds_closes_it_again():
    breaker = Breaker()
    breaker.gone(0)
    breaker.found_healthy(1)
    breaker.found_healthy(2)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    breaker.gone(3)
    breaker.found_healthy(4)
    assert breaker.up, "the back-off began anew"


def test_looks_that_find_it_well_do_not_excuse_work_that_fails():
    """R46: a health page may be fine where nothing else is."""
    breaker = Breaker()
    for second in range(3):
        breaker.found_healthy(second)
        breaker.failed(second)
    assert breaker.state is State.OPEN


class Replica:
    def __init__(self):
        self.alive = False
        self.probes = 0
        self.traits = Traits()

    async def healthy(self):
        return self.alive

    async def probe(self):
        self.probes += 1
        if not self.alive:
            raise EngineFailed("unreachable", "gone")
        return self.traits


async def test_a_replica_is_up_once_it_was_probed_and_probed_again_after_it_was_away(monkeypatch):
    """R11: what a replica can do is found out before it is used."""
    replica, changes, now = Replica(), [], [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0], raising=False)
    watch = Watch(replica, changes.append)
    await watch.look()
    assert changes == []
    replica.alive = True
    await watch.look()
    assert (changes, replica.probes) == ([True], 1)
    replica.alive = False
    for _ in range(2):
        await watch.look()
    assert changes == [True, False]
    replica.alive = True
    await watch.look()
    assert changes == [True, False], "its back-off is not over"
    now[0] = 1.5
    await watch.look()
    assert changes == [True, False, True]
    assert replica.probes == 2


async def test_work_that_cannot_connect_takes_the_replica_out_at_once():
    """R46: the next request goes elsewhere."""
    replica, changes = Replica(), []
    replica.alive = True
    watch = Watch(replica, changes.append)
    await watch.look()
    watch.failed(EngineFailed("unreachable", "gone"))
    assert changes == [True, False]
    assert watch.state is State.OPEN


async def test_the_loop_looks_until_it_is_cancelled():
    replica = Replica()
    replica.alive = True
    changes: asyncio.Queue[bool] = asyncio.Queue()
    watch = Watch(replica, changes.put_nowait, look_every_s=0.01)
    task = asyncio.create_task(watch.run())
    assert await asyncio.wait_for(changes.get(), 2) is True
    replica.alive = False
    assert await asyncio.wait_for(changes.get(), 2) is False
    task.cancel()


async def test_a_replica_that_hangs_in_its_probe_is_looked_at_again(fake: FakeServer, engine, monkeypatch):
    """R11: it stays down as long as it hangs, and goes up once it answers."""
    monkeypatch.setattr(health, "_PROBE_S", 0.1)
    fake.pages["/v1/models"] = {"data": []}
    fake.pieces = [HANG]
    changes: asyncio.Queue[bool] = asyncio.Queue()
    watch = Watch(engine, changes.put_nowait, look_every_s=0.01)
    task = asyncio.create_task(watch.run())
    await asyncio.wait_for(watch.looked.wait(), 5)
    await asyncio.wait_for(fake.gone.wait(), 5)
    assert changes.empty()
    fake.pieces = [
        b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    ]
    assert await asyncio.wait_for(changes.get(), 10) is True
    task.cancel()
