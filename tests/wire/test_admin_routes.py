"""R45: routes as operators make them, on both databases, by the control plane and the command line."""

import json
from typing import Any

import httpx
import pytest
import typer

from fareclass.core.snapshot import Route, RouteModel, RouteRule
from fareclass.core.tiers import Tier
from fareclass.flow.control import Control
from fareclass.flow.routes import Routes
from fareclass.store import routes
from fareclass.store.database import Store
from tests.store.made import entry
from tests.store.test_entries import write
from tests.wire.admin_plane import MODELS
from tests.wire.test_admin import refused
from tests.wire.test_admin_cli import refusal, run

SMALL, LARGE = MODELS
BOTH = [{"model": SMALL, "quality": 0.5}, {"model": LARGE, "quality": 0.9}]
SMART = {
    "models": BOTH,
    "order_by": "cost",
    "limits": {"quality_min": 0.7, "usd_per_1m_max": "2.50", "ttft_p95_ms_max": 2000, "tokens_per_s_min": 20},
    "by_tier": {"fast": {"order_by": "latency"}},
    "by_workload": {"chat": {"order_by": "quality", "limits": {"ttft_p95_ms_max": 500}}},
}


@pytest.fixture
async def admin(admin: httpx.AsyncClient) -> httpx.AsyncClient:
    await admin.put("/workloads/chat", json={"shape": "steady", "default_tier": "default"})
    return admin


