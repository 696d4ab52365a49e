"""What users of other gateways suffer from prices and bills, each as a test that it can't happen here (R4, R5, R32 to R36).

All of it is counted in 10⁻¹² USD and compared exactly. Spending beyond a budget is in `test_pains_limits`, prices of
cached tokens in `test_pains_cache`; a mixed run with pauses, failovers and hang-ups is in `test_ledger`.
"""

import asyncio
import json
from decimal import Decimal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.gateway import FACTORS, INPUT_PICO, MODEL, OUTPUT_PICO, PRICE, behind, chat, cost
from tests.e2e.test_pains_limits import budget, exceeded, give, tokens
from tests.e2e.test_reservations import reserve, sellable
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, tell

TIERS = ("priority", "default", "flex")
ESCALATION = {"to": "priority", "for_s": 3600, "after_throttles": 1}


@pytest.fixture
async def gateway(upstream, launch):
    return await launch(sellable(upstream.url))


async def row_of(gateway, answer):
    """The ledger's entry of this answer."""
    wanted = answer.headers["x-request-id"]
    [row] = [row for row in await gateway.recorded(1) if row["id"] == wanted]
    return row


def told(answer):
    """The tiers that a whole answer or a stream shows."""
    if answer.headers["content-type"].startswith("application/json"):
        return {answer.json()["service_tier"]}
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return {json.loads(event)["service_tier"] for event in events}


async def billed(gateway, served, **fields):
    """Ask; what the caller is told and what the ledger bills must be this tier."""
    answer = await gateway.ask(**fields)
    row = await row_of(gateway, answer)
    assert told(answer) == {served} == {answer.headers["x-fareclass-served-tier"], row["served_tier"]}
    assert row["cost_pico"] == cost(served, PROMPT_TOKENS, row["output"])
    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_pain_asked_priority_served_default_billed_priority(gateway, stream):
    """BerriAI/litellm#31837: asked priority, served default, billed priority.

    R5: wherever the two differ (spilled, `auto`, raised by a rule), what is told is what is served and what is billed.
    """
    await reserve(gateway, output_tpm=1, overflow="default")
    asked = {"service_tier": "reserved", "stream": stream}
    first = await gateway.ask(**asked)
    assert told(first) == {"reserved"} and (await row_of(gateway, first))["cost_pico"] == 0
    spilled = await billed(gateway, "default", **asked)
    assert spilled.headers["x-fareclass-requested-tier"] == "reserved"
    await billed(gateway, "default", service_tier="auto", stream=stream)
    gateway.http = gateway.caller((await gateway.new_key(escalation=ESCALATION))["secret"])
    await gateway.limit(rpm=0)
    assert (await gateway.ask(service_tier="flex")).status_code == 429
    await gateway.limit()
    raised = await billed(gateway, "priority", service_tier="flex", stream=stream)
    assert raised.headers["x-fareclass-requested-tier"] == "flex"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("claims", ["priority", "flex", "default", None])
async def test_pain_priority_is_billed_at_default(upstream, gateway, stream, claims):
    """BerriAI/litellm#37046: priority billed at the default price, as the tier was read out of the provider's answer.

    R4, R33: 1.75 times, whatever the engine writes there.
    """

    async def claim(turn):
        if claims is not None:
            turn._envelope = lambda choices, real=turn._envelope, **more: real(choices, service_tier=claims, **more)
        await tell(turn)

    upstream.play = claim
    answer = await billed(gateway, "priority", service_tier="priority", stream=stream)
    assert 4 * (await row_of(gateway, answer))["cost_pico"] == 7 * (PROMPT_TOKENS * INPUT_PICO + 4 * OUTPUT_PICO)


@pytest.mark.parametrize("stream", [False, True])
async def test_pain_flex_is_billed_double(gateway, stream):
    """BerriAI/litellm#13810, #37724: flex billed at twice its price. R33: half of default's, once, by every name."""
    for fields in ({"service_tier": "flex"}, {}):
        if not fields:
            gateway.http = gateway.caller((await gateway.new_key(default_tier="flex"))["secret"])
        answer = await billed(gateway, "flex", stream=stream, **fields)
        assert 2 * (await row_of(gateway, answer))["cost_pico"] == PROMPT_TOKENS * INPUT_PICO + 4 * OUTPUT_PICO


async def test_pain_the_bill_is_less_than_what_was_used(gateway):
    """BerriAI/litellm#38802 (1.5 times under), langfuse/langfuse#13780 (2 times under): tiers lost on the way to the sum.

    R36: of all tiers at once, streamed or not, the report is the sum of what callers were told times their tiers' price.
    """
    asked = [(tier, stream, size) for tier in TIERS for stream in (False, True) for size in (1, 7, 30)]
    answers = await asyncio.gather(
        *(gateway.ask(service_tier=tier, stream=stream, max_tokens=size) for tier, stream, size in asked)
    )
    assert [answer.status_code for answer in answers] == [200] * len(asked)
    await gateway.recorded(len(asked))
    expected = {
        tier: sum(cost(tier, PROMPT_TOKENS, size) for other, _, size in asked if other == tier) for tier in TIERS
    }
    for by in (None, "key", "model"):
        report = (await gateway.admin.get("/usage", params={"by": by} if by else {})).json()["data"]
        assert {row["served_tier"]: round(float(row["cost"]) * 10**12) for row in report} == expected


