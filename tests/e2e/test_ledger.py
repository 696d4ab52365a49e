"""R35: what was answered is in the ledger, once; what the ledger says is what the callers were told."""

import asyncio
from decimal import Decimal
from functools import partial

import pytest

from fareclass.metering.ledger import Ledger
from tests.e2e.callers import Listener
from tests.e2e.gateway import FACTORS, MODEL, behind, chat, cost
from tests.e2e.test_engine_trouble import content, error
from tests.e2e.upstream import PROMPT_TOKENS, story, tell
from tests.engine.conftest import eventually
from tests.store.made import disk_full


async def recovers(gateway):
    """It takes requests again by itself."""

    async def served() -> bool:
        return (await gateway.ask()).status_code == 200

    await eventually(served)
    await gateway.idle()


async def bill(gateway) -> int:
    """The sum of the usage report, in 10⁻¹² USD."""
    report = (await gateway.admin.get("/usage")).raise_for_status().json()["data"]
    return int(sum(Decimal(row["cost"]) for row in report) * 10**12)


@pytest.fixture
async def gateway(upstream, launch, monkeypatch):
    """A ledger that gives up after half a second instead of five."""
    monkeypatch.setattr("fareclass.app.Ledger", partial(Ledger, wait_s=0.5))
    return await launch(behind(upstream.url))


