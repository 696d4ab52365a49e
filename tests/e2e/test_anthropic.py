"""The unmodified Anthropic SDK against the real engine. See also `clients`."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import pytest

from tests.e2e.gateway import MODEL, Gateway, behind, cost
from tests.e2e.upstream import QUESTION, VLLM

ASKED = {"model": MODEL, "max_tokens": 6, "messages": [{"role": "user", "content": "Name three colours."}]}
GREEDY = {"temperature": 0}
WORDS = {"priority": "priority", "default": "standard", "flex": "standard"}
LONG = "You know these things: " + " ".join(f"fact {number * 7919 % 1000}" for number in range(60))
TOOL = {"name": "paint", "input_schema": {"type": "object", "properties": {"colour": {"type": "string"}}}}


def client(gateway: Gateway, **more) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(**{"base_url": gateway.url, "api_key": gateway.key, "max_retries": 0} | more)


@pytest.fixture
async def sdk(real: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with client(real) as made:
        yield made


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_r4_an_answer_on_each_tier(real, sdk, tier):
    raw = await sdk.messages.with_raw_response.create(**ASKED, service_tier=tier, extra_body=GREEDY)
    answer = await raw.parse()
    assert answer.content[0].text and answer.model == MODEL and answer.stop_reason == "max_tokens"
    assert answer.usage.service_tier == WORDS[tier]
    assert raw.headers["x-fareclass-served-tier"] == tier and raw.headers["request-id"] == raw.headers["x-request-id"]
    row = next(row for row in real.rows() if row["id"] == raw.headers["request-id"])
    usage = answer.usage
    assert (row["endpoint"], row["served_tier"], row["input"], row["cache_read"], row["output"]) == (
        "messages", tier, usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens,
    )  # fmt: skip
    prompt = usage.input_tokens + usage.cache_read_input_tokens
    assert row["cost_pico"] == cost(tier, prompt, 6, usage.cache_read_input_tokens)


async def test_a_stream_says_what_the_whole_answer_says(sdk):
    whole = await sdk.messages.create(**ASKED, extra_body=GREEDY)
    async with sdk.messages.stream(**ASKED, service_tier="flex", extra_body=GREEDY) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    assert streamed.content[0].text == whole.content[0].text
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("max_tokens", 6)
    assert streamed.usage.input_tokens + streamed.usage.cache_read_input_tokens == (
        whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    )
    assert [kind for kind in kinds if kind not in ("text", "content_block_delta")] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}])
async def test_r11_an_answer_goes_on_from_what_its_caller_began(sdk, more):
    """Told is only what is new, as that API has it; thinking makes an answer that is not to be paused."""
    begun = {"role": "assistant", "content": "Red, green"}
    asked = ASKED | {"messages": [*ASKED["messages"], begun], **more}
    whole = await sdk.messages.create(**asked, extra_body=GREEDY)
    async with sdk.messages.stream(**asked, extra_body=GREEDY) as stream:
        streamed = await stream.get_final_text()
    assert whole.content[0].text == streamed and streamed.startswith(",")
    assert whole.usage.output_tokens == 6


async def test_r11_vllm_is_told_to_go_on_with_it(upstream, launch):
    upstream.pages = VLLM
    gateway = await launch(behind(upstream.url))
    begun = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": " w0 w1"}]
    async with client(gateway) as sdk:
        answer = await sdk.messages.create(model=MODEL, max_tokens=3, messages=begun)
    assert answer.content[0].text == " w2 w3 w4"
    sent = upstream.turns[-1].body
    assert sent["messages"] == begun
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": [{"message": {"content": 7}}]}, {"object": "list"}])
async def test_r6_what_is_no_answer_is_not_billed(upstream, gateway, body):
    """Though the engine says that it is whole."""

    async def answer(turn):
        usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
        await turn.answer(body | {"model": "up", "usage": usage})

    upstream.play = answer
    async with client(gateway) as sdk:
        with pytest.raises(anthropic.InternalServerError):
            await sdk.messages.create(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": QUESTION}])
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("upstream_failed", 0)
    await gateway.idle()


async def test_a_walk_with_a_tool_goes_up_as_a_chat(pair, launch):
    upstream = pair[0]
    gateway = await launch(behind(upstream.url))

    async def call_a_tool(turn):
        for part in ({"index": 0, "id": "call_1", "type": "function", "function": {"name": "paint", "arguments": ""}},
                     {"index": 0, "function": {"arguments": '{"colour":'}},
                     {"index": 0, "function": {"arguments": '"red"}'}}):  # fmt: skip
            await turn.event({"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None})
        await turn.end("tool_calls")

    asked = ASKED | {"tools": [TOOL], "messages": [{"role": "user", "content": QUESTION}]}
    async with client(gateway) as sdk:
        upstream.play = call_a_tool
        first = await sdk.messages.create(**asked)
        result = {"type": "tool_result", "tool_use_id": "call_1", "content": "done"}
        asked["messages"] += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        async with sdk.messages.stream(**asked) as stream:
            second = await stream.get_final_message()
    for answer in (first, second):
        (call,) = answer.content
        assert (call.id, call.name, call.input, answer.stop_reason) == (
            "call_1", "paint", {"colour": "red"}, "tool_use",
        )  # fmt: skip
    sent = upstream.turns[-1].body
    function = {"name": "paint", "arguments": '{"colour":"red"}'}
    assert sent["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "done", "tool_call_id": "call_1"},
    ]
    assert sent["max_tokens"] == 6


async def test_r30_what_was_cached_is_told_as_this_api_counts(real):
    key = await real.new_key(project="r30 of Anthropic")
    system = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    async with client(real, api_key=key["secret"]) as sdk:
        first = (await sdk.messages.create(**ASKED, system=system)).usage
        other = ASKED | {"messages": [{"role": "user", "content": "And two numbers?"}]}
        async with sdk.messages.stream(**other, system=system) as stream:
            second = (await stream.get_final_message()).usage
    assert first.cache_creation_input_tokens == first.cache_creation.ephemeral_1h_input_tokens > 150
    assert (first.cache_read_input_tokens, first.cache_creation.ephemeral_5m_input_tokens) == (0, 0)
    assert abs(second.cache_read_input_tokens - first.cache_creation_input_tokens) <= 2
    rows = [row for row in real.rows() if row["key"] == key["id"]]
    for row, usage in zip(rows, (first, second), strict=True):
        assert (row["input"], row["cache_write_1h"], row["cache_read"]) == (
            usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens,
        )  # fmt: skip


async def test_tokens_are_counted_by_the_models_own_tokenizer_and_not_billed(real, sdk):
    before = len(real.rows())
    few = await sdk.messages.count_tokens(model=MODEL, messages=ASKED["messages"])
    many = await sdk.messages.count_tokens(model=MODEL, messages=ASKED["messages"], system=LONG)
    more = await sdk.messages.count_tokens(model=MODEL, messages=ASKED["messages"], system=LONG, tools=[TOOL])
    assert more.input_tokens > many.input_tokens + 10 > few.input_tokens + 160
    assert len(real.rows()) == before
    for counted, call in ((few, ASKED), (more, ASKED | {"system": LONG, "tools": [TOOL]})):
        told = (await sdk.messages.create(**call)).usage
        read = told.input_tokens + told.cache_read_input_tokens + told.cache_creation_input_tokens
        assert counted.input_tokens == read, "what is counted is what is billed"


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "none", "messages": ASKED["messages"]}, anthropic.NotFoundError),
        ({"model": MODEL, "messages": []}, anthropic.BadRequestError),
    ],
)
async def test_a_count_that_can_not_be_is_refused_in_this_apis_words(sdk, asked, error):
    with pytest.raises(error) as caught:
        await sdk.messages.count_tokens(**asked)
    assert caught.value.body["type"] == "error" and caught.value.request_id


async def test_r51_a_count_needs_a_key(real):
    async with client(real, api_key="fc_wrong") as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.count_tokens(model=MODEL, messages=ASKED["messages"])


async def test_r25_r27_what_is_left_of_a_quota(pair, launch):
    gateway = await launch(behind(pair[0].url))
    await gateway.limit(rpm=1)
    async with client(gateway) as sdk:
        raw = await sdk.messages.with_raw_response.create(**ASKED)
        assert raw.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert raw.headers["anthropic-ratelimit-requests-remaining"] == "0"
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(**ASKED)
    assert caught.value.body["error"]["type"] == "rate_limit_error"


async def test_r50_dropped_fields_are_named(pair, launch):
    gateway = await launch(behind(pair[0].url))
    async with client(gateway) as sdk:
        raw = await sdk.messages.with_raw_response.create(
            **ASKED | {"messages": [{"role": "user", "content": QUESTION}]},
            extra_body={"top_k": 3, "mystery": 1, "priority": 9},
            thinking={"type": "disabled"},
        )
    assert raw.headers["x-fareclass-dropped"] == "mystery,priority"
    sent = pair[0].turns[-1].body
    assert (sent["top_k"], sent["chat_template_kwargs"]) == (3, {"enable_thinking": False})
    assert json.dumps(sent).count("mystery") == 0


def test_the_example_of_the_guide_runs(real_process, capsys):
    gateway = real_process.gateway()
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "anthropic.md").read_text()
    example = guide.partition("```python\n")[2].partition("```")[0]
    for theirs, ours in (
        ("http://127.0.0.1:8000", gateway.url),
        ("fc_key_...", gateway.key),
        ("smollm2-135m", MODEL),
        ("max_tokens=64", "max_tokens=8"),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    exec(example, {})
    assert capsys.readouterr().out.startswith("standard 8\n")
