"""The bytes of engines' streams, cut everywhere, and what of them reaches the caller."""

import msgspec
import pytest

from fareclass.core.limits import EVENT_BYTES
from fareclass.core.usage import Usage
from fareclass.engine.answer import assemble, clean_cut, read_answer
from fareclass.engine.base import EngineFailed
from fareclass.engine.relay import Relay

HEAD = b'"created":1,"id":"chatcmpl-a","model":"m","system_fingerprint":"f","object":"chat.completion.chunk"'
TIMINGS = b',"timings":{"cache_n":0,"prompt_n":3,"predicted_n":%d,"predicted_ms":1.5}'
USAGE = b'{"completion_tokens":3,"prompt_tokens":10,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":4}}'


def llama(delta: bytes, tail: bytes = b"", finish: bytes = b"null") -> bytes:
    return (
        b'data: {"choices":[{"finish_reason":'
        + finish
        + b',"index":0,"delta":'
        + delta
        + b"}],"
        + HEAD
        + tail
        + b"}\n\n"
    )


def vllm(delta: bytes, made: int, finish: bytes = b"null") -> bytes:
    choice = b'{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + finish + b"}"
    usage = b'{"prompt_tokens":10,"total_tokens":%d,"completion_tokens":%d}' % (10 + made, made)
    return b'data: {"id":"c","object":"chat.completion.chunk","choices":[' + choice + b'],"usage":' + usage + b"}\n\n"


ROLE = b'{"role":"assistant","content":null}'
TRAP = msgspec.json.encode({"content": 'x,"timings":{"finish_reason":null},"usage":{}}\n\ndata: [DONE]\n\n'})
LLAMA = b"".join([
    llama(ROLE, TIMINGS % 0 + b',"prompt_progress":{"total":10,"cache":0,"processed":0,"time_ms":0}'),
    llama(ROLE, TIMINGS % 0 + b',"prompt_progress":{"total":10,"cache":0,"processed":10,"time_ms":9}'),
    llama(ROLE),
    llama(b'{"content":"Hel"}', TIMINGS % 1),
    llama('{"content":"löß🦙"}'.encode(), TIMINGS % 2),
    llama(TRAP, TIMINGS % 3),
    llama(b"{}", finish=b'"stop"'),
    b'data: {"choices":[],' + HEAD + b',"usage":' + USAGE + TIMINGS % 3 + b"}\n\n",
    b"data: [DONE]\n\n",
])  # fmt: skip
VLLM = b"".join([
    vllm(b'{"role":"assistant","content":""}', 0),
    vllm(b'{"content":"Hel"}', 1),
    vllm('{"content":"löß🦙"}'.encode(), 2),
    vllm(TRAP, 3),
    vllm(b'{"content":""}', 3, b'"stop"'),
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":' + USAGE + b"}\n\n",
    b"data: [DONE]\n\n",
])  # fmt: skip
TEXT = "Hellöß🦙" + msgspec.json.decode(TRAP)["content"]


