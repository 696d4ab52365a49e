"""R45: one name over several models, in whole gateways and through unmodified SDKs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.gateway import Gateway, chat, cost
from tests.e2e.test_bedrock import client as bedrock_client
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, Turn, Upstream, serving, tell, tell_in_two
from tests.engine.conftest import eventually

CHEAP = {"input": "0.1", "output": "0.4"}
DEAR = {"input": "1", "output": "4"}
SMART = {"models": [{"model": "small", "quality": 0.5}, {"model": "large", "quality": 0.9}], "order_by": "cost"}
GOOD = SMART | {"limits": {"quality_min": 0.7}}


class Two:
    """A gateway with a cheap and a dear model, each before an upstream of its own, and the route `smart` over both."""

    def __init__(self, gateway: Gateway, small: Upstream, large: Upstream) -> None:
        self.gateway, self.small, self.large = gateway, small, large
        gateway_ask = gateway.ask
        self.ask = lambda **fields: gateway_ask(**({"model": "smart"} | fields))

    async def route(self, name: str = "smart", **fields: Any) -> None:
        (await self.gateway.admin.put(f"/routes/{name}", json=SMART | fields)).raise_for_status()

    async def served(self, **fields: Any) -> str:
        """The model that serves a request."""
        answer = await self.ask(**fields)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == answer.headers["x-fareclass-model"]
        return answer.headers["x-fareclass-model"]

    async def row(self, answer: httpx.Response) -> dict[str, Any]:
        asked = answer.headers["x-request-id"]
        await eventually(lambda: any(row["id"] == asked for row in self.gateway.rows()))
        return next(row for row in self.gateway.rows() if row["id"] == asked)


def settings(small: str, large: str, slots: int = 2, **more: Any) -> dict[str, Any]:
    models = {
        "small": {"replicas": [{"url": small, "slots": slots}], "price": CHEAP, "context_tokens": 300},
        "large": {"replicas": [{"url": large, "slots": slots}], "price": DEAR},
    }
    return {"models": models, "tiers": {"default": {"max_wait_s": 5}, "flex": {"max_wait_s": 0.2}}, **more}


@pytest.fixture
async def two(launch) -> AsyncIterator[Two]:
    async with serving(Upstream(continues=True)) as small, serving(Upstream(continues=True)) as large:
        two = Two(await launch(settings(small.url, large.url)), small, large)
        await two.route()
        yield two


# Who serves, and what is told of it


async def test_r45_the_answer_names_the_model_in_each_api(two):
    """OpenAI's SDK: chat, streamed or not, and Responses; Anthropic's; boto3. The ledger has model and route."""
    sdk = two.gateway.sdk()
    raw = await sdk.chat.completions.with_raw_response.create(**chat(model="smart"))
    assert raw.parse().model == raw.headers["x-fareclass-model"] == "small"
    assert raw.headers["x-fareclass-route"] == "smart"
    chunks = [chunk async for chunk in await sdk.chat.completions.create(**chat(model="smart"), stream=True)]
    assert {chunk.model for chunk in chunks} == {"small"}
    made = await sdk.responses.create(model="smart", input=QUESTION, max_output_tokens=20)
    assert made.model == "small"
    following = await sdk.responses.create(
        model="smart", input=QUESTION, max_output_tokens=20, previous_response_id=made.id
    )
    assert following.model == "small"
    async with anthropic.AsyncAnthropic(base_url=two.gateway.url, api_key=two.gateway.key, max_retries=0) as claude:
        asked = {"model": "smart", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
        assert (await claude.messages.create(**asked)).model == "small"
        async with claude.messages.stream(**asked) as stream:
            assert (await stream.get_final_message()).model == "small"
        assert (await claude.messages.count_tokens(model="smart", messages=asked["messages"])).input_tokens > 0
        listed = [model.id async for model in await claude.models.list()]
    bedrock = bedrock_client(two.gateway)
    told = await asyncio.to_thread(
        bedrock.converse, modelId="smart", messages=[{"role": "user", "content": [{"text": QUESTION}]}]
    )
    assert told["ResponseMetadata"]["HTTPHeaders"]["x-fareclass-model"] == "small"
    assert listed == [model.id async for model in await sdk.models.list()] == ["small", "large", "smart"]
    assert (await sdk.models.retrieve("smart")).id == "smart"
    rows = await two.gateway.recorded(7)
    assert {(row["model"], row["route"]) for row in rows} == {("small", "smart")}
    assert (await two.gateway.ask(model="small")).headers.get("x-fareclass-route") is None


async def test_r45_it_is_billed_by_the_book_of_the_model_that_served(two):
    await two.route("good", **GOOD)
    for name, model, times in (("smart", "small", 1), ("good", "large", 10)):
        answer = await two.ask(model=name, service_tier="priority")
        row = await two.row(answer)
        assert (row["model"], row["route"]) == (model, name)
        assert row["cost_pico"] == times * cost("priority", PROMPT_TOKENS, 4)
    usage = (await two.gateway.admin.get("/usage", params={"by": "route"})).json()["data"]
    assert {row["route"] for row in usage} == {"smart", "good"}


async def test_r37_r45_lines_of_a_batch_are_routed_as_they_run(two):
    await two.route("good", **GOOD)
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": chat(model=name)}
        for n, name in enumerate(("smart", "good", "smart"))
    ]
    sdk: openai.AsyncOpenAI = two.gateway.sdk()
    file = await sdk.files.create(file=("a.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    batch = await sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    async def over() -> bool:
        nonlocal batch
        batch = await sdk.batches.retrieve(batch.id)
        return batch.status == "completed"

    await eventually(over, 20)
    answers = [json.loads(line) for line in (await sdk.files.content(batch.output_file_id)).text.splitlines()]
    served = {answer["custom_id"]: answer["response"]["body"]["model"] for answer in answers}
    assert served == {"0": "small", "1": "large", "2": "small"}
    rows = [row for row in await two.gateway.recorded(3) if row["served_tier"] == "batch"]
    assert sorted((row["model"], row["route"]) for row in rows) == [
        ("large", "good"), ("small", "smart"), ("small", "smart")
    ]  # fmt: skip


async def test_r45_the_rule_in_force_decides(two):
    """A tier and a workload have rules of their own; embeddings of different models say nothing together."""
    await two.gateway.admin.put("/workloads/exact", json={"shape": "steady", "default_tier": "default"})
    rule = {"order_by": "quality"}
    await two.route(by_tier={"priority": rule}, by_workload={"exact": rule})
    assert [await two.served(service_tier=tier) for tier in (None, "priority")] == ["small", "large"]
    key = await two.gateway.new_key(workload="exact")
    exact = two.gateway.caller(key["secret"])
    assert (await exact.post("/chat/completions", json=chat(model="smart"))).json()["model"] == "large"
    assert await two.served(max_tokens=299) == "large", "it does not fit into the context of the other"
    answer = await two.gateway.http.post("/embeddings", json={"model": "smart", "input": "hello"})
    assert answer.status_code == 400 and "can't be compared" in answer.text
    assert (await two.ask(model="smarter")).status_code == 404


async def test_r3_r45_a_tier_that_none_of_them_allows(launch):
    """What this key may use on any of them is named, whichever model stands first."""
    async with serving(Upstream()) as small, serving(Upstream()) as large:
        fleet = settings(small.url, large.url)
        fleet["models"]["small"]["tiers"] = ["priority"]
        two = Two(await launch(fleet), small, large)
        await two.route()
        thrifty = two.gateway.caller((await two.gateway.new_key(default_tier="flex", allowed_tiers=["flex"]))["secret"])
        answer = await thrifty.post("/chat/completions", json=chat(model="smart", service_tier="priority"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert answer.json()["error"]["message"].endswith("this request may use `auto`, `flex`.")


async def test_r45_limits_hold_or_are_told(two):
    """Rather no answer than one below the quality or beyond the price; rather a slow one than none."""
    await two.route(limits={"usd_per_1m_max": "0.01"})
    answer = await two.ask(service_tier="flex")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert "usd_per_1m_max" in answer.text
    (row,) = await two.gateway.recorded(1)
    assert (row["route"], row["requested_tier"], row["model"]) == ("smart", "flex", ""), "no model was picked (R5)"

    async def slowly(turn):
        await asyncio.sleep(0.02)
        await tell(turn)

    two.small.play = two.large.play = slowly
    await two.route(limits={"ttft_p95_ms_max": 5})
    missed = [(await two.ask()).headers.get("x-fareclass-route-missed") for _ in range(3)]
    assert missed == [None, None, "ttft_p95_ms_max"], "until it is known of both"
    two.large.play = Turn.die
    await two.route(**GOOD)
    served = len(two.small.turns)
    assert (await two.ask()).status_code == 502, "the small one is up, and not good enough"
    assert len(two.small.turns) == served


# Falling over


@pytest.mark.parametrize("stream", [False, True])
async def test_r45_r46_a_pool_that_fails_is_passed_over(two, stream):
    """At once, in the same request, and it is billed once, by who served."""
    two.small.play = Turn.die
    answer = await two.ask(stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-fareclass-model"] == "large"
    row = await two.row(answer)
    assert (row["model"], row["outcome"], row["cost_pico"]) == (
        "large",
        "completed",
        10 * cost("default", PROMPT_TOKENS, 4),
    )
    assert len([each for each in two.gateway.rows() if each["route"]]) == 1
    await two.gateway.idle()


async def test_r45_r46_a_stream_that_has_begun_stays_with_its_model(two):
    async def break_off(turn):
        await turn.say(2)
        await turn.die()

    two.small.play = break_off
    answer = await two.ask(stream=True, max_tokens=6)
    assert '"error"' in answer.text
    assert not two.large.turns


async def test_r25_r45_a_quota_of_a_model_is_passed_over(two):
    """Where none has room, the refusal says when the first of them has."""
    put = two.gateway.admin.put
    (await put("/quotas/default/small", json={"rpm": 1})).raise_for_status()
    assert [await two.served() for _ in range(3)] == ["small", "large", "large"]
    (await put("/quotas/default/large", json={"rpm": 1})).raise_for_status()
    assert await two.served() == "large"
    answer = await two.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(answer.headers["retry-after-ms"]) <= 60_000
    assert (await two.row(answer))["outcome"] == "throttled"


async def test_r14_r45_nobody_waits_longer_than_the_tier_allows_in_all(launch):
    """Both pools are full: flex waits its 0.2 s once, not once for each model."""
    go_on = asyncio.Event()
    async with serving(Upstream()) as small, serving(Upstream()) as large:
        two = Two(await launch(settings(small.url, large.url, slots=1)), small, large)
        await two.route()
        small.play = large.play = tell_in_two(1, go_on)
        busy = [asyncio.create_task(two.ask(model=name, service_tier="priority")) for name in ("small", "large")]
        await small.next()
        await large.next()
        answer = await two.ask(service_tier="flex")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "resource_unavailable")
        row = await two.row(answer)
        assert (row["model"], row["outcome"]) == ("large", "expired")
        assert "until it was due" in answer.text, "the second line had none of its limit left"
        go_on.set()
        await asyncio.gather(*busy)


async def test_r14_r45_the_time_on_a_model_is_no_wait(launch):
    """One ran silently for longer than the tier's limit, in all its tries, and failed: the next has the whole limit."""
    go_on = asyncio.Event()

    async def ran_long(turn):
        await asyncio.sleep(0.3)
        await turn.die()

    async with serving(Upstream(continues=True)) as small, serving(Upstream(continues=True)) as large:
        plan = settings(small.url, large.url, slots=1) | {"tiers": {"flex": {"max_wait_s": 1.5}}}
        two = Two(await launch(plan), small, large)
        await two.route()
        small.play, large.play = ran_long, tell_in_two(1, go_on)
        busy = asyncio.create_task(two.ask(model="large", service_tier="priority"))
        await large.next()
        asked = asyncio.create_task(two.ask(service_tier="flex"))
        await waits(two, "large", 300)
        go_on.set()
        assert (await asked).headers["x-fareclass-model"] == "large"
        assert (await busy).status_code == 200


