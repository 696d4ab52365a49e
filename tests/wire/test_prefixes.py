"""Cache points as callers write them: understood in both forms, cut out before any engine sees them (R28)."""

import json

import pytest

from fareclass.core.outcomes import Refusal
from fareclass.wire import prefixes

POINT = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def taken(fields):
    points = prefixes.take_points(fields)
    assert b"cache_control" not in json.dumps(fields).encode()
    return [block.ttl_s for block in prefixes.blocks(fields, points)]


def text(words="hello", **more):
    return {"type": "text", "text": words, **more}


def test_r28_points_stand_behind_tools_messages_and_parts_in_the_prompts_order():
    fields = {
        "messages": [
            {"role": "system", "content": [text(), text(**POINT)]},
            {"role": "user", "content": "hi", **POINT},
            {"role": "user", "content": [text(prompt_cache_breakpoint={"mode": "explicit", "ttl": "5m"}), text()]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}, **HOUR}],
    }
    assert taken(fields) == [3600, 0, 300, 300, 300, 0]


def test_r28_a_tools_function_may_carry_its_point():
    tools = [{"type": "function", "function": {"name": "f", **HOUR}}, {"type": "function", "function": {"name": "g"}}]
    assert taken({"messages": [{"role": "user", "content": "hi"}], "tools": tools}) == [3600, 0, 0]


def test_r28_openais_thirty_minutes_are_kept_for_an_hour():
    point = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    assert taken({"messages": [{"role": "user", "content": [text(**point)]}]}) == [3600]


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([text(**POINT)] * 5, "messages[0].content[4].cache_control"),
        ([text(**POINT), text(**HOUR)], "messages[0].content[1].cache_control.ttl"),
        ([text(cache_control={"type": "ephemeral", "ttl": "2h"})], "messages[0].content[0].cache_control.ttl"),
        ([text(cache_control={"type": "ephemeral", "ttl": ["1h"]})], "messages[0].content[0].cache_control.ttl"),
        ([text(cache_control={"type": "forever"})], "messages[0].content[0].cache_control"),
        ([text(cache_control=True)], "messages[0].content[0].cache_control"),
        ([text(prompt_cache_breakpoint={"mode": "x"})], "messages[0].content[0].prompt_cache_breakpoint"),
    ],
)
def test_r28_a_point_that_can_not_be_meant_is_refused_by_its_path(parts, param):
    fields = json.loads(json.dumps({"messages": [{"role": "user", "content": parts}]}))
    with pytest.raises(Refusal) as refused:
        prefixes.take_points(fields)
    assert refused.value.param == param


def test_a_point_changes_nothing_of_the_prompt_it_stands_in():
    """R28: where points stand differs from turn to turn; the digests must not."""
    plain = {"messages": [{"role": "user", "content": [text(), text("more")]}]}
    marked = {"messages": [{"role": "user", "content": [text(**POINT), text("more")]}]}
    points = prefixes.take_points(marked)
    assert [block.data for block in prefixes.blocks(marked, points)] == [
        block.data for block in prefixes.blocks(plain, {})
    ]


def test_inline_media_count_as_a_picture_and_not_by_their_base64():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    (block,) = prefixes.blocks({"messages": [{"role": "user", "content": [image]}]}, {})
    assert block.size < 5_000 < len(block.data)
