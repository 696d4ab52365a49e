"""Bodies of the Messages API as requests of a chat: what goes up, what is refused, and in whose words."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Project
from fareclass.wire.anthropic import ENDPOINT
from fareclass.wire.arrival import Arrival

ARRIVAL = Arrival("req_1", "", None, None, None, None, 0.0, 0)
KEY = Key(id="key_a", project=Project(id="proj_a", name="acme"), name="app", secret=b"")
POINT = {"type": "ephemeral"}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
TOOL = {"name": "paint", "description": "Paints.", "input_schema": {"type": "object"}}
WALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Paint it."},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Red?", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I "},
            {"type": "text", "text": "paint."},
            {"type": "tool_use", "id": "t1", "name": "paint", "input": {"colour": "red"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "no"}], "is_error": True},
            {"type": "text", "text": "Look:"},
            PIXEL,
        ],
    },
]


def parse(**body: Any) -> Request:
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **body}
    return ENDPOINT.parse(msgspec.json.encode(asked), ARRIVAL, KEY)


@pytest.mark.parametrize("content", ["{", [{"type": "text", "text": "{"}]])
def test_r11_an_answer_goes_on_with_a_last_turn_of_the_assistant(content):
    user, begun = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}
    request = parse(messages=[user, begun])
    assert request.body["messages"] == [user, {"role": "assistant", "content": "{"}]
    assert request.body["continue_final_message"] is True and not request.extra
    for turns in ([user], [user, begun, user], [user, {"role": "assistant", "content": WALK[1]["content"]}]):
        assert "continue_final_message" not in parse(messages=turns).body


def test_r50_a_caller_does_not_say_so_itself():
    request = parse(continue_final_message=True)
    assert "continue_final_message" not in request.body and request.extra == {"continue_final_message": True}


def refused(**body: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(**body)
    assert caught.value.outcome is Outcome.INVALID
    return caught.value


def test_turns_of_every_kind_become_messages():
    body = parse(messages=WALK, system=[{"type": "text", "text": "Be brief."}]).body
    call = {"id": "t1", "type": "function", "function": {"name": "paint", "arguments": '{"colour":"red"}'}}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Paint it."},
        {"role": "assistant", "content": "I paint.", "reasoning_content": "Red?", "tool_calls": [call]},
        {"role": "tool", "content": "Error: no", "tool_call_id": "t1"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]


def test_r1_fields_become_those_of_a_chat():
    request = parse(
        tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}, stop_sequences=["x"], top_k=3,
        temperature=0.5, top_p=0.9, metadata={"user_id": "u"}, service_tier="flex", stream=True,
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    )  # fmt: skip
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["x"],
        "user": "u",
        "tools": [
            {
                "type": "function",
                "function": {"name": "paint", "parameters": {"type": "object"}, "description": "Paints."},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
        },
        "reasoning_effort": "high",
    }
    assert (request.endpoint, request.path, request.tier_word) == ("messages", "/chat/completions", "flex")
    assert (request.stop, request.max_tokens, request.stream, request.constrained) == (("x",), 9, True, True)


@pytest.mark.parametrize(
    ("word", "tier"), [("standard_only", "default"), ("auto", "auto"), ("priority", "priority"), (None, None)]
)
def test_r2_tiers_of_this_api(word, tier):
    assert parse(service_tier=word).tier_word == tier


def test_thinking_is_switched_in_the_template_and_its_exact_budget_is_named_as_dropped():
    request = parse(thinking={"type": "enabled", "budget_tokens": 5000})
    assert request.body["chat_template_kwargs"] == {"enable_thinking": True}
    assert request.body["reasoning_effort"] == "medium"
    assert request.extra == {"thinking.budget_tokens": 5000}
    assert not request.continuable
    off = parse(thinking={"type": "disabled"})
    assert off.body["chat_template_kwargs"] == {"enable_thinking": False} and off.continuable


def test_r50_what_nobody_knows_is_kept_apart_and_a_chats_own_fields_are_refused():
    assert parse(speed="fast", chat_template_kwargs={}).extra == {"speed": "fast", "chat_template_kwargs": {}}
    assert refused(n=2).param == "n"
    assert refused(chat_template_kwargs={}, thinking={"type": "disabled"}).param == "chat_template_kwargs"


def points(**body: Any) -> list[int]:
    """The TTL at each block of the prompt."""
    return [block.ttl_s for block in parse(**body).blocks()]


def test_r28_cache_points_stand_where_they_were_set():
    told = {"type": "text", "text": "b", "cache_control": POINT}
    assert points(
        tools=[{**TOOL, "cache_control": {**POINT, "ttl": "1h"}}],
        system=[{"type": "text", "text": "a"}, told],
        messages=[{"role": "user", "content": [told]}, {"role": "user", "content": [told, PIXEL]}],
    ) == [3600, 0, 300, 300, 300, 0]
    assert points(messages=WALK, cache_control=POINT) == [0, 0, 0, 0, 300]
    last = [*WALK[:2], {"role": "user", "content": [{**WALK[2]["content"][0], "cache_control": POINT}]}]
    assert points(messages=last, cache_control={**POINT, "ttl": "1h"}) == [0, 0, 300]


def test_r28_a_prompt_has_the_same_blocks_with_a_cache_point_and_without():
    plain = {"type": "text", "text": "long"}
    with_point = parse(messages=[{"role": "user", "content": [{**plain, "cache_control": POINT}]}])
    without = parse(messages=[{"role": "user", "content": "long"}])
    assert [block.data for block in with_point.blocks()] == [block.data for block in without.blocks()]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [WALK[1]["content"][4]]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [PIXEL]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            "messages[0].content[0].x",
        ),
        (
            {"messages": [*WALK, {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "ftp://x"}}]}]},
            "messages[3].content[0].source.url",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "cache_control": {"type": "x"}}]}, "tools[0].cache_control.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"system": [{"type": "text", "text": "a", "cache_control": POINT}] * 5}, "system[4].cache_control"),
        (
            {
                "system": [{"type": "text", "text": "a", "cache_control": POINT}],
                "messages": [{"role": "user", "content": [PIXEL, {"type": "text", "text": "a", "cache_control": {**POINT, "ttl": "1h"}}]}],
            },
            "messages[0].content[1].cache_control.ttl",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_at_their_place_in_the_callers_own_body(body, param):
    refusal = refused(**body)
    assert refusal.param == param
    assert f"`{param}" in refusal.message or param.removesuffix(".ttl").removesuffix(".type") in refusal.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
WHOLE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": WALK,
    "system": [{"type": "text", "text": "a", "cache_control": POINT}],
    "tools": [TOOL],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "cache_control": POINT,
    "metadata": {"user_id": "u"},
}


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] + [place for name, child in inner for place in places(child, (*path, name))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(WHOLE)), JSON)
def test_any_json_at_any_place_gives_a_request_or_a_refusal(place, value):
    body: Any = json.loads(json.dumps(WHOLE))
    node = {"": body}
    at: Any = ""
    for name in place:
        node, at = node[at], name
    node[at] = value
    raw = json.dumps(body if place else value).encode()
    refusal = None
    try:
        request = ENDPOINT.parse(raw, ARRIVAL, KEY)
    except Refusal as error:
        refusal = error
    else:
        list(request.blocks())
        msgspec.json.encode(request.body)
    assert refusal is None or (refusal.outcome is Outcome.INVALID and refusal.message)
