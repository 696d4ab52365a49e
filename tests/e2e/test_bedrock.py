"""boto3 and what is built on it, unmodified, against the real engine: only `endpoint_url` is ours."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from langchain_aws import ChatBedrockConverse
from langchain_core.messages import HumanMessage, ToolMessage
from pydantic import BaseModel

from fareclass.core.tokens import key_id
from tests.e2e.gateway import MODEL, Gateway, behind, cost, local
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


def client(gateway: Gateway, attempts: int = 1) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
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


def test_the_anthropic_sdk_for_bedrock(gateway):
    greedy = {"extra_body": {"temperature": 0}}
    asked = {"model": MODEL, "messages": CHAT["messages"], "max_tokens": 6, **greedy}
    names = {"aws_access_key": "aws_access_key_id", "aws_secret_key": "aws_secret_access_key"}
    keys = {theirs: credentials(gateway)[ours] for theirs, ours in names.items()}
    with anthropic.AnthropicBedrock(**keys, aws_region="us-east-1", base_url=gateway.url, max_retries=0) as sdk:
        whole = sdk.messages.create(**asked)
        with sdk.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
        assert (stream.get_final_message().usage.output_tokens, whole.usage.output_tokens) == (6, 6)


def test_structured_output_is_obeyed_by_the_engine(bedrock):
    """By a tool that must be called, as is usual here, and by a format of the text."""
    question = [{"role": "user", "content": [{"text": "Pick a colour."}]}]
    asked = ASKED | {"messages": question, "inferenceConfig": {"maxTokens": 60, "temperature": 0}}
    config = {"tools": [TOOL], "toolChoice": {"tool": {"name": "paint"}}}
    answer = bedrock.converse(**asked, toolConfig=config)
    (call,) = [block["toolUse"] for block in answer["output"]["message"]["content"] if "toolUse" in block]
    assert (call["name"], call["input"].keys(), answer["stopReason"]) == ("paint", {"colour"}, "tool_use")
    form = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA)}}}
    answer = bedrock.converse(**asked, outputConfig={"textFormat": form})
    assert json.loads(text(answer)).keys() == {"colour"}


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


async def test_r30_what_was_cached_is_told_as_this_api_counts(launch):
    settings = local(slots=2)
    settings["models"][MODEL] |= {"cache": {"min_tokens": 50}}
    gateway = await launch(settings)
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
    for row, usage in zip(await gateway.recorded(2), (first, second), strict=True):
        assert (row["input"], row["cache_write_1h"], row["cache_read"]) == (
            usage["inputTokens"], usage["cacheWriteInputTokens"], usage["cacheReadInputTokens"],
        )  # fmt: skip


def test_tokens_are_counted_by_the_models_own_tokenizer_and_not_billed(gateway, bedrock):
    before = len(gateway.rows())

    def count(**given: Any) -> int:
        return bedrock.count_tokens(modelId=MODEL, input=given)["inputTokens"]

    few = count(converse={"messages": ASKED["messages"]})
    many = count(converse={"messages": ASKED["messages"], "system": [{"text": LONG}], "toolConfig": {"tools": [TOOL]}})
    assert few == count(invokeModel={"body": json.dumps(MESSAGES)}) == count(invokeModel={"body": json.dumps(CHAT)})
    assert many > few + 150
    used = bedrock.converse(**ASKED)["usage"]
    assert 1 < few <= used["inputTokens"] + used["cacheReadInputTokens"]
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


async def test_r14_r25_a_throttle_and_what_boto3_makes_of_it(pair, launch, monkeypatch):
    """Its standard mode sleeps as long as it is told to, and its second try is answered."""
    gateway = await launch(behind(pair[0].url))
    await gateway.limit(rpm=1)
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    def note(seconds: float) -> None:
        waits.append(seconds)
        asyncio.run_coroutine_threadsafe(gateway.limit(rpm=100), loop).result()

    def ask() -> dict[str, Any]:
        client(gateway).converse(**ASKED)
        with pytest.raises(ClientError) as caught:
            client(gateway).converse(**ASKED)
        told: dict[str, Any] = caught.value.response
        monkeypatch.setattr(time, "sleep", note)
        answer = client(gateway, attempts=2).converse(**ASKED)
        assert answer["ResponseMetadata"]["RetryAttempts"] == 1 and text(answer)
        return told

    told = await asyncio.to_thread(ask)
    assert told["Error"]["Code"] == "ThrottlingException"
    told_s = int(told["ResponseMetadata"]["HTTPHeaders"]["x-amz-retry-after"]) / 1000
    assert len(waits) == 1 and min(told_s, 5) - 1 < waits[0] <= told_s + 1


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


class Paint(BaseModel):
    """Paint a wall in a colour."""

    colour: str


def langchain(gateway: Gateway, **more: Any) -> ChatBedrockConverse:
    """It knows nothing of our models, so it is told that they stream and take a choice of tools."""
    abilities = {"disable_streaming": False, "supports_tool_choice_values": ("auto", "any", "tool")}
    return ChatBedrockConverse(
        model=MODEL,
        provider="anthropic",
        endpoint_url=gateway.url,
        max_tokens=60,
        **abilities,
        **credentials(gateway),
        **more,
    )


def test_langchain(gateway):
    model = langchain(gateway, temperature=0)
    answer = model.invoke([HumanMessage("Name three colours.")])
    assert answer.text and answer.usage_metadata["total_tokens"] > 0
    pieces = list(model.stream([HumanMessage("Name three colours.")]))
    assert "".join(piece.text for piece in pieces) == answer.text
    paint = model.with_structured_output(Paint).invoke("Pick a colour.")
    assert isinstance(paint, Paint)


async def test_langchain_gives_a_tools_result_back(pair, launch):
    upstream = pair[0]
    upstream.play = call_a_tool
    gateway = await launch(behind(upstream.url))

    def walk() -> None:
        model = langchain(gateway).bind_tools([Paint])
        asked = HumanMessage(QUESTION)
        first = model.invoke([asked])
        (call,) = first.tool_calls
        assert (call["name"], call["args"]) == ("paint", {"colour": "red"})
        model.invoke([asked, first, ToolMessage("done", tool_call_id=call["id"])])

    await asyncio.to_thread(walk)
    *_, said, result = upstream.turns[-1].body["messages"]
    assert said["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert result["content"] == "done"


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
