"""OpenAI Responses: the unmodified SDK against the real engine, and what is kept of what it was told (R4, R35, R51)."""

import asyncio
import signal

import openai
import pytest
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError

from tests.e2e.gateway import MODEL, behind, cost
from tests.e2e.upstream import QUESTION, Turn, Upstream, serving, tell, tell_in_two
from tests.engine.conftest import eventually

ASKED = "Name three colours."
LONG = {"model": MODEL, "input": QUESTION, "max_output_tokens": 120, "temperature": 0}
OVER = ("completed", "incomplete", "failed", "cancelled")
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


async def over(sdk, id):
    """The response once it has ended."""
    found = []

    async def ended():
        found[:] = [await sdk.responses.retrieve(id)]
        return found[0].status in OVER

    await eventually(ended, 60)
    return found[0]


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_r4_an_answer_on_each_tier(real, tier):
    raw = await real.sdk().responses.with_raw_response.create(
        model=MODEL, input=ASKED, instructions="Be brief.", service_tier=tier, max_output_tokens=6, temperature=0
    )
    answer = raw.parse()
    assert answer.output_text and answer.service_tier == tier and answer.model == MODEL
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert raw.headers["x-fareclass-served-tier"] == tier
    row = next(row for row in real.rows() if row["id"] == raw.headers["x-request-id"])
    assert (row["endpoint"], row["output"], answer.usage.output_tokens) == ("responses", 6, 6)
    assert row["input"] + row["cache_read"] == answer.usage.input_tokens
    assert row["cache_read"] == answer.usage.input_tokens_details.cached_tokens
    assert row["cost_pico"] == cost(tier, answer.usage.input_tokens, 6, row["cache_read"])


