"""Golden bytes of every shape of a Bedrock stream, as botocore decodes them, and the same answers whole."""

from base64 import b64decode
from typing import Any

import msgspec
import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.flow.reply import Served
from fareclass.wire import eventstream
from fareclass.wire.bedrock_invoke import InvokeDialect
from fareclass.wire.bedrock_reply import ConverseDialect
from tests.wire.plane import chunk
from tests.wire.test_bedrock_translate import ARRIVAL, CHAT, HI, MESSAGES, at

SERVED = Served(
    request_id="req_1",
    requested=Tier.FLEX,
    served=Tier.FLEX,
    queue_ms=0,
    replica="r",
    model="m",
    upstream_model="up",
    prompt_tokens=7,
)
USAGE = Usage(input=5, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=6)
TOLD = {
    "usage": {
        "inputTokens": 5,
        "outputTokens": 6,
        "totalTokens": 20,
        "cacheReadInputTokens": 4,
        "cacheWriteInputTokens": 5,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 3}, {"ttl": "5m", "inputTokens": 2}],
    },
    "metrics": {"latencyMs": 1},
    "serviceTier": {"type": "flex"},
}
METRICS = {
    "inputTokenCount": 5,
    "outputTokenCount": 6,
    "invocationLatency": 1,
    "firstByteLatency": 1,
    "cacheReadInputTokenCount": 4,
    "cacheWriteInputTokenCount": 5,
}
Message = tuple[str, dict[str, Any]]


def now_us() -> int:
    return 1_500


def decoded(stream: bytes) -> list[Message]:
    """Kind and payload of each message, both checksums of which botocore checks."""
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    found = []
    for message in buffer:
        headers = message.headers
        kind = headers[":message-type"]
        assert headers.pop(":content-type") == "application/json" and kind in ("event", "exception")
        assert headers.keys() == {":message-type", f":{kind if kind == 'exception' else 'event'}-type"}
        found.append((headers[f":{kind}-type"], msgspec.json.decode(message.payload)))
    assert not list(buffer) and not buffer._data, "nothing is left over"
    return found


def said(finish: str | None = None, **fields: object) -> bytes:
    return chunk("", choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def call(arguments: str | None, index: int = 0, **more: object) -> bytes:
    name = {"name": "paint"} if more else {}
    return said(tool_calls=[{"index": index, "function": {**name, "arguments": arguments}, **more}])


def converse() -> ConverseDialect:
    return ConverseDialect(ARRIVAL, at("converse-stream", **HI), now_us)


def play(*events: bytes) -> list[Message]:
    dialect = converse()
    return decoded(dialect.begin(SERVED) + b"".join(map(dialect.events, events)) + dialect.end(USAGE))


def delta(index: int, **fields: object) -> Message:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": fields}


def stop(index: int) -> Message:
    return "contentBlockStop", {"contentBlockIndex": index}


START = ("messageStart", {"role": "assistant"})


def end(reason: str) -> list[Message]:
    return [("messageStop", {"stopReason": reason}), ("metadata", TOLD)]


def test_one_piece_of_text_as_bytes():
    """Lengths, checksum, headers, payload, checksum: what every AWS SDK reads."""
    dialect = converse()
    dialect.begin(SERVED)
    assert dialect.events(said(content='A"\n')).hex() == (
        "0000009700000057f30be03e"
        + b"\x0b:event-type\x07\x00\x11contentBlockDelta".hex()
        + b"\x0d:content-type\x07\x00\x10application/json".hex()
        + b"\x0d:message-type\x07\x00\x05event".hex()
        + b'{"contentBlockIndex":0,"delta":{"text":"A\\"\\n"}}'.hex()
        + "69197764"
    )


def test_text():
    assert play(said(role="assistant", content=""), said(content="A\n"), said(content="B"), said("stop")) == [
        START, delta(0, text="A\n"), delta(0, text="B"), stop(0), *end("end_turn"),
    ]  # fmt: skip


def test_thinking_text_and_calls():
    messages = play(
        said(reasoning_content="Hm"),
        said(content="I"),
        call("", id="c1"),
        call('{"a":'),
        call("1}"),
        call("{}", 1, id="c2"),
        said("tool_calls"),
    )
    paint = {"name": "paint"}
    assert messages == [
        START,
        delta(0, reasoningContent={"text": "Hm"}),
        stop(0),
        delta(1, text="I"),
        stop(1),
        ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "c1", **paint}}}),
        delta(2, toolUse={"input": '{"a":'}),
        delta(2, toolUse={"input": "1}"}),
        stop(2),
        ("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "c2", **paint}}}),
        delta(3, toolUse={"input": "{}"}),
        stop(3),
        *end("tool_use"),
    ]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (said("stop"), "end_turn"),
        (said("length"), "max_tokens"),
        (said("content_filter"), "content_filtered"),
        (said("stop", refusal="no"), "content_filtered"),
        (
            chunk("", choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "x"}]),
            "stop_sequence",
        ),
    ],
)
def test_why_an_answer_ended(last, reason):
    assert ("messageStop", {"stopReason": reason}) in play(said(content="A"), last)


def test_r26_a_cut_by_a_budget_looks_like_max_tokens():
    dialect = converse()
    dialect.begin(SERVED)
    dialect.events(said(content="A"))
    assert dialect.cut([0]) == b""
    assert decoded(dialect.end(USAGE)) == [stop(0), *end("max_tokens")]