async def put(admin: httpx.AsyncClient, name: str = "smart", **fields: Any) -> dict[str, Any]:
    answer = await admin.put(f"/routes/{name}", json=SMART | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_r45_routes_are_kept_listed_and_audited(admin: httpx.AsyncClient) -> None:
    smart = await put(admin)
    assert smart == SMART | {
        "name": "smart",
        "limits": SMART["limits"] | {"usd_per_1m_max": "2.5"},
        "by_tier": {"priority": {"order_by": "latency", "limits": {}}},
        "unknown": [],
        "created": smart["created"],
    }
    plain = await put(admin, "a-plain.one", models=[{"model": SMALL}], order_by="latency", limits={}, by_workload={})
    assert (plain["models"], plain["limits"]) == ([{"model": SMALL}], {})
    first = (await admin.get("/routes", params={"limit": 1})).json()
    assert first["data"] == [plain]
    assert (await admin.get("/routes", params={"after": first["next"]})).json() == {"data": [smart], "next": None}
    again = await put(admin, order_by="quality")
    assert (again["order_by"], again["created"]) == ("quality", smart["created"])
    assert (await admin.get("/routes/smart")).json() == again
    assert (await admin.delete("/routes/a-plain.one")).json() == plain
    refused(await admin.get("/routes/a-plain.one"), 404, "not_found", "route")
    refused(await admin.delete("/routes/a-plain.one"), 404, "not_found", "route")
    changes = (await admin.get("/audit")).json()["data"][:4]
    assert [change["action"] for change in changes] == ["route.delete", *["route.set"] * 3]
    assert (changes[1]["before"], changes[1]["after"]) == (smart, again)


async def test_r45_a_route_is_in_force_at_once(admin: httpx.AsyncClient, control: Control) -> None:
    await put(admin)
    route = control.snapshot.routes["smart"]
    assert route == Route(
        name="smart",
        created=route.created,
        models=(RouteModel(model=SMALL, quality=0.5), RouteModel(model=LARGE, quality=0.9)),
        rule=RouteRule(
            order_by="cost",
            quality_min=0.7,
            pico_per_1m_max=2_500_000_000_000,
            ttft_p95_ms_max=2000,
            tokens_per_s_min=20,
        ),
        by_tier={Tier.PRIORITY: RouteRule(order_by="latency")},
        by_workload={"chat": RouteRule(order_by="quality", ttft_p95_ms_max=500)},
    )
    await admin.delete("/routes/smart")
    assert control.snapshot.routes == {}


async def test_r45_what_the_configuration_has_no_more_is_skipped_and_told(
    admin: httpx.AsyncClient, control: Control, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """At the next start; so is a route whose name is a model's by then."""
    await put(admin)
    with store.write() as connection:
        row = {"models": [{"model": "gone"}, {"model": SMALL}], "order_by": "cost"}
        routes.put_route(connection, "older", row, 0)
        routes.put_route(connection, SMALL, row, 0)
    Routes(control).tell_gaps()
    told = [(each.message, each.__dict__["route"], each.__dict__.get("models")) for each in caplog.records]
    assert told == [
        ("a route skips models that are not configured", "older", "gone"),
        ("a model of the same name hides a route", SMALL, None),
    ]
    assert (await admin.get("/routes/older")).json()["unknown"] == ["gone"]
    await put(admin)  # compiles
    assert control.snapshot.routes["older"].models == (RouteModel(model=SMALL),)


WRONG = (
    ({"models": []}, 400, "models", "at least 1"),
    ({"models": [{"model": "nope", "quality": 1}]}, 404, "models[0].model", "meta-llama"),
    ({"models": [*BOTH, BOTH[0]]}, 400, "models[2].model", "twice"),
    ({"models": [{"model": SMALL, "quality": 1.5}]}, 400, "models[0].quality", "0 to 1"),
    ({"models": [{"model": SMALL, "qualty": 1}]}, 400, "models[0].qualty", "unknown"),
    ({"models": [BOTH[1], {"model": SMALL}]}, 400, "models[1].quality", "limits.quality_min"),
    ({"models": [{"model": SMALL}], "limits": {}, "by_workload": {}, "order_by": "quality"}, 400,
     "models[0].quality", "order_by"),
    ({"order_by": "luck"}, 400, "order_by", "latency"),
    ({"limits": {"quality_min": 0.95}}, 400, "limits.quality_min", "that good"),
    ({"limits": {"quality_min": -1}}, 400, "limits.quality_min", "0 to 1"),
    ({"limits": {"ttft_p95_ms_max": 0}}, 400, "limits.ttft_p95_ms_max", "from 1"),
    ({"limits": {"tokens_per_s_min": 0}}, 400, "limits.tokens_per_s_min", "more than 0"),
    ({"limits": {"usd_per_1m_max": "NaN"}}, 400, "limits.usd_per_1m_max", "from 0"),
    ({"limits": {"usd_per_1m_max": "1e-13"}}, 400, "limits.usd_per_1m_max", "12 decimals"),
    ({"limits": {"usd_per_1m_max": "1e999999"}}, 400, "limits.usd_per_1m_max", ""),
    ({"by_tier": {"gold": {"order_by": "cost"}}}, 400, "by_tier.gold", "unknown tier"),
    ({"by_tier": {"flex": {"order_by": "luck"}}}, 400, "by_tier.flex.order_by", "luck"),
    ({"by_workload": {"nope": {"order_by": "cost"}}}, 404, "by_workload.nope", "no workload"),
    ({"by_workload": {"chat": {"order_by": "cost", "limits": {"quality_min": 2}}}}, 400,
     "by_workload.chat.limits.quality_min", "0 to 1"),
)  # fmt: skip


async def test_r45_what_can_not_be_is_refused(admin: httpx.AsyncClient) -> None:
    for change, status, field, word in WRONG:
        code = "not_found" if status == 404 else "invalid"
        assert word in refused(await admin.put("/routes/smart", json=SMART | change), status, code, field)
    assert (await admin.get("/routes")).json()["data"] == []


async def test_r45_a_route_has_a_name_of_its_own(admin: httpx.AsyncClient) -> None:
    assert "model" in refused(await admin.put(f"/routes/{SMALL}", json=SMART), 409, "already_exists", "route")
    for name in ("-x", "a b", "ä", "x" * 129):
        refused(await admin.put(f"/routes/{name}", json=SMART), 400, "invalid", "route")


async def test_r45_usage_by_route(admin: httpx.AsyncClient, store: Store) -> None:
    write(
        store,
        entry(route="smart", model=SMALL, cost_pico=1),
        entry(route="smart", model=LARGE, cost_pico=2),
        entry(model=LARGE, cost_pico=4),
    )
    rows = (await admin.get("/usage", params={"by": "route,model"})).json()["data"]
    assert {(row["route"], row["model"]): row["cost"] for row in rows} == {
        ("smart", SMALL): "0.000000000001",
        ("smart", LARGE): "0.000000000002",
        ("", LARGE): "0.000000000004",
    }
    rows = (await admin.get("/usage", params={"by": "route"})).json()["data"]
    assert {row["route"]: row["requests"] for row in rows} == {"smart": 2, "": 1}


def test_r45_routes_by_command(program: typer.Typer, url: str) -> None:
    run(program, url, "workload", "set", "chat", "--shape", "steady", "--tier", "default")
    made = ("--model", f"{SMALL}=0.5", "--model", f"{LARGE}=0.9", "--order", "cost", "--limit", "quality_min=0.7")
    more = ("--limit", "usd_per_1m_max=2.5", "--limit", "ttft_p95_ms_max=2000")
    rules = ("--tier", "flex:order=cost,quality_min=0.5", "--workload", "chat:order=latency")
    shown = run(program, url, "route", "set", "smart", *made, *more, *rules)
    assert f"{SMALL}=0.5, {LARGE}=0.9" in shown
    assert "flex:order=cost,quality_min=0.5" in shown and "chat:order=latency" in shown
    assert run(program, url, "route", "show", "smart") == shown
    [route] = json.loads(run(program, url, "route", "list", "--json"))
    assert route["models"] == BOTH
    assert route["limits"] == {"quality_min": 0.7, "usd_per_1m_max": "2.5", "ttft_p95_ms_max": 2000}
    assert route["by_tier"] == {"flex": {"order_by": "cost", "limits": {"quality_min": 0.5}}}
    assert run(program, url, "route", "list").splitlines()[0].split()[:3] == ["NAME", "MODELS", "ORDER"]
    assert refusal(program, url, "route", "set", "smart", *made, "--limit", "quality_min=x").startswith(
        "--limit quality_min"
    )
    assert refusal(program, url, "route", "set", "smart", "--model", SMALL, "--order", "luck").startswith("--order")
    assert "order=cost" in refusal(program, url, "route", "set", "smart", *made, "--tier", "flex:cost")
    assert refusal(program, url, "route", "set", SMALL, *made).startswith("a model is named")
    run(program, url, "route", "delete", "smart")
    assert run(program, url, "route", "list").strip() == "none"
