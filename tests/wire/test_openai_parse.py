"""Bytes to `core.Request`: what is understood, and every way of being refused for what was sent."""

import json
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key, Project
from fareclass.wire.arrival import Arrival
from fareclass.wire.media import MEDIA_PROMPT_BYTES
from fareclass.wire.openai import ENDPOINTS

ARRIVAL = Arrival("req_1", "mine", b"fc_x_y", None, None, None, 1.5, 1_500_000)
HELLO = [{"role": "user", "content": "Hello"}]

KEY = Key(id="k", project=Project(id="p", name="p"), name="k", secret=b"fc_k_x")


def chat(**fields: Any) -> Request:
    body = {"model": "m", "messages": HELLO} | fields
    return ENDPOINTS["/v1/chat/completions"].parse(json.dumps(body).encode(), ARRIVAL, KEY)


def completion(**fields: Any) -> Request:
    body = {"model": "m", "prompt": "Hello"} | fields
    return ENDPOINTS["/v1/completions"].parse(json.dumps(body).encode(), ARRIVAL, KEY)


def embedding(**fields: Any) -> Request:
    return ENDPOINTS["/v1/embeddings"].parse(json.dumps({"model": "m"} | fields).encode(), ARRIVAL, KEY)


def refused(raw: bytes | dict[str, Any]) -> tuple[str, str | None]:
    body = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(Refusal) as caught:
        ENDPOINTS["/v1/chat/completions"].parse(body, ARRIVAL, KEY)
    assert caught.value.outcome is Outcome.INVALID
    return caught.value.message, caught.value.param


def test_a_whole_request_is_understood():
    request = chat(
        service_tier="flex", stream=True, max_tokens=9, stop=["a", "b"], tools=[{"type": "function"}], top_k=3
    )
    assert (request.id, request.caller_id, request.key, request.arrived_s) == ("req_1", "mine", KEY, 1.5)
    assert (request.endpoint, request.path, request.model) == ("chat.completions", "/chat/completions", "m")
    assert (request.tier_word, request.stream, request.max_tokens, request.width) == ("flex", True, 9, 1)
    assert (request.stop, request.constrained, request.continuable) == (("a", "b"), False, True)
    assert request.body["tools"] == [{"type": "function"}]
    assert request.extra == {"top_k": 3}
    assert request.body["messages"] == HELLO


def test_r1_the_tier_changes_nothing_else_in_the_request():
    with_tier, without = chat(service_tier="priority"), chat()
    assert "service_tier" not in with_tier.body
    assert with_tier.body == without.body
    assert chat(service_tier=None).tier_word is None


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/chat/completions", "openai.types.chat.completion_create_params"),
        ("/v1/completions", "openai.types.completion_create_params"),
        ("/v1/embeddings", "openai.types.embedding_create_params"),
    ],
)
def test_r50_the_list_of_own_fields_is_the_sdks(path, params):
    import importlib

    fields = ENDPOINTS[path].own_fields
    module = importlib.import_module(params)
    typed = [kind for name, kind in vars(module).items() if name.endswith(("ParamsBase", "CreateParams"))]
    theirs = set().union(*(get_type_hints(kind) for kind in typed if hasattr(kind, "__annotations__")))
    assert theirs - {"stream"} <= fields
    assert fields - theirs <= {"stream", "service_tier"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b"{'model': 1}", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"model": "m"} x', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid UTF-8"),
        (b'{"model": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"temperature": 1e999}', "out of range"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a":' * 100_000, "deeper than 64 levels"),
        (b"[" * 100_000, "deeper than 64 levels"),
    ],
)
def test_what_is_no_json_object_is_refused_by_its_own_message(raw, message):
    assert message in refused(raw)[0]


def test_depth_has_a_limit_and_names_the_field():
    def nested(levels: int) -> dict[str, Any]:
        value: Any = {}
        for _ in range(levels - 1):
            value = {"x": value}
        return {"model": "m", "messages": HELLO, "audio": value}

    assert refused(nested(64)) == ("`audio` is nested deeper than 64 levels of JSON.", "audio")
    ENDPOINTS["/v1/chat/completions"].parse(json.dumps(nested(63)).encode(), ARRIVAL, KEY)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","model":"m2","messages":[]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "a", "model": 1, "model": 2}]}',
        b'{"model": "m", "mod\\u0065l": "x"}',
        b'{"tools":[{"function":{"parameters":{"properties":{"a":{"model":1,"model":1}}}}}]}',
    ],
)
def test_a_key_twice_in_one_object_is_refused_by_name(raw):
    assert refused(raw) == ("The key `model` is there twice in one JSON object.", "model")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", ":\t")])