@pytest.mark.parametrize(
    ("outcome", "exception"),
    [
        (Outcome.THROTTLED, "throttlingException"),
        (Outcome.SHED, "serviceUnavailableException"),
        (Outcome.EXPIRED, "serviceUnavailableException"),
        (Outcome.UPSTREAM_FAILED, "modelStreamErrorException"),
        (Outcome.INTERNAL, "internalServerException"),
    ],
)
def test_r48_a_refusal_in_mid_stream_is_an_exception(outcome, exception):
    for dialect in (converse(), InvokeDialect(ARRIVAL, at("invoke-with-response-stream", **CHAT), now_us)):
        dialect.begin(SERVED)
        dialect.events(said(content="A"))
        assert decoded(dialect.broken(Refusal(outcome, "Broken."), SERVED)) == [(exception, {"message": "Broken."})]


def whole(message: dict[str, object], finish: str = "stop") -> dict[str, Any]:
    body = msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    headers, answer = converse().whole(SERVED, body, USAGE)
    assert headers == []
    found: dict[str, Any] = msgspec.json.decode(answer)
    return found


def test_a_whole_answer():
    calls = [{"id": "c1", "function": {"name": "paint", "arguments": '{"a":1}'}}]
    answer = whole({"content": "I", "reasoning_content": "Hm", "tool_calls": calls}, "tool_calls")
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm"}}},
        {"text": "I"},
        {"toolUse": {"toolUseId": "c1", "name": "paint", "input": {"a": 1}}},
    ]
    message = {"role": "assistant", "content": content}
    assert answer == {"output": {"message": message}, "stopReason": "tool_use", **TOLD}


def test_calls_of_a_whole_answer_stay_apart():
    """They have no numbers there, as those of a stream have."""
    calls = [
        {"id": "c1", "function": {"name": "paint", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "hang", "arguments": '{"b":2}'}},
    ]
    assert whole({"tool_calls": calls}, "tool_calls")["output"]["message"]["content"] == [
        {"toolUse": {"toolUseId": "c1", "name": "paint", "input": {"a": 1}}},
        {"toolUse": {"toolUseId": "c2", "name": "hang", "input": {"b": 2}}},
    ]


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000])
def test_arguments_that_are_no_object_are_not_lost(text):
    (block,) = whole({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": text}}]})["output"]["message"][
        "content"
    ]
    assert block["toolUse"]["input"] == {"INVALID_JSON": text}


def invoked(body: dict[str, Any], *events: bytes) -> list[dict[str, Any]]:
    """What is in the chunks of an InvokeModelWithResponseStream."""
    dialect = InvokeDialect(ARRIVAL, at("invoke-with-response-stream", **body), now_us)
    messages = decoded(dialect.begin(SERVED) + b"".join(map(dialect.events, events)) + dialect.end(USAGE))
    assert {kind for kind, _ in messages} == {"chunk"} and all(list(told) == ["bytes"] for _, told in messages)
    return [msgspec.json.decode(b64decode(told["bytes"])) for _, told in messages]


def test_an_invoked_stream_of_the_messages_api():
    """Each of its events is a chunk, and the last has what the call took."""
    events = invoked(MESSAGES, said(content="A"), said("stop"))
    assert [event["type"] for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert events[2]["delta"] == {"type": "text_delta", "text": "A"}
    assert events[-1] == {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}


def test_an_invoked_stream_of_a_chat():
    """What its client did not ask for is told in a chunk of its own."""
    *first, last = invoked(CHAT, said(content="A"), said("stop"))
    assert [event["choices"][0]["delta"] for event in first] == [{"content": "A"}, {}]
    assert first[0]["service_tier"] == "flex"
    assert last == {"amazon-bedrock-invocationMetrics": METRICS}
    asked = CHAT | {"stream_options": {"include_usage": True}}
    last = invoked(asked, said(content="A"), said("stop"))[-1]
    assert (last["usage"]["prompt_tokens"], last["amazon-bedrock-invocationMetrics"]) == (14, METRICS)


def test_an_invoked_answer_counts_in_headers():
    body = msgspec.json.encode({"choices": [{"index": 0, "message": {"content": "A"}, "finish_reason": "stop"}]})
    headers, answer = InvokeDialect(ARRIVAL, at("invoke", **MESSAGES), now_us).whole(SERVED, body, USAGE)
    assert msgspec.json.decode(answer)["content"] == [{"type": "text", "text": "A"}]
    assert dict(headers) == {
        b"x-amzn-bedrock-input-token-count": b"5",
        b"x-amzn-bedrock-output-token-count": b"6",
        b"x-amzn-bedrock-cache-read-input-token-count": b"4",
        b"x-amzn-bedrock-cache-write-input-token-count": b"5",
        b"x-amzn-bedrock-invocation-latency": b"1",
    }


@given(
    headers=st.dictionaries(st.text(min_size=1, max_size=60), st.text(max_size=300), max_size=4),
    payload=st.binary(max_size=500),
)
def test_any_message_is_what_botocore_decodes(headers, payload):
    buffer = EventStreamBuffer()
    buffer.add_data(eventstream.Event(headers).message(payload))
    (message,) = buffer
    assert (message.headers, message.payload) == (headers, payload)