async def test_a_full_disk_withholds_a_whole_answer_and_bills_nothing(gateway):
    """Told with 500 and when to come back; while it lasts new work is refused at once; then all is well."""
    with disk_full():
        withheld = await gateway.ask()
        refused = await gateway.ask()
        not_ready = await gateway.http.get(f"{gateway.url}/readyz")
    assert (withheld.status_code, error(withheld)["code"]) == (500, "server_error")
    assert story(4) not in withheld.text and int(withheld.headers["retry-after-ms"]) > 0
    assert (refused.status_code, error(refused)["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (not_ready.status_code, "ledger" in not_ready.json()["reason"]) == (503, True)
    await recovers(gateway)
    row = {row["id"]: row for row in gateway.rows()}[withheld.headers["x-request-id"]]
    assert (row["outcome"], row["cost_pico"]) == ("internal", 0)
    assert await bill(gateway) == cost("default", PROMPT_TOKENS, 4), "only the one that came through"


async def test_a_deleted_database_file_is_treated_as_a_full_disk(gateway, caplog):
    """R35: nobody is told that an answer is recorded where nobody will ever look; put back, the file is whole."""
    before = (await gateway.ask()).raise_for_status()
    file = gateway.folder / "db" / "fareclass.db"
    file.rename(file.with_name("moved"))
    withheld = await gateway.ask()
    refused = await gateway.ask()
    changed = await gateway.admin.post("/projects", json={"name": "acme"})
    not_ready = await gateway.http.get(f"{gateway.url}/readyz")
    assert (withheld.status_code, error(withheld)["code"]) == (500, "server_error")
    assert story(4) not in withheld.text
    assert (refused.status_code, error(refused)["code"]) == (503, "overloaded")
    assert (changed.status_code, not_ready.status_code) == (503, 503)
    assert not file.exists()
    assert any("was deleted, moved or replaced" in record.__dict__.get("cause", "") for record in caplog.records)
    file.with_name("moved").rename(file)
    await recovers(gateway)
    rows = {row["id"]: (row["outcome"], row["cost_pico"]) for row in gateway.rows()}
    assert rows[before.headers["x-request-id"]] == ("completed", cost("default", PROMPT_TOKENS, 4))
    assert rows[withheld.headers["x-request-id"]] == ("internal", 0)
    assert [project["name"] for project in (await gateway.admin.get("/projects")).json()["data"]] == ["default"]


async def test_a_full_disk_ends_a_stream_with_an_error_and_what_was_sent_is_billed_once(upstream, gateway):
    """Its tokens had been sent before the disk was needed; the entry waits and is written later."""
    spoken, end = asyncio.Event(), asyncio.Event()

    async def speak(turn):
        await turn.say(4)
        spoken.set()
        await end.wait()
        await turn.end()

    upstream.play = speak
    task = asyncio.create_task(gateway.ask(stream=True))
    await spoken.wait()
    with disk_full():
        end.set()
        answer = await task
    assert content(answer) == story(4)
    assert '"error"' in answer.text and "[DONE]" not in answer.text
    upstream.play = tell
    await recovers(gateway)
    row = {row["id"]: row for row in gateway.rows()}[answer.headers["x-request-id"]]
    assert (row["output"], row["cost_pico"]) == (4, cost("default", PROMPT_TOKENS, 4))
    assert len(gateway.rows()) == len({row["id"] for row in gateway.rows()})


async def test_usage_is_what_the_callers_were_told_times_the_prices(pair, launch):
    """R5, R34: over a mixed run of all tiers, streamed and not, with pauses, a failover and hang-ups."""
    one, two = pair
    gateway = await launch(behind(one.url, two.url, slots=2))

    async def pace(turn):
        if not turn.body.get("stream"):
            await turn.whole()
            return
        for _ in range(turn.limit - turn.begun):
            await turn.say(1)
            await asyncio.sleep(0.01)
        await turn.end()

    one.play = two.play = pace
    flex = [asyncio.create_task(gateway.ask(service_tier="flex", max_tokens=60)) for _ in range(2)]
    flex_streams = [Listener(gateway, "/chat/completions", chat(service_tier="flex", max_tokens=60)) for _ in range(2)]
    await eventually(lambda: sum(turn.at >= 3 for turn in one.turns + two.turns) == 4)
    better = [
        asyncio.create_task(gateway.ask(service_tier=tier, max_tokens=3 + number, **more))
        for tier in ("priority", "default")
        for number in range(6)
        for more in ({}, {"n": 2, "seed": 1})
        if number % 2 or not more
    ]
    leaver = Listener(gateway, "/chat/completions", chat(service_tier="priority", max_tokens=100))
    await eventually(lambda: len(leaver.chunks) > 5)
    leaver.task.cancel()
    answered = await asyncio.gather(*better, *flex)
    assert [answer.status_code for answer in answered] == [200] * len(answered), [answer.text for answer in answered]
    answers = [answer.json() for answer in answered]
    await asyncio.gather(*(stream.task for stream in flex_streams))
    told = [(answer["service_tier"], answer["usage"]) for answer in answers]
    told += [("flex", stream.chunks[-1]["usage"]) for stream in flex_streams]
    expected = sum(
        cost(
            tier,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        )
        for tier, usage in told
    )
    rows = await gateway.recorded(len(told) + 1)
    assert len(rows) == len(told) + 1 and sum(row["pauses"] for row in rows) > 0
    (cut,) = [row for row in rows if row["outcome"] == "cancelled"]
    assert cut["output"] >= len(leaver.chunks) and cut["cost_pico"] == cost(
        "priority", cut["input"] + cut["cache_read"], cut["output"], cut["cache_read"]
    )
    assert await bill(gateway) == expected + cut["cost_pico"]
    report = (await gateway.admin.get("/usage", params={"by": "model"})).json()["data"]
    assert {row["served_tier"] for row in report} == set(FACTORS) and {row["model"] for row in report} == {MODEL}
    assert sum(row["output"] for row in report) == sum(usage["completion_tokens"] for _, usage in told) + cut["output"]
    assert sum(row["requests"] for row in report) == len(rows)
    flex_texts = [answer["choices"][0]["message"]["content"] for answer in answers[-2:]]
    assert {*flex_texts, *(stream.text for stream in flex_streams)} == {story(60)}
    await gateway.idle()


async def test_r5_a_request_keeps_the_prices_of_its_admission(upstream, gateway):
    """They change while it runs; the next request pays the new ones."""
    end = asyncio.Event()

    async def wait(turn):
        await turn.say(4)
        await end.wait()
        await turn.end()

    upstream.play = wait
    task = asyncio.create_task(gateway.ask(stream=True))
    await upstream.next()
    made = await gateway.admin.put(f"/prices/{MODEL}", json={"input": "1", "output": "2"})
    assert made.raise_for_status().json()["version"] == 2
    end.set()
    await task
    upstream.play = tell
    await gateway.ask(service_tier="priority")
    old, new = gateway.rows()
    assert (old["book_version"], old["cost_pico"]) == (1, cost("default", PROMPT_TOKENS, 4))
    assert (new["book_version"], new["cost_pico"]) == (2, (PROMPT_TOKENS * 1_000_000 + 4 * 2_000_000) * 175 // 100)
