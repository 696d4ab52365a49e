"""Golden bytes of every shape of a Messages stream, and the same answers whole."""

import msgspec
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Allowance, Allowances, Served
from fareclass.wire.anthropic_reply import AnthropicDialect
from tests.wire.plane import chunk
from tests.wire.test_anthropic_translate import parse

SERVED = Served(
    request_id="req_1",
    requested=Tier.FLEX,
    served=Tier.FLEX,
    queue_ms=0,
    replica="r",
    model="m",
    upstream_model="up",
    prompt_tokens=7,
    allowances=Allowances(requests=Allowance(60, 59, 1_000_000), tokens=Allowance(1, 0, 10**30)),
)
USAGE = Usage(input=5, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=6)
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":7,'
    b'"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,'
    b'"ephemeral_1h_input_tokens":0},"output_tokens":0,"service_tier":"standard"}}}\n\n'
)


def end(reason: str, sequence: str = "null") -> bytes:
    return (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":%b},'
        b'"usage":{"input_tokens":5,"cache_creation_input_tokens":5,"cache_read_input_tokens":4,"cache_creation":'
        b'{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":3},"output_tokens":6,"service_tier":"standard"}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n' % (reason.encode(), sequence.encode())
    )


def opened(index: int, block: str) -> bytes:
    return b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n' % (
        index,
        block.encode(),
    )


def delta(index: int, delta: str) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n' % (
        index,
        delta.encode(),
    )


def stop(index: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index


def said(finish: str | None = None, **fields: object) -> bytes:
    return chunk("", choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def call(arguments: str | None, index: int = 0, **more: object) -> bytes:
    name = {"name": "paint"} if more else {}
    return said(tool_calls=[{"index": index, "function": {**name, "arguments": arguments}, **more}])


def play(*events: bytes) -> bytes:
    dialect = AnthropicDialect("req_1", parse(stream=True))
    assert dialect.begin(SERVED) == START
    return b"".join(map(dialect.events, events)) + dialect.end(USAGE)


def test_text_as_bytes():
    assert play(said(role="assistant", content=None), said(content='a"\n'), said(content="é"), said("stop")) == (
        opened(0, '{"type":"text","text":""}')
        + delta(0, '{"type":"text_delta","text":"a\\"\\n"}')
        + delta(0, '{"type":"text_delta","text":"é"}')
        + stop(0)
        + end("end_turn")
    )


def test_thinking_text_and_calls_as_bytes():
    events = [
        said(reasoning_content="Hm"), said(content="I paint."), call("", id="c1"), call('{"a":'), call("1}"),
        call('{"b":2}', 1, id="c2"), said("tool_calls"),
    ]  # fmt: skip
    assert play(*events) == (
        opened(0, '{"type":"thinking","thinking":"","signature":""}')
        + delta(0, '{"type":"thinking_delta","thinking":"Hm"}')
        + delta(0, '{"type":"signature_delta","signature":"unsigned"}')
        + stop(0)
        + opened(1, '{"type":"text","text":""}')
        + delta(1, '{"type":"text_delta","text":"I paint."}')
        + stop(1)
        + opened(2, '{"type":"tool_use","id":"c1","name":"paint","input":{}}')
        + delta(2, '{"type":"input_json_delta","partial_json":"{\\"a\\":"}')
        + delta(2, '{"type":"input_json_delta","partial_json":"1}"}')
        + stop(2)
        + opened(3, '{"type":"tool_use","id":"c2","name":"paint","input":{}}')
        + delta(3, '{"type":"input_json_delta","partial_json":"{\\"b\\":2}"}')
        + stop(3)
        + end("tool_use")
    )


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (said("length"), "max_tokens", "null"),
        (said("content_filter"), "refusal", "null"),
        (said("stop", refusal=""), "end_turn", "null"),
        (chunk("", choices=[{"delta": {}, "finish_reason": "stop", "stop_reason": "x"}]), "stop_sequence", '"x"'),
        (chunk("", choices=[{"delta": {}, "finish_reason": "stop", "matched_stop": 2}]), "end_turn", "null"),
    ],
)
def test_why_an_answer_ended(last, reason, sequence):
    assert play(last) == end(reason, sequence)


def test_r26_a_cut_by_a_budget_looks_like_max_tokens():
    dialect = AnthropicDialect("req_1", parse(stream=True))
    dialect.begin(SERVED)
    dialect.events(said(content="a"))
    assert dialect.cut([0]) + dialect.end(USAGE) == stop(0) + end("max_tokens")


def test_r48_a_refusal_in_mid_stream_and_keep_alives_are_events_of_this_api():
    dialect = AnthropicDialect("req_1", parse(stream=True))
    assert dialect.comment == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert dialect.broken(Refusal(Outcome.UPSTREAM_FAILED, "It died."), SERVED) == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"It died."},"request_id":"req_1"}\n\n'
    )


def test_a_piece_of_a_call_that_is_over_is_the_engines_fault():
    with pytest.raises(Refusal) as caught:
        play(call("{}", id="a"), call("{}", 1, id="b"), call("1"))
    assert caught.value.outcome is Outcome.UPSTREAM_FAILED


def whole(message: dict[str, object], finish: str = "stop") -> dict[str, object]:
    body = msgspec.json.encode({"choices": [{"message": message, "finish_reason": finish}]})
    return msgspec.json.decode(AnthropicDialect("req_1", parse()).whole(SERVED, body, USAGE)[1])


def test_a_whole_answer():
    calls = [{"id": "c", "function": {"name": "paint", "arguments": '{"a":1}'}}]
    answer = whole({"reasoning": "Hm", "content": "Yes", "tool_calls": calls})
    assert answer["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "unsigned"},
        {"type": "text", "text": "Yes"},
        {"type": "tool_use", "id": "c", "name": "paint", "input": {"a": 1}},
    ]
    assert (answer["id"], answer["model"], answer["stop_reason"]) == ("msg_1", "m", "tool_use")
    assert answer["usage"]["input_tokens"] == 5 and answer["usage"]["service_tier"] == "standard"


def test_calls_of_a_whole_answer_stay_apart():
    """They have no numbers there, as those of a stream have."""
    calls = [
        {"id": "c1", "function": {"name": "paint", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "hang", "arguments": '{"b":2}'}},
    ]
    assert whole({"tool_calls": calls}, "tool_calls")["content"] == [
        {"type": "tool_use", "id": "c1", "name": "paint", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "hang", "input": {"b": 2}},
    ]


@pytest.mark.parametrize("text", ['{"a":', "1", "[" * 5000])
def test_arguments_that_are_no_object_are_not_lost(text):
    calls = [{"id": "c", "function": {"name": "paint", "arguments": text}}]
    assert whole({"tool_calls": calls}, "length")["content"][0]["input"] == {"INVALID_JSON": text}


def test_r27_limits_in_this_apis_words():
    headers = dict(AnthropicDialect("req_1", parse()).headers(SERVED))
    assert headers == {
        b"request-id": b"req_1",
        b"anthropic-ratelimit-requests-limit": b"60",
        b"anthropic-ratelimit-requests-remaining": b"59",
        b"anthropic-ratelimit-requests-reset": b"1970-01-01T00:00:01Z",
        b"anthropic-ratelimit-tokens-limit": b"1",
        b"anthropic-ratelimit-tokens-remaining": b"0",
        b"anthropic-ratelimit-tokens-reset": b"9999-12-31T23:59:59Z",
    }
