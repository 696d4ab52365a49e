"""Bodies of Converse and InvokeModel as requests of a chat: what goes up, what is refused, and in whose words."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Project
from fareclass.wire.arrival import Arrival
from fareclass.wire.bedrock_words import Places, own_words
from fareclass.wire.routes import find

ARRIVAL = Arrival("req_1", "", None, None, None, None, 0.0, 0)
KEY = Key(id="key_a", project=Project(id="proj_a", name="acme"), name="app", secret=b"")
POINT = {"cachePoint": {"type": "default"}}
IMAGE = {"image": {"format": "png", "source": {"bytes": "AAAA"}}}
TOOL = {"toolSpec": {"name": "paint", "description": "Paints.", "inputSchema": {"json": {"type": "object"}}}}
HI = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WALK: list[dict[str, Any]] = [
    {"role": "user", "content": [{"text": "Paint it."}]},
    {
        "role": "assistant",
        "content": [
            {"reasoningContent": {"reasoningText": {"text": "Red?", "signature": "s"}}},
            {"reasoningContent": {"redactedContent": "eA=="}},
            {"text": "I "},
            {"text": "paint."},
            {"toolUse": {"toolUseId": "t1", "name": "paint", "input": {"colour": "red"}}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "t1", "content": [{"text": "no"}], "status": "error"}},
            {"toolResult": {"toolUseId": "t2", "content": [{"json": {"a": 1}}, IMAGE]}},
            {"text": "Look:"},
            IMAGE,
        ],
    },
]


def at(call: str = "converse", of: str = "m", arrival: Arrival = ARRIVAL, **body: Any) -> Request:
    endpoint = find({"path": f"/model/{of}/{call}"})
    assert endpoint is not None
    return endpoint.parse(msgspec.json.encode(body), arrival, KEY)


def parse(**body: Any) -> Request:
    return at(**HI | body)


def test_r11_an_answer_goes_on_with_a_last_turn_of_the_assistant():
    begun = {"role": "assistant", "content": [{"text": "{"}]}
    request = parse(messages=[*HI["messages"], begun])
    assert request.body["messages"][-1] == {"role": "assistant", "content": "{"}
    assert request.body["continue_final_message"] is True
    for turns in (HI["messages"], [*HI["messages"], begun, *HI["messages"]], WALK[:2]):
        assert "continue_final_message" not in parse(messages=turns).body


def refused(**body: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        at(**body)
    assert caught.value.outcome is Outcome.INVALID
    return caught.value


def test_turns_of_every_kind_become_messages():
    body = parse(messages=WALK, system=[{"text": "Be brief."}]).body
    call = {"id": "t1", "type": "function", "function": {"name": "paint", "arguments": '{"colour":"red"}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Paint it."},
        {"role": "assistant", "content": "I paint.", "reasoning_content": "Red?", "tool_calls": [call]},
        {"role": "tool", "content": "Error: no", "tool_call_id": "t1"},
        {"role": "tool", "content": [{"type": "text", "text": '{"a":1}'}, picture], "tool_call_id": "t2"},
        {"role": "user", "content": [{"type": "text", "text": "Look:"}, picture]},
    ]


def test_a_result_may_be_the_json_null():
    result = {"toolResult": {"toolUseId": "t", "content": [{"json": None}]}}
    assert parse(messages=[{"role": "user", "content": [result]}]).body["messages"][0]["content"] == "null"


def test_r1_fields_become_those_of_a_chat():
    request = parse(
        inferenceConfig={"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["x"]},
        toolConfig={"tools": [TOOL], "toolChoice": {"any": {}}},
        additionalModelRequestFields={"top_k": 5, "seed": 1, "mystery": 2},
        requestMetadata={"team": "a"},
        serviceTier={"type": "flex"},
        outputConfig={
            "effort": "max",
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(SCHEMA)}}},
        },
    )
    function = {"name": "paint", "description": "Paints.", "parameters": {"type": "object"}}
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "top_k": 5,
        "seed": 1,
        "metadata": {"team": "a"},
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
    }
    assert (request.tier_word, request.endpoint, request.stream, request.max_tokens) == ("flex", "converse", False, 9)
    assert dict(request.extra) == {"mystery": 2}
    assert request.constrained and not request.continuable


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"auto": {}}, "auto"),
        ({"any": {}}, "required"),
        ({"tool": {"name": "paint"}}, {"type": "function", "function": {"name": "paint"}}),
    ],
)
def test_which_tool_is_to_be_called(choice, chosen):
    more = {"toolSpec": {"name": "other", "inputSchema": {"json": {}}}}
    config = {"tools": [TOOL, more], "toolChoice": choice}
    assert parse(toolConfig=config).body["tool_choice"] == chosen


def test_thinking_is_switched_in_the_template_and_its_exact_budget_is_named_as_dropped():
    request = parse(additionalModelRequestFields={"thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert request.body["chat_template_kwargs"] == {"enable_thinking": True}
    assert (request.body["reasoning_effort"], request.continuable) == ("low", False)
    assert list(request.extra) == ["thinking.budget_tokens"]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("m", "m"),
        ("meta/m", "meta/m"),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/m", "m"),
        ("arn:aws:bedrock:us-east-1::foundation-model/meta/m", "meta/m"),
    ],
)
def test_a_model_is_named_by_itself_or_by_the_end_of_an_arn(path, model):
    for call in ("converse", "converse-stream"):
        assert (at(call, path, **HI).model, at(call, path, **HI).stream) == (model, call == "converse-stream")


@pytest.mark.parametrize("path", ["/model//converse", "/model/converse", "/model/m/", "/model/m/other", "/model/"])
def test_other_paths_are_no_calls(path):
    assert find({"path": path}) is None


def test_r50_what_changes_little_is_named_as_dropped():
    request = parse(
        performanceConfig={"latency": "optimized"}, additionalModelResponseFieldPaths=["/stop_sequence"], mystery=1
    )
    assert sorted(request.extra) == ["additionalModelResponseFieldPaths", "mystery", "performanceConfig"]


def points(**body: Any) -> list[int]:
    return [block.ttl_s for block in parse(**body).blocks()]


def test_r28_cache_points_stand_behind_what_they_keep():
    hour = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert points(toolConfig={"tools": [TOOL, hour]}, system=[{"text": "a"}, POINT]) == [3600, 300, 0]
    texts = [{"text": "a"}, {"text": "b"}, POINT, {"text": "c"}]
    assert points(messages=[{"role": "user", "content": texts}]) == [0, 300, 0]
    assert "cache" not in json.dumps(parse(messages=[{"role": "user", "content": texts}]).body)


def test_r28_a_prompt_has_the_same_blocks_with_a_cache_point_and_without():
    def blocks(*more: Any) -> list[bytes]:
        said = [{"role": "user", "content": [{"text": "a"}, *more]}]
        return [block.data for block in parse(system=[{"text": "s"}, *more], messages=said).blocks()]

    assert blocks() == blocks(POINT)


def with_content(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


CALL = {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}
MISTAKES = [
    ({}, "`messages` is required"),
    ({"messages": []}, "`messages` has the wrong"),
    (with_content({"text": 1}), "`messages[0].content[0].text` has the wrong"),
    (with_content({}), "`messages[0].content[0]` must have exactly one of `text`, `image`, `toolUse`"),
    (with_content({"text": "a", **IMAGE}), "`messages[0].content[0]` must have exactly one"),
    (with_content({"text": "a"}, {"document": {}}), "`messages[0].content[1].document` is not supported"),
    (with_content({"video": {}}), "`messages[0].content[0].video` is not supported"),
    (with_content({"guardContent": {}}), "`messages[0].content[0].guardContent` is not supported"),
    (
        with_content({"image": {"format": "png", "source": {"s3Location": {"uri": "s3://a/b"}}}}),
        "`messages[0].content[0].image.source.s3Location` is not supported",
    ),
    (with_content(POINT), "`messages[0].content[0].cachePoint` follows nothing"),
    (with_content(CALL), "`messages[0].content[0].toolUse` has no place in a message of role user"),
    (with_content(IMAGE, role="assistant"), "`messages[0].content[0].image` has no place"),
    (
        with_content({"text": "a"}, *[{"text": "b"}, POINT] * 5),
        "The `cachePoint` behind `messages[0].content[9]` is cache point number 5",
    ),
    ({**HI, "system": [POINT]}, "`system[0].cachePoint` follows nothing"),
    ({**HI, "toolConfig": {"tools": [{"systemTool": {}}]}}, "`toolConfig.tools[0].systemTool` is not supported"),
    (
        {**HI, "toolConfig": {"tools": [TOOL], "toolChoice": {"tool": {"name": "x"}}}},
        "`toolConfig.toolChoice.tool.name` is none of `toolConfig.tools`",
    ),
    ({**HI, "toolConfig": {"tools": [], "toolChoice": {"any": {}}}}, "`toolConfig.toolChoice.any` needs"),
    ({**HI, "inferenceConfig": {"maxTokens": 0}}, "`inferenceConfig.maxTokens` has the wrong"),
    ({**HI, "inferenceConfig": {"topK": 1}}, "`inferenceConfig.topK` is not supported"),
    ({**HI, "guardrailConfig": {"guardrailIdentifier": "g"}}, "`guardrailConfig` is not supported"),
    ({**HI, "promptVariables": {"a": {"text": "b"}}}, "`promptVariables` is not supported"),
    ({**HI, "temperature": 1}, "`temperature` is no field of the Converse API"),
    ({**HI, "additionalModelRequestFields": {"n": 2}}, "`additionalModelRequestFields.n` can't be given here"),
    ({**HI, "additionalModelRequestFields": {"messages": []}}, "`additionalModelRequestFields.messages` can't"),
    ({**HI, "additionalModelRequestFields": {"seed": "x"}}, "`additionalModelRequestFields.seed` has the wrong"),
    ({**HI, "additionalModelRequestFields": {"top_k": "x"}}, "`additionalModelRequestFields.top_k` has the wrong"),
    (
        {**HI, "additionalModelRequestFields": {"thinking": {"type": "enabled"}}},
        "`additionalModelRequestFields.thinking.budget_tokens` is required",
    ),
    (
        {
            **HI,
            "outputConfig": {
                "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "[]"}}},
            },
        },
        "`outputConfig.textFormat.structure.jsonSchema.schema` must be the text of a JSON object",
    ),
]


@pytest.mark.parametrize(("body", "message"), MISTAKES)
def test_mistakes_are_told_at_their_place_in_the_callers_own_body(body, message):
    assert refused(**body).message.startswith(message)


def test_refusals_behind_the_wire_name_the_callers_own_fields():
    tools = {"tools": [TOOL, POINT, TOOL]}
    asked = parse(toolConfig=tools, messages=WALK).asked
    assert isinstance(asked, Places)
    theirs = "`messages[4].content[1].image_url.url`, `tools[1].function.parameters`, `max_tokens`, `service_tier`"
    said = own_words(Refusal(Outcome.INVALID, theirs, param="max_tokens", retry=False), asked)
    assert said.message == (
        "`messages[2].content[3].image.source.bytes`, `toolConfig.tools[2].toolSpec.inputSchema.json`, "
        "`inferenceConfig.maxTokens`, `serviceTier.type`"
    )
    assert (said.param, said.retry) == ("inferenceConfig.maxTokens", False)


MESSAGES = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
FLEX = msgspec.structs.replace(ARRIVAL, service_tier=b"flex")


@pytest.mark.parametrize("body", [MESSAGES, CHAT])
def test_r1_both_bodies_of_invoke_take_model_and_tier_from_outside_of_them(body):
    for call in ("invoke", "invoke-with-response-stream"):
        request = at(call, "arn:aws:bedrock:us-east-1::foundation-model/m", FLEX, **body)
        assert (request.model, request.tier_word, request.endpoint) == ("m", "flex", "invoke")
        assert request.stream is (call != "invoke")
        assert request.body["messages"] == [{"role": "user", "content": "Hi"}]
        assert request.body["max_tokens"] == 9 and not request.extra


@pytest.mark.parametrize("body", [MESSAGES, CHAT])
@pytest.mark.parametrize(
    ("more", "arrival", "message"),
    [
        ({"model": "other"}, ARRIVAL, "`model` names another model"),
        ({"stream": True}, ARRIVAL, "`stream` must be left out"),
        ({"service_tier": "priority"}, FLEX, "`service_tier` and the header"),
        ({}, msgspec.structs.replace(ARRIVAL, guardrail=b"g"), "Guardrails are not supported"),
        ({"messages": []}, ARRIVAL, "`messages` has the wrong"),
    ],
)
def test_what_contradicts_is_refused(body, more, arrival, message):
    assert refused(call="invoke", arrival=arrival, **body | more).message.startswith(message)


FULL = {
    "messages": WALK,
    "system": [{"text": "s"}, POINT],
    "toolConfig": {"tools": [TOOL, POINT], "toolChoice": {"auto": {}}},
    "inferenceConfig": {"maxTokens": 9},
    "serviceTier": {"type": "flex"},
    "additionalModelRequestFields": {"top_k": 1, "thinking": {"type": "disabled"}},
    "outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}"}}}},
}


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for name, each in inner for place in places(each, (*path, name)))]


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from([place for place in places(FULL) if place]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_json_at_any_place_gives_a_request_or_a_refusal(place, value):
    body = json.loads(json.dumps(FULL))
    *way, last = place
    inside = body
    for step in way:
        inside = inside[step]
    inside[last] = value
    try:
        outcome = Outcome.COMPLETED if at(**body).body["messages"] else None
    except Refusal as refusal:
        outcome = refusal.outcome if refusal.message else None
    assert outcome in (Outcome.COMPLETED, Outcome.INVALID)
