"""R26: budgets as operators make them, on both databases, and what was spent before them."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fareclass.core.snapshot import Budget
from fareclass.core.tiers import Tier
from fareclass.flow.control import Control
from fareclass.flow.spending import Spending
from fareclass.policy.budgets import Budgets
from fareclass.store.budgets import spent_before
from fareclass.store.database import Store
from tests.store.made import entry
from tests.store.test_entries import write
from tests.wire.test_admin import made, refused

USD = 10**12


async def put(admin: httpx.AsyncClient, path: str, usd: Any, per: str = "day") -> dict[str, Any]:
    answer = await admin.put(f"/budgets/{path}", json={"usd": usd, "per": per})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_r26_budgets_are_kept_listed_replaced_and_lifted(admin: httpx.AsyncClient, control: Control) -> None:
    acme = await made(admin, "/projects", {"name": "acme"})
    ci = await made(admin, "/keys", {"project": "acme", "name": "ci"})
    own = await put(admin, "acme", "12.50")
    assert {name: own[name] for name in ("project_name", "key", "usd", "per", "spent", "held", "left")} == {
        "project_name": "acme", "key": None, "usd": "12.5", "per": "day", "spent": "0", "held": "0", "left": "12.5"
    }  # fmt: skip
    assert own["renews_at"].endswith("T00:00:00Z")
    of_key = await put(admin, "acme/ci", 0.000000000001, "month")
    assert (of_key["key"], of_key["key_name"], of_key["usd"]) == (ci["id"], "ci", "0.000000000001")
    assert control.snapshot.project_budgets == {acme["id"]: Budget(pico=12_500_000_000_000, per="day")}
    assert control.snapshot.key_budgets == {ci["id"]: Budget(pico=1, per="month")}
    first = (await admin.get("/budgets", params={"limit": 1})).json()
    assert [each["usd"] for each in first["data"]] == ["12.5"]
    rest = (await admin.get("/budgets", params={"after": first["next"], "project": "acme"})).json()
    assert [each["key_name"] for each in rest["data"]] == ["ci"] and rest["next"] is None
    assert (await put(admin, "acme", "0", "month"))["left"] == "0"
    assert (await admin.delete("/budgets/acme")).json()["per"] == "month"
    assert control.snapshot.project_budgets == {} and control.snapshot.key_budgets
    refused(await admin.delete("/budgets/acme"), 404, "not_found", "project")
    refused(await admin.put("/budgets/acme/nobody", json={"usd": 1, "per": "day"}), 404, "not_found", "key")
    changes = [change["action"] for change in (await admin.get("/audit")).json()["data"]][:4]
    assert changes == ["budget.clear", "budget.set", "budget.set", "budget.set"]


async def test_r26_what_is_not_there_has_no_budget(admin: httpx.AsyncClient) -> None:
    refused(await admin.put("/budgets/nobody", json={"usd": 1, "per": "day"}), 404, "not_found", "project")
    refused(await admin.delete("/budgets/nobody/ci"), 404, "not_found", "project")


@pytest.mark.parametrize("share", ["-0.1", 1.001, "NaN", 0.0005, "1e-400"])
async def test_r25_what_is_no_share_is_refused(admin: httpx.AsyncClient, control: Control, share: Any) -> None:
    acme = await made(admin, "/projects", {"name": "acme"})
    answer = await admin.put("/quotas/acme/smollm2", json={"tpm": 999, "priority_share": 0.25})
    assert answer.json()["priority_share"] == "0.25"
    assert control.snapshot.quotas[acme["id"], "smollm2"].priority_tpm == 249
    answer = await admin.put("/quotas/acme/smollm2", json={"tpm": 999, "priority_share": share})
    refused(answer, 400, "invalid", "priority_share")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("usd", {"usd": -1, "per": "day"}),
        ("usd", {"usd": "0.0000000000001", "per": "day"}),
        ("usd", {"usd": "1e300", "per": "day"}),
        ("usd", {"usd": "NaN", "per": "day"}),
        ("usd", {"usd": 9_000_001, "per": "month"}),
        ("per", {"usd": 1, "per": "week"}),
        ("per", {"usd": 1}),
    ],
)
async def test_r26_what_is_no_budget_is_refused(admin: httpx.AsyncClient, field: str, body: dict[str, Any]) -> None:
    await made(admin, "/projects", {"name": "acme"})
    refused(await admin.put("/budgets/acme", json=body), 400, "invalid", field)


async def test_r26_a_key_s_budget_is_of_a_key_of_that_project(admin: httpx.AsyncClient) -> None:
    for name in ("acme", "other"):
        await made(admin, "/projects", {"name": name})
        await made(admin, "/keys", {"project": name, "name": "ci"})
    found = await put(admin, "other/ci", 1)
    assert found["project_name"] == "other", "names of keys are unique inside a project only"
    [foreign] = (await admin.get("/keys", params={"project": "acme"})).json()["data"]
    answer = await admin.put(f"/budgets/other/{foreign['id']}", json={"usd": 1, "per": "day"})
    refused(answer, 404, "not_found", "key")


async def test_r26_what_was_spent_before_the_start_is_there_when_a_budget_is_set(
    admin: httpx.AsyncClient, store: Store
) -> None:
    """The ledger of before it counts, once, for the project and the key."""
    acme = await made(admin, "/projects", {"name": "acme"})
    ci = await made(admin, "/keys", {"project": "acme", "name": "ci"})
    now = datetime.now(UTC)
    before = max(now - timedelta(minutes=1), now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    before_us = int(before.timestamp() * 1e6)  # of this month, whenever that begins
    write(store, entry(project=acme["id"], key=ci["id"], cost_pico=2 * USD, ended_us=before_us))
    write(store, entry(project=acme["id"], key="key_else", cost_pico=USD, ended_us=before_us))
    for _ in range(2):
        assert (await put(admin, "acme", 10, "month"))["spent"] == "3"
        assert (await put(admin, "acme/ci", 10, "month"))["spent"] == "2"


def test_r26_sums_are_exact_and_of_what_was_served_on_demand(store: Store) -> None:
    """The largest amounts that an entry holds, summed to the last 10⁻¹² USD; reservations' fees are no spending."""
    largest = 2**63 - 1
    for at, cost, tier in ((10, largest, Tier.DEFAULT), (20, largest, Tier.FLEX), (30, 7, Tier.PRIORITY)):
        write(store, entry(cost_pico=cost, served_tier=tier, ended_us=at))
    write(store, entry(cost_pico=5, served_tier=Tier.RESERVED, ended_us=20))
    write(store, entry(cost_pico=5, ended_us=40))
    write(store, entry(cost_pico=5, ended_us=20, project="proj_b"))
    write(store, entry(cost_pico=11, ended_us=20, key="key_b"))
    with store.read() as connection:
        found = spent_before(connection, 40, {"day": 20, "month": 10}, "proj_a")
        assert found == {
            "proj_a": {"day": largest + 18, "month": 2 * largest + 18},
            "key_a": {"day": largest + 7, "month": 2 * largest + 7},
            "key_b": {"day": 11, "month": 11},
        }
        assert spent_before(connection, 40, {"day": 20, "month": 10}, "proj_none") == {}
        assert spent_before(connection, 40, {"day": 20, "month": 10}) == {}, "nobody has a budget"


async def test_r26_a_start_reads_the_ledger_once_for_all_budgets(
    admin: httpx.AsyncClient, control: Control, store: Store
) -> None:
    """Ten budgets, one sum over the ledger, and each finds what is its own."""
    now_us = time.time_ns() // 1000
    for number in range(5):
        name = f"p{number}"
        owner, key = (
            await made(admin, "/projects", {"name": name}),
            await made(admin, "/keys", {"project": name, "name": "ci"}),
        )
        await put(admin, name, 10, "month")
        await put(admin, f"{name}/ci", 10, "month")
        write(store, entry(project=owner["id"], key=key["id"], cost_pico=(number + 1) * USD, ended_us=now_us))
        write(store, entry(project=owner["id"], key="key_else", cost_pico=USD, ended_us=now_us))
    sums: list[str] = []
    engine = store._engine
    sa.event.listen(engine, "before_cursor_execute", lambda *call: sums.append(call[2]))
    spending = Spending(control, Budgets(now_us + 1))
    assert len([text for text in sums if "FROM ledger" in text]) == 1
    spent = [view.spent for view in spending.page(project=None, after=("", ""), limit=100)]
    assert spent == [amount for number in range(5) for amount in (str(number + 2), str(number + 1))]
