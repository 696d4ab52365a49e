"""The unmodified OpenAI SDK against the data plane: what its users see."""

from collections.abc import AsyncIterator

import openai
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from tests.wire.plane import SECRET, Running, chunk, reply_whole, say_hello, served_as

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(plane: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{plane.url}/v1", api_key=SECRET, max_retries=0) as sdk:
        yield sdk


def refusing(refusal: Refusal):
    async def script(request, reply):
        await reply.refuse(refusal)

    return script


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_a_whole_answer_on_every_tier(client: openai.AsyncOpenAI, tier):
    answer = await client.chat.completions.create(model="m", messages=MESSAGES, service_tier=tier)
    assert answer.choices[0].message.content == "Hello!"
    assert (answer.service_tier, answer.model, answer.usage.prompt_tokens) == (tier, "m", 9)


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r1_a_stream_on_every_tier(client: openai.AsyncOpenAI, tier):
    stream = await client.chat.completions.create(
        model="m", messages=MESSAGES, service_tier=tier, stream=True, stream_options={"include_usage": True}
    )
    chunks = [one async for one in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "Hello!"
    assert {(one.id, one.model, one.service_tier) for one in chunks} == {("chatcmpl-first", "m", tier)}
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 12)
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 4


async def test_completions_embeddings_and_models(plane: Running, client: openai.AsyncOpenAI):
    async def script(request, reply):
        if request.path == "/completions":
            await reply_whole(reply, served_as(request), b'{"id":"x","model":"up","choices":[{"text":"Hi","index":0}]}')
        else:
            body = b'{"object":"list","data":[{"embedding":[0.5],"index":0}],"model":"up"}'
            await reply_whole(reply, served_as(request), body)

    plane.walk.script = script
    assert (await client.completions.create(model="m", prompt="x")).choices[0].text == "Hi"
    vectors = await client.embeddings.create(model="m", input=["x"], encoding_format="float")
    assert (vectors.data[0].embedding, vectors.model) == ([0.5], "m")
    assert [model.id async for model in client.models.list()] == ["m", "org/m"]
    assert (await client.models.retrieve("org/m")).id == "org/m"


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome.INVALID, openai.BadRequestError),
        (Outcome.FORBIDDEN, openai.PermissionDeniedError),
        (Outcome.NOT_FOUND, openai.NotFoundError),
        (Outcome.THROTTLED, openai.RateLimitError),
        (Outcome.SHED, openai.InternalServerError),
        (Outcome.UPSTREAM_FAILED, openai.InternalServerError),
    ],
)
async def test_refusals_are_the_sdks_own_exceptions(plane: Running, client: openai.AsyncOpenAI, outcome, error):
    plane.walk.script = refusing(Refusal(outcome, "What was wrong.", param="messages", code="a_code"))
    with pytest.raises(error) as caught:
        await client.chat.completions.create(model="m", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("a_code", "messages")
    assert caught.value.body["message"] == "What was wrong."
    assert caught.value.request_id == plane.walk.requests[0].id


async def test_a_wrong_key_is_the_sdks_authentication_error(client: openai.AsyncOpenAI):
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.with_options(api_key="sk-wrong").chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"


async def test_r48_an_error_in_mid_stream_is_raised_after_what_came(plane: Running, client: openai.AsyncOpenAI):
    async def script(request, reply):
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        await reply.refuse(Refusal(Outcome.UPSTREAM_FAILED, "The engine died."))

    plane.walk.script = script
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match=r"The engine died\.") as caught:
        await anext(stream)
    assert caught.value.code == "upstream_error"


async def test_r14_the_sdk_comes_back_when_told_to(plane: Running, client: openai.AsyncOpenAI, monkeypatch):
    """The SDK sleeps for `retry-after-ms`, and the second try succeeds."""
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
    answer = await client.with_options(max_retries=2).chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello!"
    assert waits == [1.234]


async def test_r14_the_sdk_does_not_come_back_where_waiting_can_not_help(plane: Running, client: openai.AsyncOpenAI):
    plane.walk.script = refusing(Refusal(Outcome.THROTTLED, "Never.", retry=False))
    with pytest.raises(openai.RateLimitError):
        await client.with_options(max_retries=2).chat.completions.create(model="m", messages=MESSAGES)
    assert len(plane.walk.requests) == 1
