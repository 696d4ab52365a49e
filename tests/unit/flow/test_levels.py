"""Levels of buckets over a restart: every pool goes on from its own checkpoint, and what came later begins anew (R20, R25)."""

import asyncio
import time
from types import SimpleNamespace

from fareclass.core.snapshot import Capacity, Quota, Reservation, Snapshot
from fareclass.core.tiers import DEFAULT_POLICIES, Tier
from fareclass.core.usage import Usage
from fareclass.flow import levels
from fareclass.flow.levels import Levels
from fareclass.sched.brain import Brain
from fareclass.sched.reserves import Floor
from fareclass.sched.ticket import Refuse, Ticket
from fareclass.store.checkpoints import put_checkpoints
from fareclass.store.database import Store
from tests.store.made import entry
from tests.store.test_entries import write

MINUTE = Quota(tpm=1_000)
NOTHING = {"floors": {}, "quotas": {}}
DAY_US = 86_400_000_000


def ago(seconds: float) -> int:
    return time.time_ns() // 1000 - round(seconds * 1e6)


def spent(model: str, seconds: float, **fields: object) -> object:
    """A request that used a whole minute of a quota or floor, so long ago."""
    plain = {"project": "p", "model": model, "ended_us": ago(seconds), "served_tier": Tier.DEFAULT}
    return entry(**plain | {"usage": Usage(input=800, output=200)} | fields)


class Restarted:
    """Pools after a start on this store."""

    def __init__(self, store: Store, *models: str, quotas: object = None, reservations: object = None) -> None:
        self.brains = {}
        for model in models:
            brain = self.brains[model] = Brain(DEFAULT_POLICIES, capacity=Capacity(input_tpm=60_000, output_tpm=6_000))
            brain.add_replica("r0", 64, 0.0)
        snapshot = Snapshot(
            projects={}, keys={}, models={}, books={}, quotas=quotas or {}, reservations=reservations or {}
        )  # type: ignore[arg-type]
        pools = {name: SimpleNamespace(brain=brain) for name, brain in self.brains.items()}
        kept = Levels(lambda: snapshot, pools)  # type: ignore[arg-type]
        with store.read() as connection:
            state = kept.fetch(connection)
        kept.load(state)

    def refuses(self, model: str, quota: Quota = MINUTE) -> bool:
        """Whether the project's quota has no room for a request of nearly a minute."""
        ticket = Ticket("t", "p", Tier.DEFAULT, prompt_tokens=1, hold_tokens=900)
        effects = self.brains[model].offer(ticket, asyncio.get_running_loop().time(), quota)
        return any(isinstance(effect, Refuse) for effect in effects)

    def claims(self, model: str) -> bool:
        """Whether the project's floor has room for one."""
        ticket = Ticket("t", "p", Tier.DEFAULT, prompt_tokens=1, floor_input=80_000, floor_output=150)
        return self.brains[model].claim(ticket, asyncio.get_running_loop().time())


async def test_r25_a_pool_that_idles_for_days_costs_another_nothing(store: Store, monkeypatch) -> None:
    """More was served since the idle pool's checkpoint than a start goes through: what came last is charged all the same."""
    monkeypatch.setattr(levels, "_ENTRIES", 3)
    with store.write() as connection:
        put_checkpoints(connection, "levels/", {"idle": NOTHING}, ago(3 * 86_400))
        put_checkpoints(connection, "levels/", {"busy": NOTHING}, ago(3))
    write(store, *(spent("busy", 80_000 - number) for number in range(10)), spent("busy", 1))
    quotas = {("p", name): MINUTE for name in ("idle", "busy")}
    pools = Restarted(store, "idle", "busy", quotas=quotas)
    assert (pools.refuses("idle"), pools.refuses("busy")) == (False, True)


async def test_r25_where_too_much_came_after_a_checkpoint_the_oldest_is_left_out(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(levels, "_ENTRIES", 3)
    with store.write() as connection:
        put_checkpoints(connection, "levels/", {"m": NOTHING}, ago(7_200))
    write(store, *(spent("m", 7_000 - number) for number in range(10)), spent("m", 1))
    assert Restarted(store, "m", quotas={("p", "m"): MINUTE}).refuses("m")


async def test_r25_debt_is_paid_from_the_time_of_its_checkpoint_on(store: Store) -> None:
    """Twenty minutes of a quota were in debt half an hour ago; forty were."""
    for minutes, refused in ((20, False), (40, True)):
        kept = {"limits": [1_000, 0, None], "levels": [-minutes * 1_000 * 60_000_000, None, None]}
        with store.write() as connection:
            put_checkpoints(connection, "levels/", {"m": {"floors": {}, "quotas": {"p": kept}}}, ago(1_800))
        assert Restarted(store, "m", quotas={("p", "m"): MINUTE}).refuses("m") is refused


async def test_r25_a_quota_is_no_debt_for_what_was_used_before_there_was_one(store: Store) -> None:
    write(store, *(spent("m", 5 - number) for number in range(5)))
    assert Restarted(store, "m", quotas={("p", "m"): MINUTE}).refuses("m"), "it was in force at the start"
    pools = Restarted(store, "m")
    assert not pools.refuses("m"), "it was set after the start"
    assert pools.refuses("m")


async def test_r25_a_wide_request_counts_as_many_requests_over_a_restart(store: Store) -> None:
    """R49: `n: 5` of eight requests a minute: three more go through, not seven."""
    quota = Quota(rpm=8)
    write(store, spent("m", 0.1, width=5))
    pools = Restarted(store, "m", quotas={("p", "m"): quota})
    assert [pools.refuses("m", quota) for _ in range(5)] == [False] * 3 + [True] * 2


async def test_r20_a_floor_of_before_the_first_checkpoint_gives_no_minute_away(store: Store) -> None:
    """Killed within seconds of the first request; a floor that was sold since has its minute."""
    write(store, spent("m", 2, served_tier=Tier.RESERVED))
    bought = Reservation(
        id="r", project="p", model="m", input_tpm=1_000, output_tpm=200, overflow=None, starts_us=0, ends_us=None
    )
    for standing, claims in (({("p", "m"): (bought,)}, False), ({}, True)):
        pools = Restarted(store, "m", reservations=standing)
        pools.brains["m"].set_floors({"p": Floor(1_000, 200)}, asyncio.get_running_loop().time())
        assert pools.claims("m") is claims
