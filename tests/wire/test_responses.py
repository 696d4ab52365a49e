"""OpenAI Responses, translated: bodies to a chat, a chat's answer to items and events (R1, R4, R50, R51)."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.deadlines import Deadlines
from fareclass.wire.chat_events import choices
from fareclass.wire.project_plane import Streamed
from fareclass.wire.recording import Recording
from fareclass.wire.responses import ENDPOINT, History, ResponsesEndpoint
from fareclass.wire.responses_background import follow
from fareclass.wire.responses_reply import Answered, ResponsesDialect
from tests.wire.plane import chunk, served_as
from tests.wire.test_openai_parse import ARRIVAL, KEY

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
USAGE = Usage(input=5, cache_read=4, output=3)
PIXEL = "data:image/png;base64,AA=="


def read(endpoint: ResponsesEndpoint = ENDPOINT, **body: Any) -> Request:
    return endpoint.parse(json.dumps({"model": "m", "input": "Hello"} | body).encode(), ARRIVAL, KEY)


def refused(**body: Any) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        read(**body)
    assert caught.value.outcome is Outcome.INVALID
    return caught.value.message, caught.value.param


def said(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return chunk("", choices=[{"index": 0, "delta": delta, "finish_reason": reason}])


def streamed(*events: bytes, **body: Any) -> bytes:
    request = read(stream=True, **body)
    dialect = ENDPOINT.dialect(ARRIVAL, request)
    return dialect.begin(served_as(request)) + b"".join(map(dialect.events, events)) + dialect.end(USAGE)


def decoded(stream: bytes) -> list[dict[str, Any]]:
    found = [event.split(b"\ndata: ", 1) for event in stream.split(b"\n\n")[:-1]]
    events = [msgspec.json.decode(data) for _, data in found]
    assert [name for name, _ in found] == [b"event: " + event["type"].encode() for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_a_whole_request_becomes_a_chat():
    weather = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
    request = read(
        input=[
            {"role": "user", "content": "What is it like?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I'll look."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "low"}]},
        ],
        instructions="Be kind.",
        tools=[weather],
        tool_choice={"type": "function", "name": "weather"},
        text={"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=9,
        service_tier="flex",
        metadata={"a": "b"},
        top_k=3,
        prompt_cache_key="k",
    )
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert request.body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is it like?"},
        {"role": "assistant", "content": "I'll look.", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]},
    ]
    function = {"name": "weather", "parameters": {"type": "object"}, "strict": True}
    assert request.body["tools"] == [{"type": "function", "function": function}]
    assert request.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": "object"}}}
    assert request.body["response_format"] == form and request.constrained
    assert (request.body["verbosity"], request.body["reasoning_effort"]) == ("low", "low")
    assert (request.tier_word, request.max_tokens, request.endpoint, request.path) == (
        "flex",
        9,
        "responses",
        "/chat/completions",
    )
    assert request.extra.keys() == {"top_k", "reasoning.summary"} and "metadata" not in request.body


def test_r28_cache_points_stand_on_parts_and_tools():
    point = {"mode": "explicit"}
    part = {"type": "input_text", "text": "long", "prompt_cache_breakpoint": point}
    tool = {"type": "function", "name": "f", "prompt_cache_breakpoint": point}
    request = read(input=[{"role": "user", "content": [part]}], tools=[tool])
    assert [block.ttl_s for block in request.blocks()] == [300, 300]
    assert "prompt_cache_breakpoint" not in json.dumps(request.body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"role": "user", "content": "x"}, {"role": "cat", "content": "x"}]}, "input[1].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {
                "instructions": "x",
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp://x"}]}],
            },
            "input[0].content[0].image_url",
        ),
        (
            {
                "instructions": "x",
                "input": [
                    {
                        "role": "user",
                        "content": [{"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "?"}}],
                    }
                ],
            },
            "input[0].content[0].prompt_cache_breakpoint",
        ),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1_0"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": 7, "name": "f", "arguments": ""}]}, "input[0].call_id"),
        ({"input": []}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"conversation": "c"}, "conversation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "always"}, "truncation"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_r50_what_a_chat_cannot_carry_is_refused_by_name(body, param):
    message, found = refused(**body)
    assert found == param
    assert f"`{param.split('.')[0]}" in message


NAMES = st.sampled_from(
    ["type", "role", "content", "text", "input", "model", "id", "call_id", "name", "arguments", "output", "tools",
     "instructions", "image_url", "format", "schema", "reasoning", "background", "previous_response_id", "metadata"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "item_reference", "input_text", "input_image",
     "output_text", "user", "assistant", "function", "json_schema", "auto", "messages[9]", "\ud800", PIXEL]
)  # fmt: skip
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ITEM = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("type", "role", "content", "call_id", "name", "output"), VALUE | WORDS)
)
BODY = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "input": st.lists(ITEM, max_size=3) | VALUE,
        "tools": st.lists(ITEM, max_size=2) | VALUE,
        "text": st.fixed_dictionaries({"format": ITEM}) | VALUE,
        "tool_choice": VALUE | ITEM,
        "reasoning": VALUE,
        "instructions": VALUE,
        "include": VALUE,
    },
)


@patient
@given(body=BODY, stored=st.lists(ITEM, max_size=2))
def test_r51_any_body_is_a_request_or_a_refusal(body, stored):
    """Nothing that a caller sends makes a fault of ours, nor what an earlier call has stored."""
    endpoint = ResponsesEndpoint(History(stored), keep=lambda answered: None)
    try:
        request = endpoint.parse(json.dumps(body).encode(), ARRIVAL, KEY)
    except Refusal as refusal:
        outcome = refusal.outcome
    else:
        list(request.blocks())
        endpoint.dialect(ARRIVAL, request).whole(served_as(request), chunk_body("x"), USAGE)
        outcome = Outcome.INVALID
    assert outcome is Outcome.INVALID


def chunk_body(text: str, **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": "stop"}
    return msgspec.json.encode({"choices": [choice]})


def golden(number: int, name: str, fields: str) -> bytes:
    return f'event: {name}\ndata: {{"type":"{name}","sequence_number":{number},{fields}}}\n\n'.encode()


def test_golden_bytes_of_a_text_stream():
    stream = streamed(said({"role": "assistant", "content": ""}), chunk("Hel") + chunk('l"o'), said({}, "stop"))
    response = (
        '{"id":"resp_1","object":"response","created_at":1,"status":"STATUS","background":false,"error":null,'
        '"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},'
        '"model":"m","output":OUTPUT,"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,'
        '"reasoning":{"effort":null,"summary":null,"generate_summary":null},"safety_identifier":null,'
        '"service_tier":"default","store":false,"temperature":null,"text":{"format":{"type":"text"},"verbosity":null},'
        '"tool_choice":"auto","tools":[],"top_p":null,"truncation":"disabled","usage":USAGE,"user":null}'
    )
    begun = response.replace("STATUS", "in_progress").replace("OUTPUT", "[]").replace("USAGE", "null")
    part = '{"type":"output_text","text":"TEXT","annotations":[],"logprobs":[]}'
    whole = part.replace("TEXT", 'Hell\\"o')
    item = '{"id":"msg_1_0","type":"message","status":"STATUS","role":"assistant","content":[PART]}'
    done = item.replace("STATUS", "completed").replace("PART", whole)
    usage = (
        '{"input_tokens":9,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":0},"output_tokens":3,'
        '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":12}'
    )
    ended = response.replace("STATUS", "completed").replace("OUTPUT", f"[{done}]").replace("USAGE", usage)
    place = '"item_id":"msg_1_0","output_index":0,"content_index":0'
    opened = item.replace("STATUS", "in_progress").replace("PART", "")
    assert stream == b"".join(
        [
            golden(0, "response.created", f'"response":{begun}'),
            golden(1, "response.in_progress", f'"response":{begun}'),
            golden(2, "response.output_item.added", f'"output_index":0,"item":{opened}'),
            golden(3, "response.content_part.added", f'{place},"part":{part.replace("TEXT", "")}'),
            golden(4, "response.output_text.delta", f'{place},"delta":"Hel","logprobs":[]'),
            golden(5, "response.output_text.delta", f'{place},"delta":"l\\"o","logprobs":[]'),
            golden(6, "response.output_text.done", f'{place},"text":"Hell\\"o","logprobs":[]'),
            golden(7, "response.content_part.done", f'{place},"part":{whole}'),
            golden(8, "response.output_item.done", f'"output_index":0,"item":{done}'),
            golden(9, "response.completed", f'"response":{ended}'),
        ]
    )


def test_golden_bytes_of_reasoning_a_refusal_and_calls():
    def call(index: int, name: str | None = None, arguments: str = "") -> bytes:
        piece = {"index": index, "id": name and f"c_{name}", "function": {"name": name, "arguments": arguments}}
        return said({"tool_calls": [piece]})

    stream = streamed(
        said({"reasoning_content": "Hm"}), said({"reasoning": "."}), said({"refusal": "No."}),
        call(0, "f"), call(0, None, '{"a"'), call(0, None, ":1}"), call(1, "g", "{}"), said({}, "tool_calls"),
    )  # fmt: skip
    begin = stream.index(b"event: response.output_item.added")
    end = stream.index(b"event: response.completed")
    thought, no, f, g = (
        f'"item_id":"{name}","output_index":{at}' for at, name in enumerate(["rs_1_0", "msg_1_1", "fc_1_2", "fc_1_3"])
    )
    first = ',"content_index":0'
    said_item = (
        '"output_index":1,"item":{"id":"msg_1_1","type":"message","status":"%s","role":"assistant","content":[%s]}'
    )
    thought_item = (
        '"output_index":0,"item":{"id":"rs_1_0","type":"reasoning","status":"%s","summary":[],"content":[%s]}'
    )
    call_item = '"output_index":%d,"item":{"id":"fc_1_%d","type":"function_call","status":"%s","call_id":"c_%s","name":"%s","arguments":"%s"}'
    hm, refusal = '{"type":"reasoning_text","text":"%s"}', '{"type":"refusal","refusal":"%s"}'
    expected = [
        ("output_item.added", thought_item % ("in_progress", "")),
        ("content_part.added", f'{thought}{first},"part":{hm % ""}'),
        ("reasoning_text.delta", f'{thought}{first},"delta":"Hm"'),
        ("reasoning_text.delta", f'{thought}{first},"delta":"."'),
        ("reasoning_text.done", f'{thought}{first},"text":"Hm."'),
        ("content_part.done", f'{thought}{first},"part":{hm % "Hm."}'),
        ("output_item.done", thought_item % ("completed", hm % "Hm.")),
        ("output_item.added", said_item % ("in_progress", "")),
        ("content_part.added", f'{no}{first},"part":{refusal % ""}'),
        ("refusal.delta", f'{no}{first},"delta":"No."'),
        ("refusal.done", f'{no}{first},"refusal":"No."'),
        ("content_part.done", f'{no}{first},"part":{refusal % "No."}'),
        ("output_item.done", said_item % ("completed", refusal % "No.")),
        ("output_item.added", call_item % (2, 2, "in_progress", "f", "f", "")),
        ("function_call_arguments.delta", f'{f},"delta":"{{\\"a\\""'),
        ("function_call_arguments.delta", f'{f},"delta":":1}}"'),
        ("function_call_arguments.done", f'{f},"name":"f","arguments":"{{\\"a\\":1}}"'),
        ("output_item.done", call_item % (2, 2, "completed", "f", "f", '{\\"a\\":1}')),
        ("output_item.added", call_item % (3, 3, "in_progress", "g", "g", "")),
        ("function_call_arguments.delta", f'{g},"delta":"{{}}"'),
        ("function_call_arguments.done", f'{g},"name":"g","arguments":"{{}}"'),
        ("output_item.done", call_item % (3, 3, "completed", "g", "g", "{}")),
    ]
    assert stream[begin:end] == b"".join(
        golden(at + 2, f"response.{name}", text) for at, (name, text) in enumerate(expected)
    )
    assert [item["type"] for item in decoded(stream)[-1]["response"]["output"]] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip


def test_r26_an_answer_that_is_cut_is_incomplete():
    request = read(stream=True)
    dialect = ENDPOINT.dialect(ARRIVAL, request)
    stream = dialect.begin(served_as(request)) + dialect.events(chunk("Hel")) + dialect.cut([0]) + dialect.end(USAGE)
    last = decoded(stream)[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_r6_a_stream_that_breaks_says_so_and_keeps_what_there_was():
    kept: list[Answered] = []
    request = read(ResponsesEndpoint(keep=kept.append), stream=True)
    dialect = ENDPOINT.dialect(ARRIVAL, request)
    served = served_as(request)
    stream = dialect.begin(served) + dialect.events(chunk("Hel"))
    stream += dialect.broken(Refusal(Outcome.UPSTREAM_FAILED, "The engine broke."), served)
    last = decoded(stream)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "upstream_error", "message": "The engine broke."}
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"
    (answered,) = kept
    assert (answered.id, answered.status) == ("resp_1", "failed")
    assert msgspec.json.decode(answered.body) == last["response"]


@patient
@given(texts=st.lists(st.text(), max_size=5), thoughts=st.lists(st.text(), max_size=3))
def test_a_stream_and_a_whole_answer_say_the_same(texts, thoughts):
    events = [said({"reasoning_content": thought}) for thought in thoughts] + [chunk(text) for text in texts]
    last = decoded(streamed(*events, said({}, "stop")))[-1]["response"]
    request = read()
    body = chunk_body("".join(texts), reasoning_content="".join(thoughts))
    _, whole = ENDPOINT.dialect(ARRIVAL, request).whole(served_as(request), body, USAGE)
    assert msgspec.json.decode(whole) == last
    assert Response.model_validate(last, strict=True).output_text == "".join(texts)


def test_r4_reserved_is_scale_unless_the_caller_said_reserved():
    for word, told in (("reserved", "reserved"), ("scale", "scale")):
        request = read(service_tier=word)
        served = served_as(read(service_tier="reserved"))
        _, body = ENDPOINT.dialect(ARRIVAL, request).whole(served, chunk_body("x"), USAGE)
        assert msgspec.json.decode(body)["service_tier"] == told


def test_an_engine_that_mixes_up_its_calls_is_not_believed():
    request = read(stream=True)
    dialect = ResponsesDialect(request)
    dialect.begin(served_as(request))
    with pytest.raises(Refusal) as caught:
        dialect.events(said({"tool_calls": [{"index": 3, "function": {"arguments": "{}"}}]}))
    assert caught.value.outcome is Outcome.UPSTREAM_FAILED
    assert not list(choices(b": comment\n\n"))


async def test_r15_who_reads_nothing_of_a_stream_is_taken_for_gone(monkeypatch):
    monkeypatch.setattr("fareclass.wire.project_plane.CALLER_STALL_S", 0.01)
    never = asyncio.get_running_loop().create_future()
    recording = Recording()
    recording.add({"type": "http.response.body", "body": b"event: x\n\n", "more_body": True})
    handed = []

    async def send(message: Any) -> None:
        handed.append(message["type"])
        await never

    async with asyncio.timeout(5):
        await Streamed(follow(recording, -1), {}, Deadlines()).stream_response(send)
    assert handed == ["http.response.start"]
