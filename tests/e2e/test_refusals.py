"""Section 11: what a caller gets wrong is a clear refusal with exactly one body, never a 500, and nothing is taken."""

import gc
import json

import pytest

from fareclass.core.outcomes import Refusal
from tests.e2e.gateway import MODEL, chat, simulated
from tests.e2e.test_engine_trouble import error
from tests.engine.conftest import eventually

VALID = json.dumps(chat()).encode()
DEEP = b"[" * 100 + b"]" * 100


@pytest.fixture
async def gateway(launch):
    return await launch(simulated(slots=4))


def with_field(field: bytes) -> bytes:
    return VALID[:-1] + b"," + field + b"}"


WRONG = [
    (b"", None, "empty"),
    (b"[]", None, "object"),
    (b"{", None, "JSON"),
    (b"\xff\xfe{}", None, "JSON"),
    (with_field(b'"user":"\xff"'), None, "UTF-8"),
    (with_field(b'"user":"\\ud800"'), None, "JSON"),
    (with_field(b'"user":"a","user":"b"'), "user", "twice"),
    (with_field(b'"tools":[{"a":1,"a":2}]'), "a", "twice"),
    (with_field(b'"x":' + DEEP), "x", "deep"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000, None, "deep"),
    (json.dumps(chat(max_tokens="many")).encode(), "max_tokens", "int"),
    (json.dumps(chat(max_tokens=-1)).encode(), "max_tokens", "1"),
    (json.dumps(chat(max_tokens=0)).encode(), "max_tokens", "1"),
    (with_field(b'"temperature":"x"'), "temperature", "float"),
    (with_field(b'"logit_bias":5'), "logit_bias", "object"),
    (json.dumps(chat(max_tokens=10**23)).encode(), "max_tokens", ""),
    (with_field(b'"temperature":1e999'), None, "range"),
    (with_field(b'"stream":1'), "stream", "bool"),
    (with_field(b'"stream_options":[]'), "stream_options", ""),
    (with_field(b'"n":100'), "n", "at most 8"),
    (with_field(b'"logprobs":true,"top_logprobs":2147483647'), "top_logprobs", "20"),
    (with_field(b'"n":0'), "n", ""),
    (with_field(b'"stop":{"a":1}'), "stop", ""),
    (with_field(b'"service_tier":7'), "service_tier", "str"),
    (with_field(b'"service_tier":"gold"'), "service_tier", "priority"),
    (with_field(b'"service_tier":"batch"'), "service_tier", "batch"),
    (json.dumps(chat(messages=[])).encode(), "messages", ""),
    (json.dumps(chat(messages=[{"content": "x"}])).encode(), "messages[0].role", "required"),
    (json.dumps(chat(messages=[{"role": "user", "content": 7}])).encode(), "messages[0].content", ""),
    (json.dumps(chat(messages="hello")).encode(), "messages", "array"),
    (json.dumps(chat(model=7)).encode(), "model", "str"),
    (json.dumps(chat(model=None)).encode(), "model", "required"),
    (json.dumps(chat(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png"}}]}])).encode(), "messages", "169"),
]  # fmt: skip
"""A body, the field that is told as at fault, and a word that tells what was wrong."""


@pytest.mark.parametrize(("body", "param", "word"), WRONG)
async def test_a_body_that_is_wrong_is_a_400_that_says_where(gateway, body, param, word):
    answer = await gateway.http.post("/chat/completions", content=body)
    assert answer.status_code == 400, answer.text
    found = error(answer)
    assert (found["type"], found["code"]) == ("invalid_request_error", "invalid_request_error")
    assert found["param"] == param and word.lower() in found["message"].lower(), found
    assert answer.headers["x-request-id"].startswith("req_")
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"], row["id"]) == ("invalid", 0, answer.headers["x-request-id"])
    assert (await gateway.ask()).status_code == 200


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(gateway):
    """By its declared length, and by what comes where none was declared."""
    huge = b" " * (33 * 1024 * 1024)

    async def pieces():
        for _ in range(33):
            yield huge[: 1024 * 1024]

    for content in (huge, pieces()):
        answer = await gateway.http.post("/chat/completions", content=content)
        assert (answer.status_code, "32 MiB" in error(answer)["message"]) == (400, True)
    assert (await gateway.ask()).status_code == 200


@pytest.mark.parametrize("word", ["reserved", "scale"])
async def test_r3_reserved_without_a_reservation(gateway, word):
    answer = await gateway.ask(service_tier=word)
    assert (answer.status_code, error(answer)["message"]) == (400, "Reservation not found.")
    (row,) = await gateway.recorded(1)
    assert (row["requested_tier"], row["served_tier"]) == ("reserved", "reserved"), "as it was asked for (R5)"


async def test_an_unknown_model_is_a_404(gateway):
    for path, body in (("/chat/completions", chat(model="gpt-9")), ("/completions", {"model": "gpt-9", "prompt": "x"})):
        answer = await gateway.http.post(path, json=body | {"service_tier": "flex"})
        assert (answer.status_code, error(answer)["code"]) == (404, "model_not_found")
        assert "gpt-9" in error(answer)["message"]
    assert {row["requested_tier"] for row in await gateway.recorded(2)} == {"flex"}, "as it was asked for (R5)"


async def test_r3_a_tier_that_the_key_does_not_allow_names_both(gateway):
    """R2: without a tier, and with `auto`, the key's own default is served."""
    made = await gateway.new_key(default_tier="flex", allowed_tiers=["flex"], name="thrifty")
    caller = gateway.caller(made["secret"])
    answer = await caller.post("/chat/completions", json=chat(service_tier="priority"))
    assert (answer.status_code, error(answer)["code"]) == (403, "permission_denied")
    assert "`priority`" in error(answer)["message"] and "`thrifty`" in error(answer)["message"]
    for tier in (None, "auto", "flex"):
        served = await caller.post("/chat/completions", json=chat(service_tier=tier))
        assert (served.status_code, served.json()["service_tier"]) == (200, "flex")
    first, *_ = await gateway.recorded(4)
    assert (first["outcome"], first["model"]) == ("forbidden", MODEL), "a refused request is reported under its model"
    assert first["requested_tier"] == "priority", "and under the tier that it asked for (R5)"


async def test_r3_a_tier_that_the_model_does_not_allow(launch):
    settings = simulated(slots=4)
    settings["models"][MODEL]["tiers"] = ["default", "flex"]
    answer = await (await launch(settings)).ask(service_tier="fast")
    assert (answer.status_code, error(answer)["code"]) == (403, "permission_denied")


async def test_a_revoked_key_opens_nothing_from_that_moment(gateway):
    """R51: the words are those for a key that never was."""
    made = await gateway.new_key()
    caller = gateway.caller(made["secret"])
    assert (await caller.post("/chat/completions", json=chat())).status_code == 200
    (await gateway.admin.delete(f"/keys/{made['id']}")).raise_for_status()
    answers = [await caller.post("/chat/completions", json=chat())]
    for secret in (f"{made['secret']}x", "sk-nonsense", "fc_key_none_x", "\u00e9"):
        headers = [(b"authorization", b"Bearer " + secret.encode("latin-1"))]
        answers.append(await gateway.http.post("/chat/completions", json=chat(), headers=headers))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert error(answers[0])["code"] == "invalid_api_key"
    assert (await caller.get("/models")).status_code == 401


async def test_no_key_and_no_such_address(gateway):
    del gateway.http.headers["authorization"]
    answer = await gateway.http.post("/chat/completions", content=b"{nonsense")
    assert (answer.status_code, error(answer)["code"]) == (401, "invalid_api_key")
    assert error(await gateway.http.post("/nothing"))["code"] == "unknown_url"
    wrong = await gateway.http.get("/chat/completions")
    assert (wrong.status_code, error(wrong)["code"]) == (405, "method_not_allowed")


async def test_r49_wider_than_the_replica(launch):
    gateway = await launch(simulated(slots=2))
    answer = await gateway.ask(n=3)
    assert answer.status_code == 400 and "at most 2" in error(answer)["message"]
    assert len((await gateway.ask(n=2)).json()["choices"]) == 2
    await gateway.idle()


async def test_the_engines_context_is_the_callers_limit(real):
    """The real engine refuses what does not fit into one slot; clients know the code and the words."""
    answer = await real.ask(messages=[{"role": "user", "content": "word " * 2000}])
    assert answer.status_code == 400 and error(answer)["code"] == "context_length_exceeded"
    assert error(answer)["message"].startswith("prompt is too long: ")
    assert error(answer)["message"].endswith(" maximum")


def refusals() -> list[Refusal]:
    """All that there are; tests of other things have some that stay."""
    return [kept for kept in gc.get_objects() if isinstance(kept, Refusal)]


async def test_r38_nothing_of_a_refused_request_is_kept(launch):
    """Neither by a call nor by a line of a batch: its frames would keep its body until cycles are collected."""
    gateway = await launch(simulated())
    lines = [
        {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "none"}}
        for n in range(5)
    ]
    sdk = gateway.sdk()
    file = await sdk.files.create(
        file=("a", b"".join(json.dumps(line).encode() + b"\n" for line in lines)), purpose="batch"
    )
    gc.collect()
    before = refusals()
    gc.disable()
    try:
        batch = await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        for fields in ({"model": "none"}, {"max_tokens": -1}, {"service_tier": "none"}, {"service_tier": "reserved"}):
            assert (await gateway.ask(**fields)).status_code in {400, 404, 429}
        assert (await gateway.http.get("/files/none")).status_code == 404

        async def over() -> bool:
            return (await sdk.batches.retrieve(batch.id)).status == "completed"

        await eventually(over)
        assert [kept for kept in refusals() if not any(kept is one for one in before)] == []
    finally:
        gc.enable()
