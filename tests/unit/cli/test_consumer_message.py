"""What becomes of a message before it is sent, and what of the gateway's replies."""

from typing import Any

import msgspec
import pytest

from fareclass.cli.consumer.message import (
    PATHS,
    Answer,
    BadMessage,
    Message,
    Verdict,
    answer_fields,
    as_answer,
    judge,
    read_call,
    told_wait_s,
)
from fareclass.cli.consumer.patience import Times
from fareclass.core.limits import BODY_BYTES, CONSUME_DELIVERIES, REPEAT_KEY_BYTES, REPEAT_WAIT_S
from fareclass.wire.routes import GENERATING

QUEUE = ("requests", "fareclass")
BODY = b'{"model":"m","messages":[]}'
OURS = {"x-request-id": "req_1"}


def message(body: bytes | None = BODY, id: str = "1-0", deliveries: int = 1, **fields: Any) -> Message:
    given = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in fields.items()}
    return Message(id, given if body is None else {b"body": body, **given}, deliveries)


def refusal(bad: Message) -> dict[str, Any]:
    with pytest.raises(BadMessage) as caught:
        read_call(bad, QUEUE, "flex")
    error: dict[str, Any] = msgspec.json.decode(caught.value.answer.body)["error"]
    return {"status": caught.value.answer.status, **error}


def test_every_call_of_the_gateway_may_be_asked_for():
    assert set(PATHS) == set(GENERATING)


@pytest.mark.parametrize(
    ("path", "body", "sent", "header"),
    [
        ("/v1/chat/completions", b"{}", b'{"service_tier":"flex"}', None),
        ("/v1/messages", b'{"service_tier":null}', b'{"service_tier":"flex"}', None),
        ("/v1/embeddings", b'{"service_tier":"priority"}', b'{"service_tier":"priority"}', None),
        ("/model/m/converse", b"{}", b'{"serviceTier":{"type":"flex"}}', None),
        ("/model/m/converse", b'{"serviceTier":{"type":"fast"}}', b'{"serviceTier":{"type":"fast"}}', None),
        ("/model/m/invoke", b"{}", b"{}", "flex"),
        ("/model/m/invoke", b'{"service_tier":"fast"}', b'{"service_tier":"fast"}', None),
    ],
)
def test_r1_a_tier_is_put_where_the_api_has_it_unless_the_body_names_one(path, body, sent, header):
    call = read_call(message(body, path=path), QUEUE, "flex")
    assert (call.path, call.body) == (path, sent)
    assert call.headers.get("X-Amzn-Bedrock-Service-Tier") == header


def test_the_messages_tier_goes_before_the_workers_and_values_stay_as_they_were_written():
    call = read_call(message(b'{"top_p": 1.00, "seed":12345678901234567890123}', tier="priority"), QUEUE, "flex")
    assert call.body == b'{"top_p":1.00,"seed":12345678901234567890123,"service_tier":"priority"}'


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/responses", b'{"background":false}'), ("/v1/chat/completions", b'{"background":true}')]
)
def test_background_is_sent_where_it_keeps_no_answer_back(path, body):
    assert read_call(message(body, path=path), QUEUE, "flex").body.startswith(body[:-1])


def test_r48_a_call_has_one_idempotency_key_whoever_sends_it():
    once = read_call(message(id="7-0", deliveries=1), QUEUE, "flex").headers["idempotency-key"]
    assert read_call(message(id="7-0", deliveries=3, other="x"), QUEUE, "flex").headers["idempotency-key"] == once
    assert len(once) <= REPEAT_KEY_BYTES, REPEAT_WAIT_S
    invoke = message(b"{}", "7-0", path="/model/m/invoke")
    others = {
        read_call(*each).headers["idempotency-key"]
        for each in (
            (message(id="7-1"), QUEUE, "flex"),
            (message(id="7-0"), ("requests", "other"), "flex"),
            (message(id="7-0"), ("other", "fareclass"), "flex"),
            (message(id="7-0"), QUEUE, "default"),
            (message(b"{}", "7-0"), QUEUE, "flex"),
            (invoke, QUEUE, "flex"),
            (invoke, QUEUE, "default"),
        )
    }
    assert len(others | {once}) == 8


def test_r48_a_dead_workers_message_is_taken_over_while_its_work_goes_on():
    times = Times()
    assert times.idle_s + times.look_s + times.block_s < REPEAT_WAIT_S
    assert times.idle_s > 3 * times.keep_s


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (message(None), "body"),
        (message(b""), "body"),
        (message(b"[1]"), "body"),
        (message(b"\xff"), "body"),
        (message(b'{"a":' + b"[" * 100_000), "body"),
        (message(b" " * (BODY_BYTES + 1)), "body"),
        (message(b'{"stream": true}'), "stream"),
        (message(b'{"stream": 1}'), "stream"),
        (message(b'{"background": true}', path="/v1/responses"), "background"),
        (message(tier="gold\r\nx: y"), "tier"),
        (message(tier=b"\xff"), "tier"),
        (message(path=b"\xff"), "path"),
        (message(status="mine"), "status"),
        (message(request="mine"), "request"),
        (message(request_id="mine"), "request_id"),
        (message(large="x" * 70_000), None),
        (message(**{f"f{number}": "" for number in range(65)}), None),
    ],
)
def test_what_cannot_be_sent_says_why(bad, param):
    error = refusal(bad)
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_message", param)
    answered = answer_fields(bad, Answer(400, b"{}"))
    assert answered[b"request"] == b"1-0" and answered[b"status"] == b"400"
    assert len(answered) == 3  # what is too much, or has a name of ours, is not given back


