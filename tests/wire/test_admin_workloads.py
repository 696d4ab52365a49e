"""R40, R41: workloads and escalation rules as operators make them, on both databases."""

from typing import Any

import httpx
import pytest
from msgspec import UNSET

from fareclass.core.snapshot import Escalation, Key
from fareclass.core.tiers import Tier
from fareclass.flow.control import Control
from fareclass.store.database import Store
from fareclass.store.entries import escalated_cost
from tests.store.made import entry
from tests.store.test_entries import write
from tests.wire.test_admin import made, refused

RULE = {"to": "priority", "for_s": 60, "after_throttles": 2, "usd_per_day": "5.50"}
CHAT = {"shape": "spiky-critical", "default_tier": "flex", "overflow": "priority", "escalation": RULE}


@pytest.fixture
async def admin(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    await made(admin, "/projects", {"name": "acme"})
    return admin


async def put(admin: httpx.AsyncClient, name: str = "chat", **fields: Any) -> dict[str, Any]:
    answer = await admin.put(f"/workloads/{name}", json=CHAT | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def new_key(admin: httpx.AsyncClient, control: Control, **fields: Any) -> Key:
    """As the data path sees it."""
    key = await made(admin, "/keys", {"project": "acme", "name": f"k{len(control.snapshot.keys)}", **fields})
    return control.snapshot.keys[key["id"]]


async def test_r41_workloads_are_kept_and_listed(admin: httpx.AsyncClient) -> None:
    chat = await put(admin)
    assert chat == {"name": "chat", **CHAT, "escalation": chat["escalation"]}
    assert chat["escalation"] == RULE | {"usd_per_day": "5.5", "slower_than_ms": None, "window_s": 300}
    bare = await put(admin, "batch jobs", shape="offline", overflow=None, escalation=None)
    assert (await admin.get("/workloads/chat")).json() == chat
    first = (await admin.get("/workloads", params={"limit": 1})).json()
    assert first["data"] == [bare]
    assert (await admin.get("/workloads", params={"after": first["next"]})).json() == {"data": [chat], "next": None}
    assert (await put(admin, default_tier="default"))["default_tier"] == "default"
    assert (await admin.delete("/workloads/batch jobs")).json() == bare
    refused(await admin.get("/workloads/batch jobs"), 404, "not_found", "workload")
    actions = [change["action"] for change in (await admin.get("/audit")).json()["data"]]
    assert actions[:4] == ["workload.delete", "workload.set", "workload.set", "workload.set"]


async def test_r41_a_key_takes_from_its_workload_what_it_has_not_of_its_own(
    admin: httpx.AsyncClient, control: Control
) -> None:
    await put(admin)
    key = await new_key(admin, control, workload="chat")
    rule = Escalation(to=Tier.PRIORITY, for_s=60, after_throttles=2, pico_per_day=5_500_000_000_000)
    assert (key.workload, key.default_tier, key.overflow, key.escalation) == ("chat", Tier.FLEX, Tier.PRIORITY, rule)
    assert (await admin.get(f"/keys/{key.id}")).json()["default_tier"] is None
    own = {"to": "priority", "for_s": 1, "slower_than_ms": 9, "window_s": 60}
    other = await new_key(admin, control, workload="chat", default_tier="default", escalation=own)
    assert (other.default_tier, other.escalation) == (
        Tier.DEFAULT,
        Escalation(to=Tier.PRIORITY, for_s=1, slower_than_ms=9, window_s=60),
    )
    await put(admin, default_tier="default", overflow="reject", escalation=None)
    changed = control.snapshot.keys[key.id]
    assert (changed.default_tier, changed.overflow, changed.escalation) == (Tier.DEFAULT, None, None)
    assert control.snapshot.keys[other.id].escalation == other.escalation
    plain = await new_key(admin, control)
    assert (plain.workload, plain.default_tier, plain.overflow, plain.escalation) == ("", Tier.DEFAULT, UNSET, None)


async def test_r41_a_key_changes_its_workload(admin: httpx.AsyncClient, control: Control) -> None:
    await put(admin)
    key = await new_key(admin, control, default_tier="priority")

    async def change(**fields: Any) -> tuple[str, Tier]:
        assert (await admin.patch(f"/keys/{key.id}", json=fields)).status_code == 200
        found = control.snapshot.keys[key.id]
        return found.workload, found.default_tier

    assert await change(workload="chat") == ("chat", Tier.FLEX)
    assert await change(default_tier="default") == ("chat", Tier.DEFAULT)
    assert await change(tags={"a": "b"}) == ("chat", Tier.DEFAULT), "what is not named stays"
    assert await change(default_tier=None) == ("chat", Tier.FLEX)
    assert await change(workload=None) == ("", Tier.DEFAULT)


async def test_r41_a_workload_in_use_stays(admin: httpx.AsyncClient, control: Control) -> None:
    await put(admin)
    key = await new_key(admin, control, workload="chat")
    assert key.id in refused(await admin.delete("/workloads/chat"), 409, "in_use", None)
    await admin.delete(f"/keys/{key.id}")
    assert (await admin.delete("/workloads/chat")).status_code == 200
    assert (await admin.get(f"/keys/{key.id}")).json()["workload"] == "chat", "a revoked key tells what it was for"


@pytest.mark.parametrize(
    ("change", "field", "word"),
    [
        ({"shape": "wavy"}, "shape", "spiky-critical"),
        ({"default_tier": "batch"}, "default_tier", "batch API"),
        ({"default_tier": "gold"}, "default_tier", "unknown tier"),
        ({"overflow": "batch"}, "overflow", "reject"),
        ({"escalation": {"to": "priority", "for_s": 1}}, "escalation", "after_throttles"),
        ({"escalation": RULE | {"to": "flex"}}, "escalation.to", "priority or default"),
        ({"escalation": RULE | {"to": "default"}, "default_tier": "default"}, "escalation.to", "priority"),
        ({"default_tier": "priority"}, "escalation.to", "there is none"),
        ({"escalation": RULE | {"for_s": 0}}, "escalation.for_s", "from 1 to"),
        ({"escalation": RULE | {"slower_than_ms": 10**12}}, "escalation.slower_than_ms", "from 1 to"),
        ({"escalation": RULE | {"usd_per_day": -1}}, "escalation.usd_per_day", "from 0 to"),
        ({"escalation": RULE | {"usd_per_day": "NaN"}}, "escalation.usd_per_day", "from 0 to"),
        ({"escalation": RULE | {"usd_per_day": "0.0000000000001"}}, "escalation.usd_per_day", "12 decimals"),
        ({"escalation": RULE | {"usd_per_day": "1e999999"}}, "escalation.usd_per_day", ""),
        ({"escalation": RULE | {"usd_per_day": "1e-999999"}}, "escalation.usd_per_day", "12 decimals"),
        ({"escalation": RULE | {"tp": 1}}, "escalation.tp", "unknown"),
    ],
)
async def test_r40_r41_what_can_not_be_is_refused(
    admin: httpx.AsyncClient, change: dict[str, Any], field: str, word: str
) -> None:
    assert word in refused(await admin.put("/workloads/chat", json=CHAT | change), 400, "invalid", field)
    assert (await admin.get("/workloads")).json()["data"] == []


async def test_r40_r41_terms_that_do_not_go_together(admin: httpx.AsyncClient, control: Control) -> None:
    """Neither a key nor a change of its workload may leave it with a tier that it does not allow."""
    body = {"project": "acme", "name": "k"}
    refused(await admin.post("/keys", json=body | {"workload": "nope"}), 404, "not_found", "workload")
    rule = RULE | {"to": "priority"}
    said = refused(
        await admin.post("/keys", json=body | {"allowed_tiers": ["default", "flex"], "escalation": rule}),
        400,
        "invalid",
        "escalation.to",
    )
    assert "allow it too" in said
    await put(admin)
    two = {"workload": "chat", "allowed_tiers": ["default", "priority"]}
    refused(await admin.post("/keys", json=body | two), 400, "invalid", "default_tier")
    only = await new_key(admin, control, workload="chat", allowed_tiers=["default"])
    assert only.default_tier is Tier.DEFAULT, "the only tier that it may use (R2)"
    held = await new_key(admin, control, workload="chat", allowed_tiers=["flex", "priority"])
    answer = await admin.put("/workloads/chat", json=CHAT | {"default_tier": "default"})
    assert held.name in refused(answer, 400, "invalid", "default_tier")


async def test_r41_usage_by_workload(admin: httpx.AsyncClient, store: Store) -> None:
    write(store, entry(workload="chat", cost_pico=1), entry(workload="chat", cost_pico=2), entry(cost_pico=4))
    rows = (await admin.get("/usage", params={"by": "workload"})).json()["data"]
    assert {row["workload"]: (row["requests"], row["cost"]) for row in rows} == {
        "chat": (2, "0.000000000003"),
        "": (1, "0.000000000004"),
    }


def test_r40_what_escalated_requests_cost_since_midnight(store: Store) -> None:
    """Exact beyond 64 bits, by key; what a restart reads."""
    largest = 2**63 - 1
    write(
        store,
        entry(escalated=True, cost_pico=largest, ended_us=100),
        entry(escalated=True, cost_pico=largest, ended_us=200),
        entry(escalated=True, cost_pico=3, ended_us=100, key="key_b"),
        entry(escalated=True, cost_pico=7, ended_us=99),
        entry(cost_pico=7, ended_us=100),
    )
    with store.read() as connection:
        assert escalated_cost(connection, 100) == {"key_a": 2 * largest, "key_b": 3}