async def waits(two: Two, model: str, least_ms: int = 0) -> None:
    """Until one waits in line for this model, and has for so long."""

    async def waiting() -> bool:
        (pool,) = (await two.gateway.admin.get("/pools", params={"model": model})).json()["data"]
        lines = [tier for tier in pool["tiers"].values() if tier["waiting"]]
        return bool(lines) and lines[0]["oldest_wait_ms"] >= least_ms

    await eventually(waiting)


async def drain(two: Two, model: str, *, drain: bool = True) -> None:
    (pool,) = (await two.gateway.admin.get("/pools", params={"model": model})).json()["data"]
    for replica in pool["replicas"]:
        changed = await two.gateway.admin.patch(f"/pools/{model}/replicas/{replica['id']}", json={"drain": drain})
        changed.raise_for_status()


@pytest.mark.parametrize("back", ["small", "large"])
async def test_r16_r45_who_waits_where_nothing_serves_goes_where_something_does(launch, back):
    """The last replica of one model is drained, then of the other; then either comes back."""
    go_on = asyncio.Event()
    async with serving(Upstream(continues=True)) as small, serving(Upstream(continues=True)) as large:
        plan = settings(small.url, large.url, slots=1) | {"tiers": {"flex": {"max_wait_s": 60}}}
        two = Two(await launch(plan), small, large)
        await two.route()
        small.play = large.play = tell_in_two(1, go_on)
        busy = [asyncio.create_task(two.ask(model=name, service_tier="priority")) for name in ("small", "large")]
        await small.next()
        await large.next()
        early = asyncio.create_task(two.ask(service_tier="flex"))
        await waits(two, "small")
        await drain(two, "small")
        await waits(two, "large")
        await drain(two, "large")
        go_on.set()
        assert [answer.status_code for answer in await asyncio.gather(*busy)] == [200, 200]
        await drain(two, back, drain=False)
        assert (await asyncio.wait_for(early, 20)).headers["x-fareclass-model"] == back
        await drain(two, back)
        late = asyncio.create_task(two.ask(service_tier="flex"))
        await waits(two, "large")
        await drain(two, back, drain=False)
        assert (await asyncio.wait_for(late, 20)).headers["x-fareclass-model"] == back


