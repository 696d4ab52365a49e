"""R40, R41: a key's rules at work in a whole gateway, as the SDK and the ledger see them."""

import asyncio

import openai
import pytest

from tests.e2e.gateway import Gateway, behind, chat, cost
from tests.e2e.upstream import PROMPT_TOKENS, tell, tell_in_two
from tests.engine.conftest import eventually

OFTEN = {"to": "priority", "for_s": 3600, "after_throttles": 2}
SLOW = {"to": "priority", "for_s": 3600, "slower_than_ms": 5}


async def with_rule(gateway: Gateway, rule: dict, **fields) -> openai.AsyncOpenAI:
    """The SDK with a key that has this rule."""
    gateway.key = (await gateway.new_key(escalation=rule, **fields))["secret"]
    return gateway.sdk()


async def ask(sdk: openai.AsyncOpenAI, **fields):
    """An answer, read to its end, and the headers that came with it."""
    raw = await sdk.chat.completions.with_raw_response.create(**chat(**fields))
    answer = raw.parse()
    if fields.get("stream"):
        answer = [one async for one in answer][-1]
    return answer, raw.headers


async def throttle(gateway: Gateway, sdk: openai.AsyncOpenAI, times: int, **fields) -> None:
    await gateway.limit(rpm=0)
    for _ in range(times):
        with pytest.raises(openai.RateLimitError):
            await ask(sdk, **fields)
    await gateway.limit()


@pytest.mark.parametrize("stream", [False, True])
async def test_r40_after_two_throttles_the_next_requests_are_priority(gateway, stream):
    """Ordered, labelled and billed as that, with the tier that was asked for beside it."""
    sdk = await with_rule(gateway, OFTEN)
    await throttle(gateway, sdk, 1, stream=stream)
    answer, headers = await ask(sdk, stream=stream, service_tier="flex")
    assert "x-fareclass-escalated" not in headers
    await throttle(gateway, sdk, 2, stream=stream)
    answer, headers = await ask(sdk, stream=stream, service_tier="flex")
    assert answer.service_tier == "priority"
    told = [headers[f"x-fareclass-{name}"] for name in ("requested-tier", "served-tier", "escalated")]
    assert told == ["flex", "priority", "throttled"]
    row = next(row for row in await gateway.recorded(5) if row["id"] == headers["x-request-id"])
    assert (row["requested_tier"], row["served_tier"], row["escalated"]) == ("flex", "priority", True)
    assert row["cost_pico"] == cost("priority", PROMPT_TOKENS, row["output"])
    assert [row["escalated"] for row in gateway.rows()].count(True) == 1


async def test_r40_no_capacity_counts_as_a_throttle_too(launch, upstream):
    """The only slot is taken, and flex waits its limit out, twice."""
    gateway = await launch(behind(upstream.url, slots=1, tiers={"flex": {"max_wait_s": 0.1}}))
    sdk = await with_rule(gateway, OFTEN)
    go_on = asyncio.Event()
    upstream.play = tell_in_two(1, go_on)
    busy = asyncio.create_task(ask(sdk, service_tier="priority", stream=True))
    await upstream.next()
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(sdk, service_tier="flex")
        assert caught.value.code == "resource_unavailable"
    go_on.set()
    await busy
    upstream.play = tell
    assert (await ask(sdk, service_tier="flex"))[0].service_tier == "priority"


@pytest.mark.parametrize("stream", [False, True])
async def test_r40_slow_answers_raise_the_next_ones(launch, upstream, stream):
    """A stream is as slow as its first token, any other answer as its whole."""

    async def slowly(turn):
        await asyncio.sleep(0.02)
        await tell(turn)

    upstream.play = slowly
    gateway = await launch(behind(upstream.url))
    sdk = await with_rule(gateway, SLOW)
    reasons = [(await ask(sdk, stream=stream))[1].get("x-fareclass-escalated") for _ in range(6)]
    assert reasons == [None] * 5 + ["slow"]