@pytest.mark.parametrize(
    "path",
    [
        "", "v1/messages", "/v1/models", "/v1/batches", "/v1/chat/completions/", "/v1/chat/completions?x=1",
        "/V1/messages", "/admin/v1/keys", "http://elsewhere/v1/messages", "//elsewhere/v1/messages", "/metrics",
        "/model/m/converse-stream", "/model/m/count-tokens", "/model//converse", "/model/../admin/converse",
        "/model/%2e%2e/converse", "/model/a%2F..%2Fb/invoke", "/model/a//b/invoke", "/model/m?x/invoke",
        "/model/m#x/invoke", "/model/m\r\nx/invoke", "/model/" + "m" * 513 + "/invoke",
    ],
)  # fmt: skip
def test_no_other_path_is_called(path):
    assert refusal(message(path=path))["param"] == "path"


@pytest.mark.parametrize(
    "model", ["m", "meta/llama-3.3:70b", "arn:aws:bedrock:us-east-1::foundation-model%2Fm", "a..b"]
)
def test_models_are_named_as_bedrocks_clients_do(model):
    assert read_call(message(path=f"/model/{model}/converse"), QUEUE, "flex").path == f"/model/{model}/converse"


def test_a_message_that_was_given_out_too_often_is_given_up():
    read_call(message(deliveries=CONSUME_DELIVERIES), QUEUE, "flex")
    error = refusal(message(deliveries=CONSUME_DELIVERIES + 1))
    assert (error["status"], error["code"], error["type"]) == (500, "too_many_deliveries", "server_error")


def test_an_answer_carries_the_requesters_own_fields():
    asked = message(path="/v1/messages", tier="flex", reply_to="billing", raw=b"\xff")
    assert answer_fields(asked, Answer(200, b"{}", "flex", "req_1")) == {
        b"request": b"1-0", b"status": b"200", b"body": b"{}", b"tier": b"flex", b"request_id": b"req_1",
        b"reply_to": b"billing", b"raw": b"\xff",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers", "verdict"),
    [
        (200, OURS, Verdict.ANSWER),
        (400, OURS, Verdict.ANSWER),
        (403, OURS | {"x-amzn-errortype": "AccessDeniedException"}, Verdict.ANSWER),
        (404, OURS, Verdict.ANSWER),
        (409, OURS | {"x-should-retry": "false"}, Verdict.ANSWER),
        (401, OURS, Verdict.WRONG_KEY),
        (403, OURS | {"x-amzn-errortype": "UnrecognizedClientException"}, Verdict.WRONG_KEY),
        (429, OURS, Verdict.LATER),
        (429, OURS | {"retry-after": "3"}, Verdict.LATER),
        (429, OURS | {"retry-after": "9999999", "x-should-retry": "false"}, Verdict.LATER),
        (429, OURS | {"x-should-retry": "false"}, Verdict.ANSWER),
        (503, OURS, Verdict.LATER),
        (529, OURS, Verdict.LATER),
        (500, OURS, Verdict.FAILED),
        (502, OURS, Verdict.FAILED),
        (424, OURS, Verdict.FAILED),
        (408, OURS, Verdict.FAILED),
        (502, OURS | {"x-should-retry": "false"}, Verdict.ANSWER),
        (502, {}, Verdict.STRANGER),
        (200, {"x-request-id": "a proxy's"}, Verdict.STRANGER),
        (401, {}, Verdict.STRANGER),
        (429, {"retry-after": "3"}, Verdict.STRANGER),
        (413, {}, Verdict.ANSWER),
    ],
)
def test_what_a_reply_is(status, headers, verdict):
    """R14: of those that are to come back, the ones that are told when, or at least not told that it can't help."""
    assert judge(status, headers) is verdict


def test_the_finer_of_two_times_counts_and_nonsense_does_not():
    told = ({"retry-after-ms": "1500", "retry-after": "2"}, {"retry-after": "2"}, {"retry-after": "soon"}, {})
    assert [told_wait_s(each) for each in told] == [1.5, 2.0, None, None]


def test_a_reply_of_a_proxy_is_told_in_words_of_ours():
    answer = as_answer(413, {}, b"<h1>no</h1>")
    assert (answer.status, msgspec.json.decode(answer.body)["error"]["code"]) == (413, "body_refused")
    assert as_answer(200, OURS | {"x-fareclass-served-tier": "flex"}, b"{}") == Answer(200, b"{}", "flex", "req_1")
