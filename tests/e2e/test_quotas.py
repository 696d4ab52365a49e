"""R25: tokens a minute, requests a minute and concurrent requests of one project on one model."""

import asyncio
from functools import partial

import pytest

from tests.e2e.gateway import MODEL, behind, chat
from tests.e2e.test_engine_trouble import die_at_once, error
from tests.e2e.upstream import tell
from tests.engine.conftest import eventually


def throttled(answer, word):
    """429 in OpenAI's words; how long to wait, if the time alone will help."""
    assert (answer.status_code, error(answer)["code"]) == (429, "rate_limit_exceeded"), answer.text
    assert word in error(answer)["message"]
    return int(answer.headers["retry-after-ms"]), int(answer.headers["retry-after"])


async def test_r25_requests_per_minute(gateway):
    """Two a minute: the third is told to wait for half a minute; another project is not concerned."""
    await gateway.limit(rpm=2)
    stranger = gateway.caller((await gateway.new_key(project="other"))["secret"])
    assert [(await gateway.ask()).status_code for _ in range(2)] == [200, 200]
    wait_ms, wait_s = throttled(await gateway.ask(), "2 requests per minute")
    assert 20_000 < wait_ms <= 30_000 and wait_s == -(-wait_ms // 1000)
    assert (await stranger.post("/chat/completions", json=chat())).status_code == 200
    await gateway.limit()
    assert (await gateway.ask()).status_code == 200, "a lifted quota is in force at once"
    throttled_row = next(row for row in await gateway.recorded(5) if row["outcome"] == "throttled")
    assert throttled_row["cost_pico"] == 0 and throttled_row["output"] > 0, "demand that is counted, at no cost (R35)"


async def test_r25_tokens_per_minute_are_held_by_estimate_and_settled_by_use(gateway):
    """While it runs, most of 600 tokens is held; of that 15 were used, so twenty small requests fit behind it."""
    await gateway.limit(tpm=600)
    spoken, release = asyncio.Event(), asyncio.Event()

    async def slow(turn):
        await turn.say(4)
        spoken.set()
        await release.wait()
        await turn.end("stop")

    gateway.upstream.play = slow
    task = asyncio.create_task(gateway.ask(max_tokens=600, stream=True))
    await spoken.wait()
    wait_ms, _ = throttled(await gateway.ask(max_tokens=200), "600 tokens per minute")
    assert 1_000 < wait_ms < 60_000
    release.set()
    assert (await task).status_code == 200
    gateway.upstream.play = tell
    small = await asyncio.gather(*(gateway.ask(max_tokens=1) for _ in range(20)))
    assert [answer.status_code for answer in small] == [200] * 20


async def test_r25_a_hold_comes_back_whole_after_a_failure(gateway):
    """The engine fails everything three times: no token, no charge, and the same quota serves the next."""
    await gateway.limit(tpm=700, rpm=1, concurrency=1)
    gateway.upstream.play = die_at_once
    assert (await gateway.ask(max_tokens=600)).status_code == 502
    await gateway.idle()
    gateway.upstream.play = tell

    async def served() -> bool:
        answer = await gateway.ask(max_tokens=600)
        assert answer.status_code in {200, 503}, "503 until the replica is trusted again"
        return answer.status_code == 200

    await eventually(served)
    throttled(await gateway.ask(max_tokens=600), "requests per minute")


async def test_r25_64_callers_never_overshoot_their_concurrency(upstream, launch):
    """Of 64 at once exactly five run, the others are told so at once; and again, when those are through."""
    gateway = await launch(behind(upstream.url, slots=64))
    await gateway.limit(concurrency=5)
    for ran_before in (0, 5, 10):
        release = asyncio.Event()
        upstream.play = partial(hold_until, release)
        tasks = [asyncio.create_task(gateway.ask(stream=number % 2 == 0)) for number in range(64)]
        await eventually(partial(have_ended, tasks, 59))
        await eventually(partial(have_come, upstream, ran_before + 5))
        release.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 59
        waits_ms = [throttled(answer, "5 concurrent")[0] for answer in answers if answer.status_code == 429]
        assert all(1_000 <= wait_ms < 30_000 for wait_ms in waits_ms), "an honest time to come back (R14)"
        assert upstream.most == 5 and len(upstream.turns) == ran_before + 5
        await gateway.idle()


async def hold_until(release, turn):
    await release.wait()
    await tell(turn)


def have_ended(tasks, count):
    return sum(task.done() for task in tasks) == count


def have_come(upstream, count):
    return len(upstream.turns) == count


async def test_r49_width_counts_against_concurrency(gateway):
    await gateway.limit(concurrency=3)
    answer = await gateway.ask(n=4)
    assert (answer.status_code, error(answer)["code"]) == (429, "rate_limit_exceeded")
    assert (await gateway.ask(n=3)).status_code == 200


async def test_r16_a_changed_replica_is_in_force_at_once(gateway):
    answer = await gateway.admin.patch(f"/pools/{MODEL}/replicas/replica-0", json={"tiers": ["priority"]})
    assert answer.json()["tiers"] == ["priority"]
    assert (await gateway.ask()).status_code == 403
    assert (await gateway.ask(service_tier="priority")).status_code == 200


@pytest.fixture
async def gateway(upstream, launch):
    made = await launch(behind(upstream.url))
    made.upstream = upstream
    return made