async def test_r40_a_better_tier_by_name_is_left_alone(gateway):
    sdk = await with_rule(gateway, OFTEN | {"to": "default"}, default_tier="flex")
    await throttle(gateway, sdk, 2)
    served = [(await ask(sdk, service_tier=tier))[0].service_tier for tier in ("priority", "default", "flex", None)]
    assert served == ["priority", "default", "default", "default"]


async def test_r40_at_most_so_much_a_day_at_any_concurrency(gateway):
    """64 at once, each of at most 22 tokens: no more are raised than the cap pays for."""
    sdk = await with_rule(gateway, OFTEN | {"usd_per_day": "0.00005"})
    await throttle(gateway, sdk, 2)
    answers = await asyncio.gather(*(ask(sdk, max_tokens=4) for _ in range(64)))
    raised = [answer for answer, headers in answers if "x-fareclass-escalated" in headers]
    rows = await gateway.recorded(66)
    assert 1 <= len(raised) < 64
    assert sum(row["cost_pico"] for row in rows if row["escalated"]) <= 50_000_000
    assert {answer.service_tier for answer, _ in answers} == {"default", "priority"}


async def test_r40_the_days_cap_survives_a_restart(start, upstream):
    process = await start(behind(upstream.url))
    gateway = process.gateway()
    rule = OFTEN | {"after_throttles": 1, "usd_per_day": "0.000008"}
    sdk = await with_rule(gateway, rule)
    await throttle(gateway, sdk, 1)
    assert (await ask(sdk))[0].service_tier == "priority"
    assert (await ask(sdk))[0].service_tier == "default", "there is no room for a second"
    key = gateway.key
    await gateway.close()
    process.close()
    again = (await start()).gateway()
    again.key = key
    sdk = again.sdk()
    await throttle(again, sdk, 1)
    assert (await ask(sdk))[0].service_tier == "default"
    await again.close()


async def test_r41_a_workload_gives_its_keys_their_terms_and_is_in_the_report(launch, upstream, database):
    gateway = await launch(behind(upstream.url, **database))
    workload = {"shape": "spiky-tolerant", "default_tier": "flex", "escalation": OFTEN | {"to": "default"}}
    (await gateway.admin.put("/workloads/night", json=workload)).raise_for_status()
    gateway.key = (await gateway.new_key(workload="night"))["secret"]
    sdk = gateway.sdk()
    assert (await ask(sdk))[0].service_tier == "flex"
    await throttle(gateway, sdk, 2)
    assert (await ask(sdk))[0].service_tier == "default"

    async def reported() -> bool:
        rows = (await gateway.admin.get("/usage", params={"by": "workload"})).json()["data"]
        found = {(row["workload"], row["requested_tier"], row["served_tier"]): row["requests"] for row in rows}
        return found == {("night", "flex", "flex"): 3, ("night", "flex", "default"): 1}

    await eventually(reported)


async def test_r40_where_the_budget_has_only_the_tier_that_was_asked_for_it_is_that(gateway):
    """Near the end of a budget (R26): served, labelled and billed as asked, and the rule's own cap is untouched."""
    sdk = await with_rule(gateway, OFTEN | {"usd_per_day": "0.00015"})
    await throttle(gateway, sdk, 2)
    (await gateway.admin.put("/budgets/default", json={"usd": "0.00006", "per": "day"})).raise_for_status()
    answer, headers = await ask(sdk, max_tokens=100)
    assert answer.service_tier == "default"
    told = [headers.get(f"x-fareclass-{name}") for name in ("requested-tier", "served-tier", "escalated")]
    assert told == ["default", "default", None]
    row = (await gateway.recorded(3))[-1]
    assert (row["served_tier"], row["escalated"]) == ("default", False)
    assert row["cost_pico"] == cost("default", PROMPT_TOKENS, row["output"])
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(sdk, max_tokens=100)
    assert caught.value.code == "budget_exceeded", "there is no room for either"
    (await gateway.admin.delete("/budgets/default")).raise_for_status()
    assert (await ask(sdk, max_tokens=100))[1]["x-fareclass-escalated"] == "throttled"