def relayed(stream: bytes, size: int) -> tuple[Relay, list[bytes]]:
    relay = Relay()
    blocks = [relay.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
    return relay, [block for block in blocks if block]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("stream", [LLAMA, VLLM], ids=["llama", "vllm"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 333, 1000, 100_000])
def test_a_stream_cut_anywhere_is_relayed_whole_and_without_private_fields(stream, size, ends):
    relay, blocks = relayed(stream.replace(b"\n", ends), size)
    assert relay.whole and relay.done
    assert all(block.endswith(b"\n\n") for block in blocks)
    answer = read_answer(blocks)
    assert answer.text == TEXT
    assert answer.finish_reason == "stop"
    assert relay.usage == Usage(input=6, cache_read=4, output=3)
    chunks = [msgspec.json.decode(e[5:]) for b in blocks for e in b.split(b"\n\n") if e]
    assert len(chunks) == 5
    assert not any({"timings", "usage", "prompt_progress"} & set(chunk) for chunk in chunks)


@pytest.mark.parametrize("stream", [LLAMA, VLLM], ids=["llama", "vllm"])
def test_nothing_comes_before_the_first_token_and_the_count_follows_every_token(stream):
    """R11: what a pause has made is the engine's own running count."""
    relay = Relay()
    events = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    counts, texts = [], []
    for event in events:
        block = relay.feed(event)
        if block:
            texts.append(read_answer([block]).text)
            counts.append(relay.made_tokens)
    assert texts[0] == "Hel"
    assert counts[:3] == [1, 2, 3]


def test_a_continuation_does_not_open_the_answer_again():
    """R11: the caller sees one stream, with one opening chunk."""
    relay = Relay(continues=True)
    block = relay.feed(LLAMA)
    assert b'"role"' not in block
    assert read_answer([block]).text == TEXT


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("engine", [llama, vllm])
@pytest.mark.parametrize("pieces", [["\n", "  ", "x"], ["\n  x"], ["\n", "  x"], ["\n   x"], ["\n  ", "", "x"]])
def test_white_space_that_is_made_once_more_is_passed_on_once(pieces, engine, size):
    """R46: the engine lost what the caller has; what it made of that counts only once something new has come."""
    tail = {llama: lambda made: TIMINGS % made, vllm: lambda made: made}[engine]
    deltas = [msgspec.json.encode({"content": piece}) for piece in pieces]
    events = [engine(ROLE, tail(0))] + [engine(delta, tail(made)) for made, delta in enumerate(deltas, 1)]
    stream = b"".join([*events, engine(b'{"content":"\\n  y"}', tail(9)), engine(b"{}", tail(9), b'"stop"')])
    relay = Relay(continues=True, said="\n  ")
    text, counts = "", []
    for start in range(0, len(stream), size):
        block = relay.feed(stream[start : start + size])
        counts.append(relay.made_tokens)
        text += read_answer([block]).text
        assert not any(word in block for word in (b"timings", b"usage", b"role"))
        assert (counts[-1] > 0) == bool(text)
    assert text == "".join(pieces).removeprefix("\n  ") + "\n  y"
    assert counts[-1] == 9 and relay.whole


@pytest.mark.parametrize(
    "delta", [{"content": "x"}, {"content": " \n"}, {"tool_calls": [{"index": 0}]}, {"content": [1]}]
)
def test_an_engine_that_goes_on_otherwise_than_the_caller_has_it_is_not_passed_on(delta):
    """R46: nothing of an answer may come twice or be lost."""
    relay = Relay(continues=True, said="\n ")
    assert relay.feed(llama(ROLE)) == b""
    with pytest.raises(EngineFailed, match="does not go on"):
        relay.feed(llama(msgspec.json.encode(delta)))


def test_white_space_at_the_very_end_needs_no_second_time():
    relay = Relay(continues=True, said="\n")
    assert read_answer([relay.feed(llama(b"{}", finish=b'"stop"'))]).finish_reason == "stop"
    assert relay.whole


def test_a_server_without_running_counts_is_counted_by_its_events():
    stream = b"".join(llama(b'{"content":"a"}') for _ in range(5))
    relay = Relay()
    assert relay.feed(stream) == stream
    assert relay.made_tokens == 5
    assert not relay.whole


def test_json_with_spaces_and_comments_between_events_is_understood():
    relay = Relay()
    chunk = b'data:{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}], "usage": {"x": 1}}\n\n'
    block = relay.feed(b": ping\n\n" + chunk + b": ping\n\n" + chunk)
    assert read_answer([block]).text == "aa"
    assert b"usage" not in block and b"ping" not in block


def test_completions_whose_last_chunk_carries_usage_keep_its_text():
    start = b'data: {"choices":[{"text":"%s","index":0,"logprobs":null,"finish_reason":%s}],"object":"text_completion"'
    relay = Relay()
    block = relay.feed(
        start % (b"a", b"null") + TIMINGS % 1 + b"}\n\n"
        + start % (b"b", b'"length"') + b',"usage":' + USAGE + b',"id":"x"' + TIMINGS % 2 + b"}\n\n"
    )  # fmt: skip
    assert read_answer([block]).text == "ab"
    assert b"usage" not in block and b"timings" not in block
    assert relay.usage == Usage(input=6, cache_read=4, output=3)
    assert relay.whole


def test_an_error_in_the_stream_is_the_engines_failure():
    with pytest.raises(EngineFailed, match="too many requests") as failed:
        Relay().feed(b'data: {"error": {"message": "too many requests", "code": 503}}\n\n')
    assert failed.value.reason == "refused"


@pytest.mark.parametrize(
    "junk", [b"data: {nonsense}\n\n", b"data: [1]\n\n", b"data: " + b"[" * 100_000 + b"\n\n", b"data: \xff\n\n"]
)
def test_what_is_no_event_of_the_api_is_the_engines_failure(junk):
    with pytest.raises(EngineFailed) as failed:
        Relay().feed(junk)
    assert failed.value.reason == "broken"


def test_an_event_without_end_is_bounded():
    relay = Relay()
    relay.feed(b"x" * (EVENT_BYTES - 1))
    with pytest.raises(EngineFailed, match="bytes"):
        relay.feed(b"xx")


@pytest.mark.parametrize("usage", [
    b'{"prompt_tokens":-5,"completion_tokens":1}', b'{"prompt_tokens":"9"}', b'{"completion_tokens":99999999999999}',
])  # fmt: skip
def test_counts_that_cannot_be_true_are_not_believed(usage):
    relay = Relay()
    relay.feed(llama(b'{"content":"a"}') + b'data: {"choices":[],"usage":' + usage + b"}\n\n")
    assert relay.usage is None
    assert relay.made_tokens == 1


def test_more_cached_than_prompt_never_makes_input_negative():
    relay = Relay()
    relay.feed(b'data: {"choices":[],"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":9}}}\n\n')
    assert relay.usage == Usage(cache_read=5)


def test_several_sequences_are_whole_only_when_each_has_finished():
    relay = Relay(width=2)
    relay.feed(llama(b'{"content":"a"}', finish=b'"stop"'))
    assert not relay.whole
    relay.feed(llama(b'{"content":"b"}', finish=b'"stop"').replace(b'"index":0', b'"index":1'))
    assert relay.whole


@pytest.mark.parametrize(
    ("copies", "usage"), [(2, Usage(input=3, cache_read=2, output=30)), (0, Usage(input=3, cache_read=2, output=20))]
)
def test_r6_sequences_that_are_counted_apart_are_added_up(copies, usage):
    """Their prompt is one. An engine that counts the call tells its last count."""
    relay = Relay(width=2, copies=copies)
    counts = (
        b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":2}}}'
    )
    for index, output in enumerate((10, 20)):
        relay.feed(llama(b'{"content":"a"}').replace(b'"index":0', b'"index":%d' % index))
        assert not (copies and relay.usage), "not of all of them yet"
        relay.feed(llama(b"{}", finish=b'"stop"').replace(b'"index":0', b'"index":%d' % index))
        relay.feed(b"data: " + counts % output + b"\n\n")
    assert relay.usage == usage


def test_a_stream_becomes_the_answer_that_was_not_streamed():
    """R11: what is not streamed runs streamed upstream and is put together again."""
    call = b'{"tool_calls":[{"index":0,"id":"t1","type":"function","function":{"name":"f","arguments":"{\\"a"}}]}'
    more = b'{"tool_calls":[{"index":0,"function":{"arguments":"\\":1}"}}]}'
    blocks = [llama(b'{"role":"assistant","reasoning_content":"Hm"}'), llama(b'{"reasoning_content":"m"}'), llama(call)]
    blocks += [llama(more), llama(b"{}", finish=b'"tool_calls"')]
    answer = read_answer(blocks)
    assert answer.tool_call_begun and answer.reasoning_begun
    body = msgspec.json.decode(assemble(answer, {"total_tokens": 3}))
    assert body["id"] == "chatcmpl-a" and body["object"] == "chat.completion" and body["usage"] == {"total_tokens": 3}
    assert body["choices"] == [{
        "index": 0, "logprobs": None, "finish_reason": "tool_calls",
        "message": {
            "role": "assistant", "content": None, "reasoning_content": "Hmm",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
    }]  # fmt: skip


@pytest.mark.parametrize(("delta", "content"), [
    (b'{"role":"assistant","content":null}', ""), (b'{"content":""}', ""), (b'{"reasoning_content":"Hm"}', ""),
    (b'{"refusal":"No."}', None), (b'{"function_call":{"name":"f","arguments":"{}"}}', None),
    (b'{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]}', None),
])  # fmt: skip
def test_an_empty_text_is_a_text_and_null_says_that_something_else_was_answered(delta, content):
    """As OpenAI's own answers have it: clients take `content` for a string unless tools were called."""
    body = msgspec.json.decode(assemble(read_answer([llama(delta), llama(b"{}", finish=b'"stop"')]), {}))
    assert body["choices"][0]["message"]["content"] == content


@pytest.mark.parametrize(("text", "clean"), [
    ("", True), ("Hello", True), ("Hello ", False), ("a\n    ", False), ("half \ufffd", False), ("so EN", False), ("so E.", True),
    ("END", True),
])  # fmt: skip
def test_a_cut_is_clean_or_not(text, clean):
    """R11: complete UTF-8, not inside a possible stop string, no white space at the end."""
    assert clean_cut(text, ("END",), blank_ok=False) is clean


def test_white_space_is_a_clean_cut_where_the_probe_saw_it_kept():
    assert clean_cut("Hello ", (), blank_ok=True)


def test_a_cut_call_still_tells_what_its_prompt_was() -> None:
    """R11, R35: the prompt of an answer that was paused or cut off is billed by the engine's own running count."""
    relay = Relay()
    relay.feed(
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"a"}}],"timings":{"cache_n":4,"prompt_n":3,"predicted_n":1}}\n\n'
    )
    relay.feed(
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"b"}}],"timings":{"cache_n":4,"prompt_n":3,"predicted_n":2}}\n\n'
    )
    assert relay.usage == Usage(input=3, cache_read=4, output=2)
    relay = Relay()
    relay.feed(
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":8,"completion_tokens":1}}\n\n'
    )
    relay.feed(
        b'data: {"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":null}],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}\n\n'
    )
    assert relay.usage == Usage(input=7, output=2)
