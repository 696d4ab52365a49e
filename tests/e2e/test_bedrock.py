"""boto3, unmodified, against the real engine: only `endpoint_url` is ours. See also `clients`."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from fareclass.core.tokens import key_id
from tests.e2e.gateway import MODEL, Gateway, behind, cost
from tests.e2e.upstream import QUESTION

ASKED = {
    "modelId": MODEL,
    "messages": [{"role": "user", "content": [{"text": "Name three colours."}]}],
    "inferenceConfig": {"maxTokens": 6, "temperature": 0},
}
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODEL}"
LONG = "You know these things: " + " ".join(f"fact {number * 7919 % 1000}" for number in range(60))
SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
STORY = [{"role": "user", "content": [{"text": QUESTION}]}]
TOOL = {"toolSpec": {"name": "paint", "description": "Paints a wall.", "inputSchema": {"json": SCHEMA}}}
CHAT = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 6, "temperature": 0}
MESSAGES = {"anthropic_version": "bedrock-2023-05-31", **CHAT}


def credentials(gateway: Gateway) -> dict[str, str]:
    """The id of a key is the access key id, the whole key the secret."""
    name = key_id(gateway.key.encode())
    assert name is not None
    return {"aws_access_key_id": name, "aws_secret_access_key": gateway.key, "region_name": "us-east-1"}


def client(gateway: Gateway) -> Any:
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client("bedrock-runtime", endpoint_url=gateway.url, config=config, **credentials(gateway))


@pytest.fixture
def gateway(real_process) -> Gateway:
    return real_process.gateway()


@pytest.fixture
def bedrock(gateway: Gateway) -> Any:
    return client(gateway)


def text(answer: dict[str, Any]) -> str:
    return answer["output"]["message"]["content"][0]["text"]


def merged(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
        found |= event
    return found


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
def test_r1_r4_converse_on_each_tier(gateway, bedrock, tier):
    answer = bedrock.converse(**ASKED, serviceTier={"type": tier})
    assert text(answer) and answer["stopReason"] == "max_tokens" and answer["metrics"]["latencyMs"] > 0
    assert answer["serviceTier"] == {"type": tier}
    told = answer["ResponseMetadata"]
    assert told["HTTPHeaders"]["x-fareclass-served-tier"] == tier
    row = next(row for row in gateway.rows() if row["id"] == told["RequestId"])
    usage = answer["usage"]
    cached = usage["cacheReadInputTokens"]
    assert (row["endpoint"], row["served_tier"], row["input"], row["cache_read"], row["output"]) == (
        "converse", tier, usage["inputTokens"], cached, 6,
    )  # fmt: skip
    assert usage["totalTokens"] == usage["inputTokens"] + cached + 6
    assert row["cost_pico"] == cost(tier, usage["inputTokens"] + cached, 6, cached)


@pytest.mark.parametrize("model", [MODEL, ARN])
def test_a_stream_says_what_the_whole_answer_says(bedrock, model):
    whole = bedrock.converse(**ASKED)
    events = list(bedrock.converse_stream(**ASKED | {"modelId": model}, serviceTier={"type": "flex"})["stream"])
    names = [name for event in events for name in event]
    assert [name for name in names if name != "contentBlockDelta"] == [
        "messageStart", "contentBlockStop", "messageStop", "metadata",
    ]  # fmt: skip
    said = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert "".join(said) == text(whole)
    found = merged(events)
    assert found["messageStop"] == {"stopReason": "max_tokens"}
    assert found["metadata"]["serviceTier"] == {"type": "flex"}
    assert found["metadata"]["usage"]["totalTokens"] == whole["usage"]["totalTokens"]


@pytest.mark.parametrize("tier", ["priority", "flex"])
@pytest.mark.parametrize("asked", [MESSAGES, CHAT])
def test_r1_r4_invoke_with_either_body(gateway, bedrock, asked, tier):
    answer = bedrock.invoke_model(modelId=MODEL, body=json.dumps(asked), serviceTier=tier)
    body = json.loads(answer["body"].read())
    assert answer["serviceTier"] == tier and answer["contentType"] == "application/json"
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-output-token-count"] == "6"
    row = next(row for row in gateway.rows() if row["id"] == answer["ResponseMetadata"]["RequestId"])
    assert (row["endpoint"], row["served_tier"], row["output"]) == ("invoke", tier, 6)
    assert str(row["input"]) == headers["x-amzn-bedrock-input-token-count"]
    said = body["content"][0]["text"] if asked is MESSAGES else body["choices"][0]["message"]["content"]
    assert said == text(bedrock.converse(**ASKED))


@pytest.mark.parametrize("asked", [MESSAGES, CHAT])
def test_an_invoked_stream_says_what_the_whole_answer_says(bedrock, asked):
    answer = bedrock.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(asked), serviceTier="flex")
    chunks = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    assert (answer["serviceTier"], answer["contentType"]) == ("flex", "application/json")
    if asked is MESSAGES:
        said = [chunk["delta"]["text"] for chunk in chunks if chunk["type"] == "content_block_delta"]
    else:
        choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
        said = [choice["delta"].get("content") or "" for choice in choices]
    assert "".join(said) == text(bedrock.converse(**ASKED))
    assert chunks[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 6


async def call_a_tool(turn: Any) -> None:
    for part in ({"index": 0, "id": "call_1", "type": "function", "function": {"name": "paint", "arguments": ""}},
                 {"index": 0, "function": {"arguments": '{"colour":'}},
                 {"index": 0, "function": {"arguments": '"red"}'}}):  # fmt: skip
        await turn.event({"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None})
    await turn.end("tool_calls")


async def test_a_walk_with_a_tool_goes_up_as_a_chat(pair, launch):
    upstream = pair[0]
    upstream.play = call_a_tool
    gateway = await launch(behind(upstream.url))
    asked: dict[str, Any] = ASKED | {"messages": STORY}
    asked["toolConfig"] = {"tools": [TOOL]}

    def walk() -> None:
        sdk = client(gateway)
        first = sdk.converse(**asked)
        assert first["stopReason"] == "tool_use"
        (block,) = first["output"]["message"]["content"]
        assert block == {"toolUse": {"toolUseId": "call_1", "name": "paint", "input": {"colour": "red"}}}
        result = {"toolResult": {"toolUseId": "call_1", "content": [{"json": {"done": True}}]}}
        asked["messages"] = [*asked["messages"], first["output"]["message"], {"role": "user", "content": [result]}]
        events = list(sdk.converse_stream(**asked)["stream"])
        deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
        assert "".join(delta["toolUse"]["input"] for delta in deltas) == '{"colour":"red"}'

    await asyncio.to_thread(walk)
    function = {"name": "paint", "arguments": '{"colour":"red"}'}
    assert upstream.turns[-1].body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": '{"done":true}', "tool_call_id": "call_1"},
    ]


async def test_r30_what_was_cached_is_told_as_this_api_counts(real):
    key = await real.new_key(project="r30 of Bedrock")
    gateway = Gateway(real.url, key["secret"], real.folder)
    system = [{"text": LONG}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    other = ASKED | {"messages": [{"role": "user", "content": [{"text": "And two numbers?"}]}]}

    def ask() -> list[dict[str, Any]]:
        sdk = client(gateway)
        first = sdk.converse(**ASKED, system=system)["usage"]
        return [first, merged(list(sdk.converse_stream(**other, system=system)["stream"]))["metadata"]["usage"]]

    first, second = await asyncio.to_thread(ask)
    wrote = first["cacheWriteInputTokens"]
    assert wrote > 150 and first["cacheDetails"] == [{"ttl": "1h", "inputTokens": wrote}]
    assert first["cacheReadInputTokens"] == 0 and abs(second["cacheReadInputTokens"] - wrote) <= 2
    rows = [row for row in gateway.rows() if row["key"] == key["id"]]
    for row, usage in zip(rows, (first, second), strict=True):
        assert (row["input"], row["cache_write_1h"], row["cache_read"]) == (
            usage["inputTokens"], usage["cacheWriteInputTokens"], usage["cacheReadInputTokens"],
        )  # fmt: skip
    await gateway.close()


def test_tokens_are_counted_by_the_models_own_tokenizer_and_not_billed(gateway, bedrock):
    before = len(gateway.rows())

    def count(**given: Any) -> int:
        return bedrock.count_tokens(modelId=MODEL, input=given)["inputTokens"]

    few = count(converse={"messages": ASKED["messages"]})
    many = count(converse={"messages": ASKED["messages"], "system": [{"text": LONG}], "toolConfig": {"tools": [TOOL]}})
    assert few == count(invokeModel={"body": json.dumps(MESSAGES)}) == count(invokeModel={"body": json.dumps(CHAT)})
    assert many > few + 150
    used = bedrock.converse(**ASKED)["usage"]
    assert few == used["inputTokens"] + used["cacheReadInputTokens"], "what is counted is what is billed"
    assert len(gateway.rows()) == before + 1


def refused(call: Callable[..., Any], **asked: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(**asked)
    response = caught.value.response
    assert response["ResponseMetadata"]["RequestId"].startswith("req_")
    return response["Error"] | {"status": response["ResponseMetadata"]["HTTPStatusCode"]}


HELLO = {"messages": ASKED["messages"]}
VIDEO = {"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://a/b"}}}}
REFUSALS = [
    ("converse", {"modelId": "none", **HELLO}, 404, "ResourceNotFoundException", "`none` does not exist"),
    ("converse", ASKED | {"serviceTier": {"type": "cheap"}}, 400, "ValidationException", "`cheap` is no service tier"),
    ("converse", ASKED | {"serviceTier": {"type": "reserved"}}, 400, "ValidationException", "Reservation not found."),
    (
        "converse_stream",
        {"modelId": MODEL, "messages": [{"role": "user", "content": [VIDEO]}]},
        400,
        "ValidationException",
        "`messages[0].content[0].video` is not supported",
    ),
    ("invoke_model", {"modelId": MODEL, "body": b"{"}, 400, "ValidationException", "not valid JSON"),
    ("invoke_model", {"modelId": "none", "body": json.dumps(CHAT)}, 404, "ResourceNotFoundException", "`none`"),
    (
        "count_tokens",
        {"modelId": "none", "input": {"converse": HELLO}},
        404,
        "ResourceNotFoundException",
        "`none` does not exist",
    ),
    (
        "count_tokens",
        {"modelId": MODEL, "input": {"invokeModel": {"body": b"["}}},
        400,
        "ValidationException",
        "not valid JSON",
    ),
]


@pytest.mark.parametrize(("call", "asked", "status", "code", "message"), REFUSALS)
def test_refusals_are_the_apis_own_exceptions(bedrock, call, asked, status, code, message):
    error = refused(getattr(bedrock, call), **asked)
    assert (error["status"], error["Code"]) == (status, code) and message in error["Message"]
    assert code in dir(bedrock.exceptions)


async def test_r3_a_tier_that_a_key_may_not_use(real):
    key = await real.new_key(allowed_tiers=["default"])
    other = Gateway(real.url, key["secret"], real.folder)
    error = await asyncio.to_thread(lambda: refused(client(other).converse, **ASKED, serviceTier={"type": "flex"}))
    assert (error["status"], error["Code"]) == (403, "AccessDeniedException") and "flex" in error["Message"]
    await other.close()


async def test_r48_an_engine_that_breaks_in_mid_stream_is_an_exception_after_what_came(upstream, launch):
    gateway = await launch(behind(upstream.url))

    async def break_off(turn: Any) -> None:
        await turn.say(2)
        await turn.die()

    upstream.play = break_off

    def ask() -> tuple[list[Any], EventStreamError]:
        said: list[Any] = []
        stream = client(gateway).converse_stream(**ASKED | {"messages": STORY})["stream"]
        with pytest.raises(EventStreamError) as caught:
            said.extend(stream)
        return said, caught.value

    said, error = await asyncio.to_thread(ask)
    assert sum("contentBlockDelta" in event for event in said) == 2
    assert error.response["Error"]["Code"] == "modelStreamErrorException"


def test_the_example_of_the_guide_runs(gateway, capsys):
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "bedrock.md").read_text()
    example = guide.partition("```python\n")[2].partition("```")[0]
    for theirs, ours in (
        ("http://127.0.0.1:8000", gateway.url),
        ("fc_key_..._...", gateway.key),
        ("key_...", credentials(gateway)["aws_access_key_id"]),
        ("smollm2-135m", MODEL),
        ('"maxTokens": 64', '"maxTokens": 8'),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    exec(example, {})
    assert capsys.readouterr().out.startswith("flex 8\n")