async def test_r45_a_look_at_a_background_response_finds_no_speed_out(two):
    """The one request a second that goes to a model of unknown speed is one that runs."""
    assert (await two.ask(model="small")).status_code == 200
    await two.route(order_by="latency")
    body = {"model": "smart", "input": QUESTION, "background": True, "max_output_tokens": 4}
    assert (await two.gateway.http.post("/responses", json=body)).status_code == 200
    (row,) = [row for row in await two.gateway.recorded(2) if row["route"]]
    assert row["model"] == "large"


async def test_r2_r20_r45_reserved_goes_where_the_floor_is(launch):
    async with serving(Upstream(continues=True)) as small, serving(Upstream(continues=True)) as large:
        plan = settings(small.url, large.url, slots=16)
        for model in plan["models"].values():
            model["capacity"] = {"input_tpm": 1_000_000, "output_tpm": 100_000}
        two = Two(await launch(plan), small, large)
        await two.route(by_tier={"reserved": {"order_by": "quality"}})

        async def reserve(model: str) -> None:
            body = {"project": "default", "model": model, "input_tpm": 600, "output_tpm": 60}
            (await two.gateway.admin.post("/reservations", json=body)).raise_for_status()

        await reserve("large")
        answer = await two.ask(service_tier="reserved")
        assert (answer.json()["model"], answer.headers["x-fareclass-served-tier"]) == ("large", "reserved")
        assert await two.served() == "small"
        assert await two.served(service_tier="auto") == "large", "it is paid for already: nothing is cheaper"
        while "x-fareclass-spilled" not in (answer := await two.ask(service_tier="reserved", max_tokens=20)).headers:
            pass
        assert answer.json()["model"] == "large"
        assert await two.served(service_tier="auto", max_tokens=20) == "small"
        await reserve("small")
        answer = await two.ask(service_tier="reserved", max_tokens=20)
        assert (answer.json()["model"], answer.headers["x-fareclass-served-tier"]) == ("small", "reserved")
