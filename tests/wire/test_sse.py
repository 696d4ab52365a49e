"""R4, R11: answers changed byte by byte must stay the answers that the engine gave."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fareclass.core.usage import Usage
from fareclass.wire.sse import Stamp, stamp_body

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOSTILE = (
    "}\n\n", "data: {", '"service_tier":"x"', ',"service_tier":null', '"model":"up"', '"id":"c1"', '"created":5', "\\", '"',
    "}\\n\\n", '{"model":"up","id":"c1"}', "\r\n\r\n", "\u2028", "data: [DONE]\n\n",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=10), max_size=6).map("".join)


def event(
    text: str, *, id: str = "c1", created: int = 5, model: str = "up", delta: dict | None = None, **more: Any
) -> bytes:
    chunk = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": delta or {"content": text}, "finish_reason": None}],
    }
    return b"data: " + msgspec.json.encode(chunk | more) + b"\n\n"


def read(events: bytes) -> list[dict[str, Any]]:
    assert events.endswith(b"\n\n")
    return [msgspec.json.decode(one.removeprefix(b"data: ")) for one in events[:-2].split(b"\n\n")]


def test_r4_golden_bytes_of_a_stream():
    stamp = Stamp("flex", "pub", {})
    assert stamp.stamp(event("Hi") + event("!")) == (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"pub","choices":[{"index":0,"delta":'
        b'{"content":"Hi"},"finish_reason":null}],"service_tier":"flex"}\n\n'
        b'data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"pub","choices":[{"index":0,"delta":'
        b'{"content":"!"},"finish_reason":null}],"service_tier":"flex"}\n\n'
    )
    assert stamp.usage(Usage(input=5, cache_read=4, cache_write_5m=2, cache_write_1h=1, output=3)) == (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"pub","choices":[],"service_tier":"flex",'
        b'"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,'
        b'"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":3}}}\n\n'
    )


@patient
@given(texts=st.lists(TEXT, min_size=1, max_size=4), model=st.sampled_from(["up", "pub", "org/m"]))
def test_r4_no_text_is_ever_changed(texts, model):
    stamp = Stamp("flex", "pub", {})
    for text in texts:
        (chunk,) = read(stamp.stamp(event(text, model=model)))
        assert chunk["choices"][0]["delta"] == {"content": text}
        assert (chunk["id"], chunk["model"], chunk["service_tier"]) == ("c1", "pub", "flex")


@patient
@given(text=TEXT, arguments=TEXT)
def test_r11_nor_is_it_in_a_continuation(text, arguments):
    stamp = Stamp("flex", "pub", {})
    stamp.stamp(event(text))
    stamp.continued()
    call = {"tool_calls": [{"index": 0, "id": "c2", "function": {"arguments": arguments}}]}
    first, second = read(stamp.stamp(event("", id="c2", created=9, delta={"role": "assistant"}) + event(text, id="c2")))
    (third,) = read(stamp.stamp(event(text, id="c2", created=11, delta={"content": text} | call)))
    assert second["choices"][0]["delta"]["content"] == third["choices"][0]["delta"]["content"] == text
    assert third["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == arguments
    assert first["choices"][0]["delta"] == {}
    assert {(one["id"], one["created"], one["model"]) for one in (first, second, third)} == {("c1", 5, "pub")}


@pytest.mark.parametrize("theirs", ["null", '"default"', '"scale"'])
@pytest.mark.parametrize("shape", ['{{"service_tier":{},"id":"c","model":"up"}}', '{{"id":"c","service_tier": {},"model":"up"}}',
                                   '{{"id":"c","model":"up" , "service_tier":{}}}'])  # fmt: skip
def test_r4_an_engines_own_tier_is_replaced(theirs, shape):
    raw = shape.format(theirs).encode()
    assert stamp_body(raw, "flex", "pub").count(b"service_tier") == 1
    assert msgspec.json.decode(stamp_body(raw, "flex", "pub")) == {"id": "c", "model": "pub", "service_tier": "flex"}
    assert read(Stamp("flex", "pub", {}).stamp(b"data: " + raw + b"\n\n")) == [
        {"id": "c", "model": "pub", "service_tier": "flex"}
    ]


@patient
@given(text=TEXT)
def test_r4_a_whole_body_keeps_its_text(text):
    raw = msgspec.json.encode({"choices": [{"message": {"content": text}}], "model": "up", "id": "x"})
    body = msgspec.json.decode(stamp_body(raw + b"\n", "priority", "pub"))
    assert body == {"choices": [{"message": {"content": text}}], "model": "pub", "id": "x", "service_tier": "priority"}


def test_a_model_name_is_found_however_the_engine_writes_it():
    raw = b'data: {"id": "c1", "model": "meta\\/Llama", "choices": []}\n\n'
    stamp = Stamp("flex", "pub", {})
    assert [chunk["model"] for chunk in read(stamp.stamp(raw) + stamp.stamp(raw))] == ["pub", "pub"]


def test_the_public_name_may_hold_anything():
    name = 'a"b\\1\\g<0>é'
    assert msgspec.json.decode(stamp_body(b'{"model":"up"}', "flex", name))["model"] == name
    assert read(Stamp("flex", name, {}).stamp(event("x")))[0]["model"] == name


def test_r11_usage_of_a_continued_stream_belongs_to_the_first_call():
    stamp = Stamp("flex", "pub", {})
    stamp.stamp(event("a"))
    for number in (2, 3):
        stamp.continued()
        stamp.stamp(event("b", id=f"c{number}", created=number))
    (chunk,) = read(stamp.usage(Usage(input=1, output=2)))
    assert (chunk["id"], chunk["created"], chunk["choices"]) == ("c1", 5, [])


def test_a_stream_without_any_event_still_has_an_identity():
    stamp = Stamp("flex", "pub", {"id": "req_1", "object": "chat.completion.chunk", "created": 3})
    (chunk,) = read(stamp.usage(Usage()))
    assert (chunk["id"], chunk["object"], chunk["created"], chunk["model"]) == (
        "req_1",
        "chat.completion.chunk",
        3,
        "pub",
    )