async def test_pain_the_tier_that_was_paid_for_is_invisible(gateway):
    """BerriAI/litellm#30558: priority could be seen nowhere.

    R4, R5, R36, R42: in the body or each event, in the headers, in the ledger, in the report and in the metrics.
    """
    for stream in (False, True):
        assert told(await billed(gateway, "priority", service_tier="priority", stream=stream)) == {"priority"}
    [line] = (await gateway.admin.get("/usage")).json()["data"]
    assert (line["requested_tier"], line["served_tier"], line["requests"]) == ("priority", "priority", 2)
    page = (await gateway.http.get(f"{gateway.url}/metrics")).text
    [sample] = [
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "fareclass_requests_total" and sample.value
    ]
    assert (sample.labels["service_tier"], sample.labels["resolved_service_tier"]) == ("priority", "priority")
    assert sample.value == 2


async def test_pain_a_price_is_guessed(upstream, launch):
    """archestra-ai/archestra#6906: a self-hosted model was priced at 50 USD per million by a guess.

    R33: no price is known but the operator's. One that was not set is zero and book 0, whatever the model is called;
    and from the moment that one is set, that is it, exactly.
    """
    settings = behind(upstream.url)
    settings["models"] = {"gpt-4o": {"replicas": settings["models"][MODEL]["replicas"]}}
    gateway = await launch(settings)
    free = await row_of(gateway, await gateway.ask(model="gpt-4o", service_tier="priority"))
    assert (free["cost_pico"], free["book_version"]) == (0, 0)
    price = {**PRICE, "tiers": {"priority": "3"}}
    (await gateway.admin.put("/prices/gpt-4o", json=price)).raise_for_status()
    paid = await row_of(gateway, await gateway.ask(model="gpt-4o", service_tier="priority"))
    assert paid["cost_pico"] == 3 * cost("default", PROMPT_TOKENS, 4) and paid["book_version"] == 1
    assert (await row_of(gateway, await gateway.ask(model="gpt-4o")))["cost_pico"] == cost("default", PROMPT_TOKENS, 4)


async def test_pain_own_hardware_costs_nothing_however_idle_it_is(gateway):
    """Vigil-SOC/vigil#990, BerriAI/litellm#2895: own GPUs priced at zero, though idle ones are the dearest of all.

    R18, R33: what is kept for a project costs by the hour, used or not: 1,000 tokens a minute of input and 500 of output
    at 0.021 and 0.084 USD per 1,000; and tokens on demand have their price beside it.
    """
    made = await reserve(gateway, output_tpm=500)
    assert Decimal(made["hourly_usd"]) == Decimal("0.063")
    inside = await row_of(gateway, await gateway.ask(service_tier="reserved"))
    beside = await row_of(gateway, await gateway.ask())
    assert (inside["cost_pico"], beside["cost_pico"]) == (0, cost("default", PROMPT_TOKENS, 4))
    kept = (await gateway.admin.get(f"/reservations/{made['id']}")).json()
    assert kept["hourly_usd"] == made["hourly_usd"], "use changes nothing of it"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/embeddings", {"input": QUESTION}),
        ("/completions", {"prompt": QUESTION, "max_tokens": 1}),
        ("/chat/completions", chat(max_tokens=1)),
    ],
)
async def test_pain_some_addresses_get_round_a_budget(upstream, gateway, path, asked):
    """maximhq/bifrost#2873: what was passed through dodged budgets. BerriAI/litellm#23714: a spent one went on serving.

    R26: whatever the address, what it costs is on the budget, and a budget that is spent refuses it.
    """

    async def counted(turn):
        await turn.answer({"data": [], "choices": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}})

    upstream.play = counted
    await give(gateway, tokens(1, prompt=40), "default/first")
    body = {"model": MODEL, **asked}
    assert (await gateway.http.post(path, json=body)).status_code == 200
    assert (await budget(gateway))["spent"] == tokens(0, prompt=7) == (await gateway.recorded(1))[0]["cost_pico"]
    await give(gateway, 1, "default/first")
    exceeded(await gateway.http.post(path, json=body))


async def test_pain_nobody_can_tell_what_a_service_level_costs(gateway):
    """vllm-project/aibrix#755: "How to map the SLO to token pricing?"

    R33: each tier has its multiplier in a price book that says so, and a request pays just that.
    """
    tiers = {"priority": "2.5", "default": "1", "flex": "0.25"}
    (await gateway.admin.put(f"/prices/{MODEL}", json={**PRICE, "tiers": tiers})).raise_for_status()
    book = (await gateway.admin.get(f"/prices/{MODEL}")).json()["data"][0]
    assert {tier: float(book["tiers"][tier]) for tier in FACTORS} == {tier: float(tiers[tier]) for tier in FACTORS}
    for tier, factor in tiers.items():
        row = await row_of(gateway, await gateway.ask(service_tier=tier))
        assert row["cost_pico"] == float(factor) * cost("default", PROMPT_TOKENS, 4)


async def test_pain_a_failed_request_is_billed_or_an_answered_one_is_not(upstream, gateway):
    """The same bills from their ends: R6, R35: an engine that dies costs nothing, and each answer has one entry."""

    async def die(turn):
        await turn.die()

    upstream.play = die
    assert (await gateway.ask(service_tier="priority")).status_code == 502
    upstream.play = tell
    answers = await asyncio.gather(*(gateway.http.post("/chat/completions", json=chat()) for _ in range(8)))
    rows = await gateway.recorded(9)
    served = {answer.headers["x-request-id"] for answer in answers if answer.status_code == 200}
    assert {row["id"] for row in rows if row["cost_pico"]} == served