def test_layout_and_escapes_do_not_make_duplicates(separators):
    body = {"model": "m", "messages": [{"role": "user", "content": 'é "model": {}\n'}] * 3, "temperature": 1e-7}
    for ascii_only in (True, False):
        raw = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode()
        assert ENDPOINTS["/v1/chat/completions"].parse(raw, ARRIVAL, KEY).body == body


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": 3}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"service_tier": 1}, "service_tier"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "1"}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"temperature": "x"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": [1]}, "top_p"),
        ({"logit_bias": 5}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias[...]"),
        ({"messages": [{"role": "user", "content": "x", "name": 7}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_a_wrong_type_names_the_path_of_its_field(fields, param):
    message, path = refused({"model": "m", "messages": HELLO} | fields)
    assert path == param
    assert f"`{param.partition('[')[0] if path is None else param}`" in message


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_own_field_of_a_wrong_type_is_refused_by_name(path):
    """Section 11, R50: whatever engine is behind; a list of lists of booleans is right for no field."""
    valid = {"model": "m", "messages": HELLO, "prompt": "x", "input": "x"}
    for name in ENDPOINTS[path].own_fields:
        with pytest.raises(Refusal) as caught:
            ENDPOINTS[path].parse(json.dumps(valid | {name: [[True]]}).encode(), ARRIVAL, KEY)
        assert caught.value.outcome is Outcome.INVALID
        assert (caught.value.param or "").partition("[")[0] == name, caught.value.message


def test_no_tokens_at_all_only_as_an_echo():
    """The API's minimum is one; an echo of a plain completion's prompt is the exception that engines know."""
    assert completion(max_tokens=0, echo=True).max_tokens == 0
    for call in (completion, chat):
        with pytest.raises(Refusal, match="1") as caught:
            call(max_tokens=0)
        assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, "max_tokens")


def test_a_missing_field_is_named():
    assert refused({"messages": HELLO}) == ("`model` is required.", "model")
    assert refused({"model": "m"}) == ("`messages` is required.", "messages")


def test_r49_width_is_n_times_prompts():
    assert chat(n=8).width == 8
    assert completion(n=2, prompt=["a", "b", "c"]).width == 6
    assert completion(n=2, best_of=4).width == 4
    assert completion(prompt=[[1, 2], [3]]).width == 2
    assert completion(prompt=[1, 2, 3]).width == 1
    assert embedding(input=["text"] * 500).width == 1


def test_r49_the_prompt_is_that_of_one_sequence():
    assert completion(prompt=[[1] * 100, [2] * 100]).prompt_bytes == 400
    assert completion(prompt=[1] * 100).prompt_bytes == 400
    assert completion(prompt=["a" * 1000] * 4).prompt_bytes in range(1000, 1020)
    assert embedding(input=[[1] * 100] * 4).prompt_bytes == 1600


@pytest.mark.parametrize(
    ("call", "fields", "param"),
    [
        (chat, {"n": 100}, "n"),
        (chat, {"n": 9}, "n"),
        (completion, {"n": 3, "prompt": ["a"] * 3}, "n"),
        (completion, {"best_of": 9}, "best_of"),
        (completion, {"prompt": ["a"] * 9}, "prompt"),
    ],
)
def test_r49_wider_than_eight_is_refused(call, fields, param):
    with pytest.raises(Refusal, match="at most 8 run in one request") as caught:
        call(**fields)
    assert (caught.value.outcome, caught.value.param) == (Outcome.INVALID, param)


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], 2], [True], ["a", [1]]])
def test_mixed_or_empty_prompts_are_refused(prompt):
    with pytest.raises(Refusal) as caught:
        completion(prompt=prompt)
    assert caught.value.outcome is Outcome.INVALID


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"seed": 0},
        {"frequency_penalty": 0.1},
        {"presence_penalty": -1},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"function_call": {"name": "f"}},
        {"modalities": ["text", "audio"]},
    ],
)
def test_r11_chat_that_can_not_be_continued(fields):
    assert not chat(**fields).continuable


def test_r11_chat_that_can_be_continued():
    plain = {"n": 1, "logprobs": False, "seed": None, "frequency_penalty": 0, "presence_penalty": 0.0}
    assert chat(**plain, tool_choice="auto", modalities=["text"], temperature=0.5, logit_bias={"5": 1}).continuable


