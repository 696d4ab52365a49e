"""Before the day begins: projects, keys, workloads, quotas, budgets and reservations, made as an operator makes them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import aiohttp
from msgspec import Struct

from fareclass.cli.demo import scenario
from fareclass.cli.demo.gateway import PRICE, Control, Gateway
from fareclass.cli.demo.scenario import AGENTS, BANK, CAST, CODE, LARGE, NIGHTLY, SMALL, TAX

SEASON_DAYS = 75
AGENTS_AT_ONCE = 40
"""Requests that the agents may have under way."""
_QUOTAS = (
    (AGENTS.project, LARGE, {"concurrency": AGENTS_AT_ONCE}),
    (CODE.project, LARGE, {"tpm": 600_000, "rpm": 600}),
    (CODE.project, SMALL, {"tpm": 200_000}),
    (BANK.project, LARGE, {"tpm": 500_000, "priority_share": 0.8}),
)
_BUDGETS = (
    (AGENTS.project, {"usd": "25", "per": "day"}),
    (BANK.project, {"usd": "2000", "per": "month"}),
)


class Stage(Struct, frozen=True, kw_only=True):
    """What was made: a key for each of the cast, in their order, and the tax product's reservation.

    `on_demand_usd`: an hour of the whole floor's tokens at tier default.
    """

    keys: tuple[str, ...]
    input_tpm: int
    output_tpm: int
    hourly_usd: Decimal
    on_demand_usd: Decimal
    ends: str


async def build(session: aiohttp.ClientSession, gateway: Gateway) -> Stage:
    """Make everything.

    Raises:
        DemoFailed: the gateway refuses.
    """
    control = Control(session, f"{gateway.url}/admin/v1", gateway.admin_key)
    for project in dict.fromkeys(actor.project for actor in CAST):
        await control.call("POST", "/projects", {"name": project})
    for actor in CAST:
        overflow = {"overflow": "priority"} if actor is TAX else {}
        tier = "default" if actor is TAX else actor.ask.tier
        if actor is not NIGHTLY:
            terms = {"shape": actor.shape, "default_tier": tier, **overflow}
            await control.call("PUT", f"/workloads/{actor.workload}", terms)
    keys = []
    for actor in CAST:
        terms = {} if actor is NIGHTLY else {"workload": actor.workload}
        body = {"project": actor.project, "name": actor.what, "tags": {"product": actor.project}, **terms}
        keys.append((await control.call("POST", "/keys", body))["secret"])
    for project, model, quota in _QUOTAS:
        await control.call("PUT", f"/quotas/{project}/{model}", quota)
    for project, budget in _BUDGETS:
        await control.call("PUT", f"/budgets/{project}", budget)
    return await _reserve(control, tuple(keys))


async def _reserve(control: Control, keys: tuple[str, ...]) -> Stage:
    """The tax season, from now on, and a smaller one of the bank that begins when it is over."""
    input_tpm, output_tpm = scenario.floor()
    ends = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=SEASON_DAYS)
    season = {"model": LARGE, "input_tpm": input_tpm, "output_tpm": output_tpm, "overflow": "priority"}
    made = await control.call("POST", "/reservations", {"project": TAX.project, **season, "ends_at": ends.isoformat()})
    later = {"model": LARGE, "input_tpm": input_tpm // 2, "output_tpm": output_tpm // 2}
    span = {"starts_at": ends.isoformat(), "ends_at": (ends + timedelta(days=30)).isoformat()}
    await control.call("POST", "/reservations", {"project": BANK.project, **later, **span})
    return Stage(
        keys=keys,
        input_tpm=input_tpm,
        output_tpm=output_tpm,
        hourly_usd=Decimal(made["hourly_usd"]),
        on_demand_usd=(input_tpm * PRICE["input"] + output_tpm * PRICE["output"]) * 60 / 1_000_000,
        ends=f"{ends:%d %B %Y}",
    )