async def test_a_stream_builds_up_what_the_whole_answer_says(real):
    sdk = real.sdk()
    asked = {"model": MODEL, "input": ASKED, "max_output_tokens": 6, "temperature": 0}
    whole = await sdk.responses.create(**asked)
    events = [event async for event in await sdk.responses.create(**asked, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert text == whole.output_text == last.output_text == events[-4].text
    assert last.usage.output_tokens == 6 and last.id == events[0].response.id


async def test_a_tool_is_called_and_its_result_understood(pair, launch):
    """In pieces, as an upstream of ours sends them."""
    upstream, _ = pair
    gateway = await launch(behind(upstream.url))
    sdk = gateway.sdk()

    async def call_a_tool(turn):
        for part in (
            {"index": 0, "id": "call_7", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city":'}},
            {"index": 0, "function": {"arguments": '"Rome"}'}},
        ):
            await turn.event({"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None})
        await turn.end("tool_calls")

    usual, upstream.play = upstream.play, call_a_tool
    asked = {"model": MODEL, "tools": [WEATHER]}
    first = await sdk.responses.create(**asked, input=QUESTION)
    events = [event async for event in await sdk.responses.create(**asked, input=QUESTION, stream=True)]
    (call,) = first.output
    assert (call.type, call.name, call.call_id) == ("function_call", "weather", "call_7")
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert arguments == done.arguments == call.arguments == '{"city":"Rome"}'
    function = {name: value for name, value in WEATHER.items() if name != "type"}
    assert upstream.turns[0].body["tools"] == [{"type": "function", "function": function}]

    upstream.play = usual
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = await sdk.responses.create(**asked, input=[result], previous_response_id=first.id)
    assert second.output_text and second.previous_response_id == first.id
    _, said, heard = upstream.turns[-1].body["messages"]
    assert said["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert heard == {"role": "tool", "content": "sunny", "tool_call_id": "call_7"}


async def test_an_answer_has_the_form_that_was_asked_for(real):
    class Colour(BaseModel):
        name: str

    asked = {"model": MODEL, "input": "Say a colour.", "text_format": Colour, "temperature": 0}
    sdk = real.sdk()
    parsed = await sdk.responses.parse(**asked, max_output_tokens=100)
    assert isinstance(parsed.output_parsed, Colour) and parsed.status == "completed"
    async with sdk.responses.stream(
        **asked, max_output_tokens=100
    ) as stream:  # the SDK puts the events together itself
        assert (await stream.get_final_response()).output_parsed == parsed.output_parsed


async def test_a_conversation_goes_on_from_what_is_stored(gateway, upstream):
    sdk = gateway.sdk()
    first = await sdk.responses.create(model=MODEL, input=QUESTION, instructions="Be kind.")
    item = first.output[0].id
    second = await sdk.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    said = [(message["role"], message["content"]) for message in upstream.turns[-1].body["messages"]]
    assert said == [("user", QUESTION), ("assistant", first.output_text), ("user", "two")]
    listed = await sdk.responses.input_items.list(second.id, order="asc")
    assert [one.role for one in listed.data] == ["user", "assistant", "user"]
    await sdk.responses.create(
        model=MODEL, input=[{"type": "item_reference", "id": item}, {"role": "user", "content": QUESTION}]
    )
    said = [(message["role"], message["content"]) for message in upstream.turns[-1].body["messages"]]
    assert said == [("assistant", first.output_text), ("user", QUESTION)]
    assert (await sdk.responses.retrieve(first.id)).output_text == first.output_text
    await sdk.responses.delete(first.id)
    for gone in (
        sdk.responses.retrieve(first.id),
        sdk.responses.create(model=MODEL, input="x", previous_response_id=first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await gone


async def test_what_is_not_to_be_stored_is_not(gateway):
    sdk = gateway.sdk()
    answer = await sdk.responses.create(model=MODEL, input=QUESTION, store=False)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(answer.id)


async def test_r51_another_projects_response_is_not_there(gateway):
    sdk = gateway.sdk()
    mine = await sdk.responses.create(model=MODEL, input="my secret", background=True, stream=False)
    await over(sdk, mine.id)
    stranger = gateway.caller((await gateway.new_key(project="a stranger"))["secret"])
    refused = [
        await stranger.get(f"/responses/{mine.id}"),
        await stranger.get(f"/responses/{mine.id}?stream=true"),
        await stranger.get(f"/responses/{mine.id}/input_items"),
        await stranger.post(f"/responses/{mine.id}/cancel"),
        await stranger.delete(f"/responses/{mine.id}"),
        await stranger.post("/responses", json={"model": MODEL, "input": "x", "previous_response_id": mine.id}),
        await stranger.post(
            "/responses",
            json={
                "model": MODEL,
                "input": [
                    {"type": "item_reference", "id": mine.output[0].id if mine.output else f"msg_{mine.id[5:]}_0"}
                ],
            },
        ),
    ]
    assert [answer.status_code for answer in refused] == [404] * 7
    assert not any("secret" in answer.text for answer in refused)
    assert (await sdk.responses.retrieve(mine.id)).status == "completed"


@pytest.mark.parametrize("name", ["resp_%00", "resp_%ff", "..%2f..", "resp_1' OR '1'='1", "resp_" + "0" * 5000])
async def test_r51_a_name_that_is_none_is_not_there(gateway, name):
    for call in (gateway.http.get(f"/responses/{name}"), gateway.http.delete(f"/responses/{name}")):
        assert (await call).status_code == 404
    asked = {
        "model": MODEL,
        "input": [{"type": "item_reference", "id": f"msg_{name}_0"}],
        "previous_response_id": "\x00",
    }
    assert (await gateway.http.post("/responses", json=asked)).status_code == 404


async def test_a_background_response_is_polled(real):
    sdk = real.sdk()
    promised = await sdk.responses.create(**{**LONG, "max_output_tokens": 8}, background=True, service_tier="flex")
    assert promised.status == "queued" and promised.background and not promised.output
    done = await over(sdk, promised.id)
    assert (done.status, done.usage.output_tokens, done.service_tier) == ("incomplete", 8, "flex")
    row = next(row for row in real.rows() if row["id"] == f"req_{promised.id[5:]}")
    assert (row["outcome"], row["served_tier"], row["output"]) == ("completed", "flex", 8)


async def test_a_background_stream_is_taken_up_again_by_any_number(real):
    sdk = real.sdk()
    asked = {**LONG, "max_output_tokens": 40}
    seen = []
    async for event in await sdk.responses.create(**asked, background=True, stream=True):
        seen.append(event)
        if event.type == "response.output_text.delta":
            break  # hangs up; the work goes on
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    name, last = seen[0].response.id, seen[-1].sequence_number

    async def rest(after):
        stream = await sdk.responses.retrieve(name, stream=True, starting_after=after)
        return [event async for event in stream]

    one, other = await asyncio.gather(rest(last), rest(0))
    assert [event.sequence_number for event in one] == list(range(last + 1, last + 1 + len(one)))
    assert one[-1].type == "response.incomplete" and other[-1] == one[-1]
    assert await rest(last) == one  # and once it is over, out of the store
    deltas = [event.delta for event in seen + one if event.type == "response.output_text.delta"]
    assert "".join(deltas) == one[-1].response.output_text
    assert one[-1].response.usage.output_tokens == 40


async def test_r15_a_background_response_is_cancelled(real):
    sdk = real.sdk()
    promised = await sdk.responses.create(**{**LONG, "max_output_tokens": 900}, background=True)
    await real.speaks("default")
    stream = await sdk.responses.create(**{**LONG, "max_output_tokens": 900}, background=True, stream=True)
    heard = [await anext(stream) for _ in range(8)]
    await sdk.responses.cancel(heard[0].response.id)
    assert [event.type async for event in stream][-1] == "response.cancelled"
    cancelled = await sdk.responses.cancel(promised.id)
    assert cancelled.status == (await sdk.responses.retrieve(promised.id)).status == "cancelled"
    assert (await sdk.responses.cancel(promised.id)).status == "cancelled"
    await real.idle()
    row = next(row for row in real.rows() if row["id"] == f"req_{promised.id[5:]}")
    assert row["outcome"] == "cancelled" and 0 < row["output"] < 900


REMOTE = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]
HOPELESS = [
    ({"model": "nobody"}, 404),
    ({"service_tier": "cheap"}, 400),
    ({"service_tier": "reserved"}, 400),
    ({"service_tier": "priority"}, 403),
    ({"input": REMOTE}, 400),
]


@pytest.mark.parametrize(("wrong", "status"), HOPELESS)
async def test_r3_what_no_wait_will_change_is_refused_and_not_promised(gateway, wrong, status):
    """As it is where its caller waits for it."""
    key = await gateway.new_key(allowed_tiers=["default", "reserved"])
    caller = gateway.caller(key["secret"])
    asked = {"model": MODEL, "input": "x"} | wrong
    awaited = await caller.post("/responses", json=asked)
    assert awaited.status_code == status
    for stream in (False, True):
        promised = await caller.post("/responses", json=asked | {"background": True, "stream": stream})
        assert (promised.status_code, promised.json()) == (status, awaited.json())
    assert len({(row["outcome"], row["code"], row["key"]) for row in await gateway.recorded(3)}) == 1


async def test_a_refusal_in_the_background_is_told_where_it_is_fetched(gateway):
    sdk = gateway.sdk()
    await gateway.limit(rpm=1)
    assert (await gateway.ask()).status_code == 200
    promised = await sdk.responses.create(model=MODEL, input="x", background=True, stream=False)
    failed = await over(sdk, promised.id)
    assert (failed.status, failed.error.code) == ("failed", "rate_limit_exceeded")
    stream = await sdk.responses.create(model=MODEL, input="x", background=True, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds == ["response.created", "response.queued", "response.failed"]


async def tell_all(turn):
    """As many words as were asked for."""
    turn.body["max_tokens"] = turn.body["max_completion_tokens"]
    await tell(turn)


async def test_r35_kill_9_in_mid_background_and_it_is_answered_after_the_next_start(start, upstream):
    upstream.play = tell_in_two(2, asyncio.Event())
    process = await start(behind(upstream.url, slots=1))
    gateway = process.gateway()
    sdk = gateway.sdk()
    running = await sdk.responses.create(**LONG, background=True)
    waiting = await sdk.responses.create(
        **{**LONG, "max_output_tokens": 5}, background=True, service_tier="flex", stream=False
    )
    await gateway.speaks("default")
    process.close()
    upstream.play = tell_all
    again = (await start()).gateway()
    sdk = again.sdk()
    first, second = await over(sdk, running.id), await over(sdk, waiting.id)
    assert (first.usage.output_tokens, second.usage.output_tokens) == (120, 5)
    rows = {row["id"]: row for row in await again.recorded(2)}
    assert rows.keys() == {f"req_{running.id[5:]}", f"req_{waiting.id[5:]}"}
    assert {row["outcome"] for row in rows.values()} == {"completed"}
    await gateway.close()
    await again.close()


async def test_r35_a_stop_in_mid_background_is_no_end_of_it_either(start, upstream):
    upstream.play = tell_in_two(2, asyncio.Event())
    process = await start(behind(upstream.url, slots=1))
    gateway = process.gateway()
    running = await gateway.sdk().responses.create(**LONG, background=True)
    await gateway.speaks("default")
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    upstream.play = tell_all
    again = (await start()).gateway()
    assert (await over(again.sdk(), running.id)).usage.output_tokens == 120
    assert [row["id"] for row in await again.recorded(1)] == [f"req_{running.id[5:]}"]
    await gateway.close()
    await again.close()


async def test_r28_cached_tokens_are_shown_as_openai_counts_them(real):
    sdk = real.sdk()
    text = "The quick brown fox jumps over the lazy dog near the river bank. " * 20
    first = await sdk.responses.create(model=MODEL, input=text, max_output_tokens=4, temperature=0)
    asked = {"model": MODEL, "input": "Again.", "previous_response_id": first.id, "max_output_tokens": 4}
    second = await sdk.responses.create(**asked, temperature=0)
    usage = second.usage
    assert usage.input_tokens > usage.input_tokens_details.cached_tokens > first.usage.input_tokens * 0.8
    row = next(row for row in real.rows() if row["id"] == f"req_{second.id[5:]}")
    assert (row["cache_read"], row["input"] + row["cache_read"]) == (
        usage.input_tokens_details.cached_tokens,
        usage.input_tokens,
    )


async def test_r48_a_promise_is_made_once_for_one_idempotency_key(gateway):
    asked = {"model": MODEL, "input": QUESTION, "background": True}
    headers = {"idempotency-key": "order-8"}
    one, other = [await gateway.http.post("/responses", json=asked, headers=headers) for _ in range(2)]
    assert one.json()["id"] == other.json()["id"] and other.headers["x-fareclass-repeated"] == "true"
    await over(gateway.sdk(), one.json()["id"])
    assert len(await gateway.recorded(1)) == 1


async def test_r35_an_answer_that_cannot_be_stored_is_an_answer_all_the_same(gateway, monkeypatch, caplog):
    def full(*_):
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr("fareclass.flow.stored_responses.put_responses", full)
    sdk = gateway.sdk()
    answer = await sdk.responses.create(model=MODEL, input=QUESTION)
    assert answer.status in ("completed", "incomplete")
    await eventually(lambda: "responses could not be stored" in caplog.text)
    with pytest.raises(openai.InternalServerError) as refused:  # but a promise that can't be kept is not made
        await sdk.responses.create(model=MODEL, input=QUESTION, background=True)
    assert refused.value.status_code == 503


async def test_r14_promises_are_bounded(gateway, upstream, monkeypatch):
    monkeypatch.setattr("fareclass.wire.responses_background.BACKGROUND_RUNS", 1)
    sdk = gateway.sdk()
    upstream.play = Turn.hang
    first = await sdk.responses.create(model=MODEL, input=QUESTION, background=True, service_tier="flex")
    with pytest.raises(openai.RateLimitError) as refused:
        await sdk.responses.create(model=MODEL, input=QUESTION, background=True)
    assert refused.value.code == "background_limit"
    await sdk.responses.delete(first.id)


async def test_a_broken_stream_ends_as_failed(launch):
    async def die(turn):
        await turn.begin()
        await turn.say(2)
        await turn.die()

    async with serving(Upstream()) as upstream:
        upstream.play = die
        gateway = await launch(behind(upstream.url))
        events = [
            event async for event in await gateway.sdk().responses.create(model=MODEL, input=QUESTION, stream=True)
        ]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.code == "upstream_error"
