"""R48: a call that is sent again with its idempotency key joins the work under way, or gets the kept answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.request import Request
from fareclass.core.usage import Usage
from fareclass.flow.reply import Reply
from fareclass.wire import repeats
from tests.engine.conftest import eventually
from tests.wire.plane import SECRET, Running, chunk, say_hello, served_as

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
KEY = {"idempotency-key": "mine"}


def held(go_on: asyncio.Event) -> Callable[[Request, Reply], object]:
    """A walk that answers once it may."""

    async def script(request: Request, reply: Reply) -> None:
        await go_on.wait()
        await say_hello(request, reply)

    return script


def half(go_on: asyncio.Event) -> Callable[[Request, Reply], object]:
    """A walk whose stream stops in the middle until it may go on."""

    async def script(request: Request, reply: Reply) -> None:
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        await go_on.wait()
        await reply.relay(chunk("lo"))
        await reply.end(Usage(input=5, output=2))

    return script


@contextlib.asynccontextmanager
async def stream(http: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    async with http.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=KEY) as answer:
        yield answer.aiter_lines()


@pytest.mark.parametrize("name", ["idempotency-key", "amz-sdk-invocation-id"])
async def test_a_repeat_joins_the_work_and_later_ones_get_its_answer(plane: Running, http: httpx.AsyncClient, name):
    go_on = asyncio.Event()
    plane.walk.script = held(go_on)
    calls = [asyncio.create_task(http.post(CHAT, json=HELLO, headers={name: "k"})) for _ in range(3)]
    await eventually(lambda: len(plane.walk.requests) == 1)
    go_on.set()
    answers = [*await asyncio.gather(*calls), await http.post(CHAT, json=HELLO, headers={name: "k"})]
    assert len(plane.walk.requests) == 1
    assert {(answer.status_code, answer.content, answer.headers["x-request-id"]) for answer in answers} == {
        (200, answers[0].content, plane.walk.requests[0].id)
    }
    assert sorted("x-fareclass-repeated" in answer.headers for answer in answers) == [False, True, True, True]


async def test_other_keys_and_calls_without_a_key_do_their_own_work(plane: Running, http: httpx.AsyncClient):
    for headers in (KEY, {"idempotency-key": "other"}, {}, {}):
        assert (await http.post(CHAT, json=HELLO, headers=headers)).status_code == 200
    assert len(plane.walk.requests) == 4


async def test_another_body_under_the_same_key_is_a_conflict(plane: Running, http: httpx.AsyncClient):
    go_on = asyncio.Event()
    plane.walk.script = held(go_on)
    first = asyncio.create_task(http.post(CHAT, json=HELLO, headers=KEY))
    await eventually(lambda: len(plane.walk.requests) == 1)
    for _ in ("while it runs", "once it is kept"):
        answer = await http.post(CHAT, json=HELLO | {"max_tokens": 5}, headers=KEY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_key_reused")
        assert answer.headers["x-should-retry"] == "false"
        go_on.set()
        await first
    assert (await http.post("/v1/completions", json={"model": "m", "prompt": "a"}, headers=KEY)).status_code == 409
    assert len(plane.walk.requests) == 1


async def test_a_refusal_is_not_kept(plane: Running, http: httpx.AsyncClient):
    async def refuse(request: Request, reply: Reply) -> None:
        await reply.refuse(Refusal(Outcome.THROTTLED, "Too much.", retry_after_ms=1))

    plane.walk.script = refuse
    assert (await http.post(CHAT, json=HELLO, headers=KEY)).status_code == 429
    plane.walk.script = say_hello
    assert (await http.post(CHAT, json=HELLO, headers=KEY)).status_code == 200


async def test_a_stream_is_kept_while_its_caller_is_away(plane: Running, http: httpx.AsyncClient):
    """He hangs up in the middle and asks again: one unbroken answer from its beginning, and no second work."""
    go_on = asyncio.Event()
    plane.walk.script = half(go_on)
    async with stream(http) as lines:
        assert "Hel" in await anext(lines)
    async with stream(http) as lines:
        assert "Hel" in await anext(lines)
        go_on.set()
        rest = [line async for line in lines if line]
    assert "lo" in rest[0]
    assert rest[-1] == "data: [DONE]"
    assert len(plane.walk.requests) == 1
    assert not plane.walk.cancelled.is_set()


async def test_work_that_nobody_comes_back_for_is_given_up(plane: Running, http: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_WAIT_S", 0.05)
    plane.walk.script = half(asyncio.Event())
    async with stream(http) as lines:
        await anext(lines)
    await asyncio.wait_for(plane.walk.cancelled.wait(), 5)
    plane.walk.script = say_hello
    async with stream(http) as lines:
        assert "Hel" in await anext(lines)
    assert len(plane.walk.requests) == 2


async def test_who_comes_while_work_is_being_given_up_has_work_of_its_own(plane: Running, http, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_WAIT_S", 0.0)
    slow_end, ending = asyncio.Event(), asyncio.Event()

    async def script(request: Request, reply: Reply) -> None:
        await reply.start(served_as(request))
        await reply.relay(chunk("Hel"))
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await slow_end.wait()

    plane.walk.script = script
    async with stream(http) as lines:
        await anext(lines)
    await asyncio.wait_for(ending.wait(), 5)
    plane.walk.script = say_hello
    async with stream(http) as lines:
        assert [line async for line in lines if line][-1] == "data: [DONE]"
    slow_end.set()
    assert len(plane.walk.requests) == 2
    assert (await http.post(CHAT, json=HELLO | {"stream": True}, headers=KEY)).headers["x-fareclass-repeated"] == "true"


async def test_what_is_kept_is_bounded_in_bytes(plane: Running, http: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_BYTES", 5_000)
    for number in range(4):
        await http.post(CHAT, json=HELLO, headers={"idempotency-key": f"{number}"})
    await http.post(CHAT, json=HELLO, headers={"idempotency-key": "3"})
    assert len(plane.walk.requests) == 4
    await http.post(CHAT, json=HELLO, headers={"idempotency-key": "0"})
    assert len(plane.walk.requests) == 5


async def test_an_answer_is_forgotten_in_time(plane: Running, http: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_S", 0.0)
    for _ in range(2):
        await http.post(CHAT, json=HELLO, headers=KEY)
    assert len(plane.walk.requests) == 2


async def test_a_key_has_a_bound_and_needs_a_valid_bearer(plane: Running, http: httpx.AsyncClient):
    answer = await http.post(CHAT, json=HELLO, headers={"idempotency-key": "k" * 256})
    assert answer.status_code == 400
    await http.post(CHAT, json=HELLO, headers=KEY)
    stranger = {"authorization": f"Bearer {SECRET}x", **KEY}
    assert (await http.post(CHAT, json=HELLO, headers=stranger)).status_code == 401


@pytest.mark.parametrize(("told", "patience_s"), [("600", 595), ("4", 2), ("0.5", 0.25), ("NaN", None), ("-1", None)])
async def test_a_call_waits_a_little_less_than_its_client(plane: Running, http: httpx.AsyncClient, told, patience_s):
    headers = {"x-stainless-read-timeout": told}
    await http.post(CHAT, json=HELLO, headers=headers)
    await http.post(CHAT, json=HELLO | {"stream": True}, headers=headers)
    whole, streamed = plane.walk.requests
    assert streamed.deadline_s is None
    if patience_s is None:
        assert whole.deadline_s is None
    else:
        assert whole.deadline_s == pytest.approx(whole.arrived_s + patience_s)
