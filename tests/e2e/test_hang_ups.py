"""R15: a caller who goes away, at every point of a request: nothing stays taken, the engine is told, what came is billed."""

import asyncio
import contextlib
import random
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from tests.e2e.gateway import behind, chat, cost, simulated
from tests.e2e.upstream import story, tell, tell_in_two

STREAMED = pytest.mark.parametrize("stream", [True, False])


@pytest.fixture
async def narrow(upstream, launch):
    """One slot, and a quota of one request at a time, whose tokens are just enough for one."""
    gateway = await launch(behind(upstream.url, slots=1))
    await gateway.limit(concurrency=1)
    return gateway


async def nothing_is_taken(gateway, upstream):
    """Slot, place in line and hold are free: with a concurrency of one, the next request is served."""
    await gateway.idle()
    upstream.play = tell
    answer = await gateway.ask()
    assert answer.status_code == 200, answer.text


async def hang_up(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@STREAMED
async def test_r15_before_the_first_token(upstream, narrow, stream):
    """In prefill, before the engine's headers: not billed, and the whole hold comes back."""
    await narrow.limit(concurrency=1, tpm=700)

    async def prefill(turn):
        await turn.hang()

    upstream.play = prefill
    task = asyncio.create_task(narrow.ask(stream=stream, max_tokens=600))
    turn = await upstream.next()
    await hang_up(task)
    await asyncio.wait_for(turn.gone.wait(), 2)
    (row,) = await narrow.recorded(1)
    assert (row["outcome"], row["cost_pico"], row["first_token_us"]) == ("cancelled", 0, None)
    await narrow.idle()
    upstream.play = tell
    again = await narrow.ask(max_tokens=600)
    assert again.status_code == 200, "the hold of 600 of 700 tokens was given back"
    assert len(narrow.rows()) == 2


@asynccontextmanager
async def reading(gateway, **fields):
    """A stream under way; the caller hangs up at the end of the block."""
    async with gateway.http.stream("POST", "/chat/completions", json=chat(stream=True, **fields)) as response:
        yield response


async def read_tokens(response, count):
    """Read on until so many tokens have come; what the server sent beyond is left."""
    text = ""
    lines = response.aiter_lines()
    while text.count("w") < count:
        line = await anext(lines)
        if line.startswith("data: ") and '"content":"' in line:
            text += line.split('"content":"')[1].split('"')[0]
    return text


@pytest.mark.parametrize(("said", "asked"), [(3, 100), (7, 8)], ids=["streaming", "last token but one"])
async def test_r15_in_mid_stream(upstream, narrow, said, asked):
    """R6: billed for what was produced, input and all, as an estimate where the engine gave no usage."""

    async def speak(turn):
        await turn.say(said)
        await turn.hang()

    upstream.play = speak
    async with reading(narrow, max_tokens=asked) as response:
        turn = await upstream.next()
        assert await read_tokens(response, said) == story(said)
    await asyncio.wait_for(turn.gone.wait(), 2)
    (row,) = await narrow.recorded(1)
    assert (row["outcome"], row["output"], row["estimated"]) == ("cancelled", said, 1)
    assert row["input"] > 0 and row["cost_pico"] == cost("default", row["input"], said)
    await nothing_is_taken(narrow, upstream)


async def test_r15_a_whole_answer_that_nobody_waits_for_is_billed_too(upstream, narrow):
    """Its engine has begun to speak, though the caller has heard nothing yet (R6)."""
    upstream.continues = True
    spoken = asyncio.Event()

    async def speak(turn):
        await turn.say(5)
        spoken.set()
        await turn.hang()

    upstream.play = speak
    task = asyncio.create_task(narrow.ask(max_tokens=50))
    turn = await upstream.next()
    await spoken.wait()
    await hang_up(task)
    await asyncio.wait_for(turn.gone.wait(), 2)
    (row,) = await narrow.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("cancelled", 0 if not row["output"] else row["cost_pico"])
    await nothing_is_taken(narrow, upstream)


async def test_r15_in_line(upstream, launch):
    """The engine never hears of it, who runs is not disturbed, and who stood behind moves up."""
    gateway = await launch(behind(upstream.url, slots=1))
    go_on = asyncio.Event()

    upstream.play = tell_in_two(1, go_on)
    runs = asyncio.create_task(gateway.ask(stream=True))
    await upstream.next()
    impatient = asyncio.create_task(gateway.ask(stream=True, service_tier="flex"))
    await gateway.becomes("waiting", 1)
    patient = asyncio.create_task(gateway.ask(stream=True, service_tier="flex", max_tokens=5))
    await gateway.becomes("waiting", 2)
    await hang_up(impatient)
    await gateway.becomes("waiting", 1)
    go_on.set()
    assert story(4).split()[-1] in (await runs).text
    assert story(5).split()[-1] in (await patient).text
    rows = await gateway.recorded(3)
    assert [row["outcome"] for row in rows] == ["completed", "cancelled", "completed"]
    assert (rows[1]["cost_pico"], rows[1]["started_us"]) == (0, None)
    assert [turn.body["max_tokens"] for turn in upstream.turns] == [4, 5]
    await gateway.idle()


@pytest.mark.parametrize("stream", [True, False])
async def test_r15_while_its_answer_is_paused(pair, launch, stream):
    """R6: what had been produced before the pause is billed; nobody continues it."""
    upstream = pair[0]
    gateway = await launch(behind(upstream.url, slots=1))
    go_on = asyncio.Event()

    upstream.play = tell_in_two(3, go_on)
    task = asyncio.create_task(gateway.ask(stream=stream, service_tier="flex", max_tokens=50))
    paused = await upstream.next()
    await gateway.speaks("flex")
    better = asyncio.create_task(gateway.ask(stream=True, service_tier="priority"))
    await gateway.becomes("paused", 1, "flex")
    await asyncio.wait_for(paused.gone.wait(), 2)
    await hang_up(task)
    await gateway.becomes("paused", 0, "flex")
    go_on.set()
    assert (await better).status_code == 200
    rows = await gateway.recorded(2)
    assert [(row["outcome"], row["output"], row["pauses"]) for row in rows] == [
        ("cancelled", 3, 1),
        ("completed", 4, 0),
    ]
    assert rows[0]["cost_pico"] == cost("flex", rows[0]["input"], 3)
    assert len(upstream.turns) == 2
    await gateway.idle()


async def test_r15_while_its_body_is_on_the_way(gateway):
    """Half a request: one outcome, nothing taken, no engine asked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("cancelled", 0)
    assert await reader.read() == b"", "nobody is there to be answered"
    await gateway.idle()


async def test_r15_many_at_once_leave_nothing_behind(upstream, launch):
    """Forty callers on four slots go away at every moment: each is one entry, and every slot is free."""
    gateway = await launch(behind(upstream.url, slots=4))

    everybody_is_here = asyncio.Event()

    async def slow(turn):
        await everybody_is_here.wait()
        for _ in range(turn.limit):
            await turn.say(1)
            await asyncio.sleep(0.005)
        await turn.end()

    upstream.play = slow
    tasks = [
        asyncio.create_task(gateway.ask(stream=number % 2 == 0, max_tokens=20, service_tier="flex"))
        for number in range(40)
    ]
    await gateway.becomes("waiting", 36)
    everybody_is_here.set()
    for number, task in enumerate(tasks):
        if number % 4:
            task.cancel()
            await asyncio.sleep(0.01)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer.status_code == 200 for answer in answers if not isinstance(answer, BaseException))
    rows = await gateway.recorded(40)
    assert len(rows) == 40 == len({row["id"] for row in rows})
    assert all(row["cost_pico"] == 0 for row in rows if row["first_token_us"] is None)
    await gateway.idle()
    assert all(turn.gone.is_set() or turn.at == turn.limit for turn in upstream.turns)


@pytest.mark.parametrize("seed", range(2))
async def test_r6_r15_a_storm_of_all_tiers_with_pauses_and_hang_ups_leaves_nothing_behind(launch, seed):
    """On two replicas of two slots: each request is one entry, and every answer that came is whole."""
    gateway = await launch(simulated(replicas=2, slots=2, base_us=2000, sequence_us=200))
    dice = random.Random(seed)

    async def call(number):
        await asyncio.sleep(dice.random() * 1.5)
        tier = dice.choice(["priority", "default", "flex"])
        more = dice.choice([{}, {"seed": 1}, {"n": 2}])
        messages = [{"role": "user", "content": f"{number} " * dice.choice([1, 1000])}]
        asked = gateway.ask(
            service_tier=tier, stream=dice.random() < 0.5, max_tokens=dice.randint(1, 60), messages=messages, **more
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.choice([60, dice.random()])):
                return await asked

    answers = await asyncio.gather(*(call(number) for number in range(150)))
    await gateway.idle()
    rows = await gateway.recorded(sum((await gateway.counted()).values()))
    heard = sum(answer is not None for answer in answers)
    assert 50 < heard <= len(rows) <= 150, "who hangs up before he is heard leaves no entry"
    assert {row["outcome"] for row in rows} <= {"completed", "cancelled", "shed", "expired"}
    assert sum(row["pauses"] + row["restarts"] for row in rows) > 5, "or it was no storm"
    by_id = {row["id"]: row for row in rows}
    for answer in filter(None, answers):
        row = by_id[answer.headers["x-request-id"]]
        assert (answer.status_code == 200) == (row["outcome"] == "completed")
        if answer.headers["content-type"] == "application/json" and answer.status_code == 200:
            assert answer.json()["usage"]["completion_tokens"] == row["output"]
        elif answer.status_code == 200:
            assert answer.text.endswith("data: [DONE]\n\n") and '"error"' not in answer.text
    assert all((row["cost_pico"] > 0) == (row["first_token_us"] is not None) for row in rows)
    assert await gateway.counted() == Counter(row["outcome"] for row in rows), "metrics and ledger are of one mind"
