"""The unmodified Anthropic SDK against the data plane: what its users see when it says no."""

from collections.abc import AsyncIterator

import anthropic
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from tests.wire.plane import SECRET, Running, chunk, reply_whole, say_hello, served_as

ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
async def client(plane: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=plane.url, api_key=SECRET, max_retries=0) as sdk:
        yield sdk


def refusing(refusal: Refusal):
    async def script(request, reply):
        await reply.refuse(refusal)

    return script


@pytest.mark.parametrize(
    ("outcome", "status", "kind"),
    [
        (Outcome.INVALID, 400, "invalid_request_error"),
        (Outcome.FORBIDDEN, 403, "permission_error"),
        (Outcome.NOT_FOUND, 404, "not_found_error"),
        (Outcome.THROTTLED, 429, "rate_limit_error"),
        (Outcome.SHED, 529, "overloaded_error"),
        (Outcome.EXPIRED, 529, "overloaded_error"),
        (Outcome.UPSTREAM_FAILED, 500, "api_error"),
        (Outcome.INTERNAL, 500, "api_error"),
    ],
)
async def test_refusals_are_the_sdks_own_exceptions(plane: Running, client, outcome, status, kind):
    plane.walk.script = refusing(Refusal(outcome, "What was wrong."))
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**ASKED)
    assert (caught.value.status_code, caught.value.body["error"]) == (
        status,
        {"type": kind, "message": "What was wrong."},
    )
    assert caught.value.request_id == plane.walk.requests[0].id == caught.value.body["request_id"]


async def test_r51_either_header_shows_the_key_and_a_wrong_one_is_told(plane: Running, client):
    async with anthropic.AsyncAnthropic(base_url=plane.url, auth_token=SECRET, max_retries=0) as bearer:
        assert (await bearer.messages.create(**ASKED)).content[0].text == "Hello!"
    with pytest.raises(anthropic.AuthenticationError) as caught:
        await client.with_options(api_key="fc_wrong").messages.create(**ASKED)
    assert caught.value.body["error"]["type"] == "authentication_error"
    assert caught.value.request_id


async def test_mistakes_name_their_field(client):
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]\.type.*document"):
        await client.messages.create(**ASKED | {"messages": [{"role": "user", "content": [document]}]})


async def test_r48_an_error_in_mid_stream_is_raised_after_what_came(plane: Running, client):
    async def script(request, reply):
        await reply.start(served_as(request))
        await reply.comment()
        await reply.relay(chunk("Hel"))
        await reply.refuse(Refusal(Outcome.UPSTREAM_FAILED, "The engine died."))

    plane.walk.script = script
    text = ""
    with pytest.raises(anthropic.APIStatusError, match=r"The engine died\."):  # noqa: PT012 - the stream breaks inside
        async with client.messages.stream(**ASKED) as stream:
            async for piece in stream.text_stream:
                text += piece
    assert text == "Hel"


async def test_an_answer_that_is_none_is_the_engines_fault(plane: Running, client):
    async def script(request, reply):
        await reply_whole(reply, served_as(request), b'{"choices":[]}')

    plane.walk.script = script
    with pytest.raises(anthropic.InternalServerError, match="no choice"):
        await client.messages.create(**ASKED)


async def test_r14_the_sdk_comes_back_when_told_to(plane: Running, client, monkeypatch):
    waits = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", note)

    async def full_once(request, reply):
        if len(plane.walk.requests) == 1:
            await reply.refuse(Refusal(Outcome.SHED, "Full.", retry_after_ms=1234, retry=True))
        else:
            await say_hello(request, reply)

    plane.walk.script = full_once
    assert (await client.with_options(max_retries=2).messages.create(**ASKED)).content[0].text == "Hello!"
    assert waits == [1.234]


async def test_r14_the_sdk_does_not_come_back_where_waiting_can_not_help(plane: Running, client):
    plane.walk.script = refusing(Refusal(Outcome.THROTTLED, "Never.", retry=False))
    with pytest.raises(anthropic.RateLimitError):
        await client.with_options(max_retries=2).messages.create(**ASKED)
    assert len(plane.walk.requests) == 1


async def test_models_in_the_form_of_the_callers_api(client, http):
    assert [model.id async for model in client.models.list()] == ["m", "org/m"]
    model = await client.models.retrieve("m")
    assert (model.type, model.created_at.year, model.lifecycle) == ("model", 1970, "active")
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("none")
    assert (await http.get("/v1/models")).json()["object"] == "list"


async def test_what_is_asked_the_wrong_way_is_told_in_this_apis_words(http):
    answer = await http.get("/v1/messages")
    assert (answer.status_code, answer.json()["error"]["type"]) == (405, "invalid_request_error")
