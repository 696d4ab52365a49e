"""Section 11: every refusal of the OpenAI column, with its exact body, and R14's headers."""

import httpx
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.tiers import Tier
from tests.wire.plane import Running, chunk, served_as

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}

COLUMN = [
    (Outcome.INVALID, None, None, 400, "invalid_request_error", "invalid_request_error"),
    (Outcome.INVALID, None, "context_length_exceeded", 400, "invalid_request_error", "context_length_exceeded"),
    (Outcome.UNAUTHENTICATED, None, None, 401, "invalid_request_error", "invalid_api_key"),
    (Outcome.FORBIDDEN, None, None, 403, "invalid_request_error", "permission_denied"),
    (Outcome.NOT_FOUND, None, None, 404, "invalid_request_error", "model_not_found"),
    (Outcome.THROTTLED, None, None, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Outcome.THROTTLED, None, "budget_exceeded", 429, "rate_limit_error", "budget_exceeded"),
    (Outcome.SHED, None, None, 503, "server_error", "overloaded"),
    (Outcome.EXPIRED, Tier.PRIORITY, None, 503, "server_error", "overloaded"),
    (Outcome.EXPIRED, Tier.DEFAULT, None, 503, "server_error", "overloaded"),
    (Outcome.EXPIRED, Tier.FLEX, None, 429, "rate_limit_error", "resource_unavailable"),
    (Outcome.UPSTREAM_FAILED, None, None, 502, "server_error", "upstream_error"),
    (Outcome.INTERNAL, None, None, 500, "server_error", "server_error"),
]


def refusing(refusal: Refusal, tier: Tier | None = None):
    async def script(request, reply):
        await reply.refuse(
            refusal, None if tier is None else served_as(request, requested=tier, served=tier, replica="")
        )

    return script


@pytest.mark.parametrize(("outcome", "tier", "code", "status", "kind", "word"), COLUMN)
async def test_a_refusal_has_its_status_and_exact_body(
    plane: Running, http: httpx.AsyncClient, outcome, tier, code, status, kind, word
):
    plane.walk.script = refusing(Refusal(outcome, 'What "was" wrong.', param="model", code=code), tier)
    answer = await http.post("/v1/chat/completions", json=HELLO)
    assert answer.status_code == status
    assert answer.text == (
        f'{{"error":{{"message":"What \\"was\\" wrong.","type":"{kind}","code":"{word}","param":"model"}}}}'
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == plane.walk.requests[0].id


async def test_r6_no_outcome_is_without_a_row(plane: Running, http: httpx.AsyncClient):
    for outcome in set(Outcome) - {Outcome.COMPLETED}:
        plane.walk.script = refusing(Refusal(outcome, "x"))
        assert (await http.post("/v1/chat/completions", json=HELLO)).json()["error"]["message"] == "x"


async def test_r14_when_to_come_back_in_every_clients_words(plane: Running, http: httpx.AsyncClient):
    plane.walk.script = refusing(Refusal(Outcome.SHED, "Full.", retry_after_ms=1001, retry=False), Tier.PRIORITY)
    headers = (await http.post("/v1/chat/completions", json=HELLO)).headers
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-amz-retry-after"]) == ("2", "1001", "1001")
    assert headers["x-should-retry"] == "false"
    assert headers["x-fareclass-served-tier"] == "priority"
    assert "x-fareclass-replica" not in headers


async def test_r14_nothing_is_said_where_nothing_is_known(plane: Running, http: httpx.AsyncClient):
    plane.walk.script = refusing(Refusal(Outcome.FORBIDDEN, "No."))
    headers = (await http.post("/v1/chat/completions", json=HELLO)).headers
    assert not {"retry-after", "retry-after-ms", "x-amz-retry-after", "x-should-retry"} & set(headers)


async def test_r48_in_mid_stream_a_refusal_is_the_last_event(plane: Running, http: httpx.AsyncClient):
    async def script(request, reply):
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        assert reply.started
        await reply.refuse(Refusal(Outcome.UPSTREAM_FAILED, "The engine died.", retry_after_ms=5))

    plane.walk.script = script
    answer = await http.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert answer.status_code == 200
    assert answer.text.endswith(
        'data: {"error":{"message":"The engine died.","type":"server_error","code":"upstream_error","param":null}}\n\n'
    )