@pytest.mark.parametrize(
    "fields", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}, {"prompt": ["a"]}, {"logprobs": 0}, {"prompt": [1, 2]}]
)
def test_r11_completions_that_can_not_be_continued(fields):
    assert completion().continuable
    assert not completion(**fields).continuable


def test_r11_constraints_are_seen():
    assert chat(response_format={"type": "json_schema", "json_schema": {}}).constrained
    assert chat(guided_json={}).constrained
    assert not chat(response_format={"type": "text"}).constrained


def with_part(part: dict[str, Any]) -> Request:
    return chat(messages=[{"role": "user", "content": [{"type": "text", "text": "see http://in.text"}, part]}])


@pytest.mark.parametrize(
    ("part", "hosts"),
    [
        ({"type": "image_url", "image_url": {"url": "https://Img.Example.com:8443/a.png?x=1"}}, ("img.example.com",)),
        ({"type": "image_url", "image_url": "http://example.com"}, ("example.com",)),
        ({"type": "video_url", "video_url": {"url": "http://10.0.0.1/v"}}, ("10.0.0.1",)),
        ({"type": "text", "image_url": {"url": "http://hidden.net./"}}, ("hidden.net",)),
        ({"type": "file", "file": {"file_data": "https://files.net/x"}}, ("files.net",)),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, ()),
        ({"type": "input_audio", "input_audio": {"data": "A" * 5000, "format": "wav"}}, ()),
    ],
)
def test_r47_hosts_of_remote_media_are_found(part, hosts):
    assert with_part(part).media_hosts == hosts


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a",
        "//example.com/a",
        "/etc/passwd",
        "http://user@example.com/",
        "http://allowed.com@evil.net/",
        "http://evil.net\\@allowed.com/",
        "http://evil.net\\.allowed.com/",
        "http://allowed.com:80@evil.net/",
        "http://[::1]/",
        "http://exämple.com/",
        "http://a b.com/",
        "http:///path",
        " http://example.com/",
        "http://example.com/\n",
        "",
    ],
)
def test_r47_a_url_that_parsers_may_read_differently_is_refused(url):
    with pytest.raises(Refusal) as caught:
        with_part({"type": "image_url", "image_url": {"url": url}})
    assert caught.value.outcome is Outcome.INVALID
    assert caught.value.param == "messages[0].content[1].image_url.url"


def test_stored_files_are_refused_clearly():
    with pytest.raises(Refusal, match="keeps none; send the data itself") as caught:
        with_part({"type": "file", "file": {"file_id": "file-1"}})
    assert caught.value.param == "messages[0].content[1].file.file_id"
    with pytest.raises(Refusal, match="keeps none"):
        chat(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}])


def test_inline_media_count_a_fixed_size_as_prompt():
    image = "data:image/png;base64," + "A" * 1_000_000
    small = with_part({"type": "image_url", "image_url": {"url": image}})
    assert MEDIA_PROMPT_BYTES < small.prompt_bytes < MEDIA_PROMPT_BYTES + 300
    assert small.size_bytes > 1_000_000


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
FIELDS = st.sampled_from(sorted({"top_k"}.union(*(endpoint.own_fields for endpoint in ENDPOINTS.values()))))


def understand_or_refuse(raw: bytes) -> None:
    outcomes = set()
    for endpoint in ENDPOINTS.values():
        try:
            request = endpoint.parse(raw, ARRIVAL, KEY)
        except Refusal as error:
            outcomes.add(error.outcome)
        else:
            assert msgspec.json.decode(msgspec.json.encode(request.body)) == request.body
    assert outcomes <= {Outcome.INVALID}


@patient
@given(st.binary(max_size=200))
def test_no_bytes_make_anything_but_a_refusal_or_a_request(raw):
    understand_or_refuse(raw)


@patient
@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_no_json_makes_anything_but_a_refusal_or_a_request(fields):
    body: dict[str, Any] = {"model": "m", "messages": HELLO, "prompt": "x", "input": "x"} | fields
    understand_or_refuse(json.dumps(body).encode())


@given(
    st.lists(st.dictionaries(st.sampled_from(["type", "text", "image_url", "url", "file_id", "x"]), JSON), max_size=3)
)
def test_no_parts_make_anything_but_a_refusal_or_a_request(parts):
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    understand_or_refuse(json.dumps(body).encode())
