"""The main job: the unmodified OpenAI SDK, the real engine, every tier. See also `clients`."""

import asyncio
import json
import subprocess

import httpx
import pytest

from tests.e2e.callers import RULES
from tests.e2e.gateway import MODEL, behind, chat, cost
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION

ASKED = [{"role": "user", "content": "Name three colours."}]


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_r4_an_answer_on_each_tier(real, tier):
    sdk = real.sdk()
    raw = await sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASKED, service_tier=tier, max_tokens=6, temperature=0
    )
    answer = raw.parse()
    assert answer.choices[0].message.content and answer.service_tier == tier and answer.model == MODEL
    assert raw.headers["x-fareclass-served-tier"] == raw.headers["x-fareclass-requested-tier"] == tier
    assert answer.usage.prompt_tokens > 10 and answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
    row = next(row for row in real.rows() if row["id"] == raw.headers["x-request-id"])
    assert (row["served_tier"], row["input"] + row["cache_read"], row["output"]) == (
        tier,
        answer.usage.prompt_tokens,
        6,
    )
    assert row["cache_read"] == answer.usage.prompt_tokens_details.cached_tokens
    assert row["cost_pico"] == cost(tier, answer.usage.prompt_tokens, 6, row["cache_read"])


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_r4_a_stream_on_each_tier_says_what_the_whole_answer_says(real, tier):
    sdk = real.sdk()
    asked = {"model": MODEL, "messages": ASKED, "max_tokens": 6, "temperature": 0}
    whole = await sdk.chat.completions.create(**asked)
    stream = await sdk.chat.completions.create(
        **asked, service_tier=tier, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.service_tier for chunk in chunks} == {tier}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (whole.usage.prompt_tokens, 6)


async def test_usage_is_shown_in_a_stream_only_if_asked_and_billed_all_the_same(real):
    stream = await real.sdk().chat.completions.create(model=MODEL, messages=ASKED, max_tokens=3, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (real.rows()[-1]["output"], real.rows()[-1]["estimated"]) == (3, 0)


async def test_tools_go_up_and_their_calls_come_back(pair, launch):
    """In pieces, as an upstream of ours sends them. A whole answer is put together from a stream."""
    upstream = pair[0]
    gateway = await launch(behind(upstream.url))

    async def call_a_tool(turn):
        for part in ({"index": 0, "id": "call_1", "type": "function", "function": {"name": "paint", "arguments": ""}},
                     {"index": 0, "function": {"arguments": '{"colour":'}},
                     {"index": 0, "function": {"arguments": '"red"}'}}):  # fmt: skip
            await turn.event({"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None})
        await turn.end("tool_calls")

    upstream.play = call_a_tool
    tools = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object"}}}]
    messages = [{"role": "user", "content": QUESTION}]
    async with gateway.sdk().chat.completions.stream(model=MODEL, messages=messages, tools=tools) as events:
        streamed = await events.get_final_completion()
    whole = await gateway.sdk().chat.completions.create(model=MODEL, messages=messages, tools=tools)
    for answer in (streamed, whole):
        (call,) = answer.choices[0].message.tool_calls
        assert (call.id, call.function.name, json.loads(call.function.arguments)) == (
            "call_1",
            "paint",
            {"colour": "red"},
        )
        assert answer.choices[0].finish_reason == "tool_calls"
    assert upstream.turns[0].body["tools"] == tools


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_through(real, stream):
    answer = await real.sdk().chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=2, logprobs=True, top_logprobs=2, stream=stream
    )
    choices = [c.choices[0] async for c in answer if c.choices] if stream else [answer.choices[0]]
    found = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert len(found) == 2 and all(len(token.top_logprobs) == 2 for token in found)


@pytest.mark.parametrize("stream", [False, True])
async def test_plain_completions(real, stream):
    answer = await real.sdk().completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5,", max_tokens=6, temperature=0, stream=stream,
        extra_body={"service_tier": "flex"},
    )  # fmt: skip
    parts = [chunk async for chunk in answer] if stream else [answer]
    assert "6, 7" in "".join(part.choices[0].text for part in parts if part.choices)
    assert {part.model for part in parts} == {MODEL}
    assert {part.model_dump()["service_tier"] for part in parts} == {"flex"}
    assert real.rows()[-1]["served_tier"] == "flex"


async def test_nothing_private_of_the_engine_is_in_a_whole_answer(real):
    """Neither where the answer was put together from a stream nor where the engine's own body is passed on."""
    for more in ({}, {"logprobs": True}, {"n": 2}):
        answer = (await real.ask(**more)).raise_for_status().json()
        assert set(answer) <= {
            "id",
            "object",
            "created",
            "model",
            "choices",
            "usage",
            "service_tier",
            "system_fingerprint",
        }


async def test_the_printed_command_works_when_pasted(real, real_process):
    """As a shell reads it; what it would have curl do is then done here, so that no curl is needed."""
    shell = ["sh", "-c", f"curl() {{ printf '%s\\n' \"$@\"; }}\n{real_process.curl}"]
    read = await asyncio.to_thread(subprocess.run, shell, check=True, capture_output=True, text=True)
    quiet, url, *options = read.stdout.splitlines()
    given = dict(zip(options[1::2], options[::2], strict=True))
    headers = dict(value.split(": ", 1) for value, option in given.items() if option == "-H")
    (body,) = [value for value, option in given.items() if option == "-d"]
    async with httpx.AsyncClient(timeout=60) as stranger:
        answer = await stranger.post(url, headers=headers, content=body)
    assert quiet == "-sS" and answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] and answer.json()["service_tier"] == "priority"
    assert real.key not in real_process.curl, "no shell history keeps the key"


