"""R48 through the whole gateway: one bill, whatever is sent again, and no project meets another's answer."""

import asyncio

from tests.e2e.callers import COUNT, Listener
from tests.e2e.gateway import chat, cost, local
from tests.e2e.upstream import PROMPT_TOKENS
from tests.engine.conftest import eventually

KEY = {"idempotency-key": "order-7"}


async def test_r48_ten_repeats_are_one_call_and_one_bill(gateway):
    calls = [gateway.http.post("/chat/completions", json=chat(), headers=KEY) for _ in range(10)]
    answers = await asyncio.gather(*calls)
    assert {answer.content for answer in answers} == {answers[0].content}
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("completed", cost("default", PROMPT_TOKENS, 4))


async def test_r51_another_projects_key_of_the_same_name_is_its_own(gateway):
    other = gateway.caller((await gateway.new_key(project="a stranger"))["secret"])
    first = await gateway.http.post("/chat/completions", json=chat(), headers=KEY)
    second = await other.post("/chat/completions", json=chat(max_tokens=3), headers=KEY)
    assert (first.status_code, second.status_code) == (200, 200)
    assert "x-fareclass-repeated" not in second.headers
    assert len({row["project"] for row in await gateway.recorded(2)}) == 2
    await other.aclose()


async def test_r48_the_real_engine_goes_on_for_a_caller_who_comes_back(start):
    """A stream that is hung up on and asked for again is one answer, computed and billed once."""
    process = await start(local(slots=2))
    gateway = process.gateway()
    asked = {**COUNT, "max_tokens": 60}
    gateway.http.headers.update(KEY)
    first = Listener(gateway, "/chat/completions", asked)
    await eventually(lambda: len(first.chunks) > 3, 30)
    first.task.cancel()
    second = Listener(gateway, "/chat/completions", asked)
    await second.task
    assert second.done
    assert second.text.startswith(first.text)
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["output"]) == ("completed", 60)