async def test_models_are_listed(real):
    assert [model.id async for model in real.sdk().models.list()] == [MODEL]
    assert (await real.sdk().models.retrieve(MODEL)).owned_by == "fareclass"


async def test_r31_a_second_project_finds_nothing_of_the_first_ones_prompt(real):
    """Neither in what it is billed nor in what the engine reused; the first one finds its own."""
    other = await real.new_key(project="a stranger")
    body = chat(messages=[RULES, {"role": "user", "content": "Which flag has a maple leaf on it, and why?"}])
    for client in (real.http, real.caller(other["secret"])):
        usage = (await client.post("/chat/completions", json=body)).raise_for_status().json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert usage["prompt_tokens"] > 10
    usage = (await real.http.post("/chat/completions", json=body)).raise_for_status().json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


async def test_embeddings_pass_through(upstream, gateway):
    """The engine's answer as it is, with tier, usage and price of an input of 7 tokens."""

    async def embed(turn):
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        await turn.answer({"object": "list", "model": "up", "data": data, "usage": usage})

    upstream.play = embed
    answer = await gateway.sdk().embeddings.create(model=MODEL, input=QUESTION, encoding_format="float", dimensions=2)
    assert (answer.data[0].embedding, answer.model, answer.usage.prompt_tokens) == ([0.25, -0.5], MODEL, 7)
    turn = await upstream.next()
    assert turn.path == "/v1/embeddings"
    assert turn.body == {"model": MODEL, "input": QUESTION, "encoding_format": "float", "dimensions": 2}
    (row,) = gateway.rows()
    assert (row["endpoint"], row["input"], row["output"], row["cost_pico"]) == (
        "embeddings",
        7,
        0,
        cost("default", 7, 0),
    )


async def test_r50_what_goes_upstream(upstream, launch):
    """The API's own fields as they came and what the model lets pass; nothing that the gateway owns; dropped names told."""
    settings = behind(upstream.url)
    settings["models"]["m"] |= {"upstream_model": "org/Model", "pass_fields": ["top_k"]}
    gateway = await launch(settings)
    own = {"temperature": 0.5, "tools": [{"type": "function", "function": {"name": "f"}}], "logit_bias": {"7": 1}}
    foreign = {"top_k": 3, "cache_prompt": True, "id_slot": 0, "mystery": 1, "priority": 0}
    answer = await gateway.http.post(
        "/chat/completions",
        json=chat(**own, **foreign, stream=True),
        headers={"x-conversation-id": "c", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
    )
    assert answer.headers["x-fareclass-dropped"] == "cache_prompt,id_slot,mystery,priority"
    turn = await upstream.next()
    sent = chat(**own, top_k=3, stream=True, model="org/Model", stream_options={"include_usage": True})
    assert turn.body == sent
    assert turn.headers["traceparent"].startswith("00-1111") and "x-conversation-id" not in turn.headers
    assert "authorization" not in turn.headers
    assert (gateway.rows()[0]["input"], gateway.rows()[0]["output"]) == (PROMPT_TOKENS, 4)
