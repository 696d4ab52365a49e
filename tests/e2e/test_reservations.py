"""Reservations as callers meet them: inside the floor, beyond it, outside its hours, and after a crash (R2 to R5, R18 to R22)."""

import asyncio
import json
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest

from fareclass.engine.openai_http import HttpEngine
from tests.e2e.gateway import MODEL, behind, chat, cost
from tests.e2e.test_engine_trouble import error
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, story, tell_in_two
from tests.engine.conftest import eventually

CAPACITY = {"input_tpm": 60_000, "output_tpm": 6_000}


def sellable(url, **more):
    """A gateway whose pool can be reserved."""
    settings = behind(url, **more)
    settings["models"][MODEL] |= {"capacity": CAPACITY, "reserved_price": {"input": "0.021", "output": "0.084"}}
    return settings


@pytest.fixture
async def gateway(upstream, launch):
    return await launch(sellable(upstream.url))


async def reserve(gateway, **fields):
    """Two answers of four tokens fit into its minute; the next has to wait for half of one."""
    body = {"project": "default", "model": MODEL, "input_tpm": 1_000, "output_tpm": 8, **fields}
    made = await gateway.admin.post("/reservations", json=body)
    assert made.status_code == 201, made.text
    return made.json()


def tiers(answer):
    """Requested, served, why it spilled, and the tier in the body."""
    headers = answer.headers
    return (
        headers.get("x-fareclass-requested-tier"),
        headers.get("x-fareclass-served-tier"),
        headers.get("x-fareclass-spilled"),
        answer.json().get("service_tier"),
    )


INSIDE = ("reserved", "reserved", None, "reserved")


@pytest.mark.parametrize("overflow", ["default", "priority", "flex"])
async def test_r21_what_the_floor_has_no_room_for_is_served_priced_and_labelled_as_the_overflow(gateway, overflow):
    await reserve(gateway, overflow=overflow)
    inside = [await gateway.ask(service_tier="reserved") for _ in range(2)]
    assert [tiers(answer) for answer in inside] == [INSIDE] * 2
    beyond = await gateway.ask(service_tier="reserved")
    assert tiers(beyond) == ("reserved", overflow, "reservation_exhausted", overflow)
    rows = await gateway.recorded(3)
    assert [(row["requested_tier"], row["served_tier"], row["spilled"], row["cost_pico"]) for row in rows] == [
        ("reserved", "reserved", "", 0),
        ("reserved", "reserved", "", 0),
        ("reserved", overflow, "reservation_exhausted", cost(overflow, PROMPT_TOKENS, 4)),
    ]


async def test_r21_a_reservation_without_overflow_rejects_and_says_when_to_come_back(gateway):
    await reserve(gateway, overflow="reject")
    for _ in range(2):
        assert tiers(await gateway.ask(service_tier="reserved")) == INSIDE
    refused = await gateway.ask(service_tier="reserved")
    assert refused.status_code == 429, refused.text
    assert 1_000 < int(refused.headers["retry-after-ms"]) <= 30_000
    row = (await gateway.recorded(3))[-1]
    assert (row["outcome"], row["cost_pico"]) == ("throttled", 0)
    assert row["output"] == 4, "demand that is counted, at no cost (R35)"


async def test_r18_a_change_is_in_force_when_it_is_answered(gateway):
    async def floors():
        (pool,) = (await gateway.admin.get("/pools")).json()["data"]
        return [(floor["input_tpm"], floor["output_tpm"]) for floor in pool["floors"]]

    for output_tpm in range(8, 11):
        one = await reserve(gateway, output_tpm=output_tpm)
        assert await floors() == [(1_000, output_tpm)]
        at = f"/reservations/{one['id']}"
        assert (await gateway.admin.patch(at, json={"output_tpm": 100})).status_code == 200
        assert await floors() == [(1_000, 100)]
        assert (await gateway.admin.delete(at)).status_code == 200
        assert await floors() == []


async def test_r4_openai_calls_it_scale_unless_the_caller_did_not(gateway):
    await reserve(gateway)
    answer = await gateway.ask(service_tier="scale")
    assert tiers(answer) == ("reserved", "reserved", None, "scale")


async def test_r4_a_stream_tells_where_it_is_served(gateway):
    await reserve(gateway)
    client = gateway.sdk()
    for tier in ("scale", "scale", "default"):
        stream = await client.chat.completions.create(**chat(stream=True, service_tier="scale"))
        seen = [event async for event in stream]
        assert {event.service_tier for event in seen} == {tier}
        assert "".join(event.choices[0].delta.content or "" for event in seen if event.choices) == story(4)


async def test_r2_auto_takes_the_floor_while_there_is_room_and_then_the_keys_own_tier(gateway):
    await reserve(gateway, overflow="priority")
    answers = [await gateway.ask(service_tier="auto") for _ in range(3)]
    assert [tiers(answer) for answer in answers] == [
        ("reserved", "reserved", None, "scale"),
        ("reserved", "reserved", None, "scale"),
        ("default", "default", None, "default"),
    ]
    assert tiers(await gateway.ask()) == ("default", "default", None, "default")


async def test_r3_reserved_without_a_reservation_is_a_mistake(gateway):
    answer = await gateway.ask(service_tier="reserved")
    assert answer.status_code == 400
    assert "Reservation not found." in error(answer)["message"]
    scheduled = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    await reserve(gateway, starts_at=scheduled)
    stranger = gateway.caller((await gateway.new_key(project="stranger"))["secret"])
    assert (await stranger.post("/chat/completions", json=chat(service_tier="reserved"))).status_code == 400


async def test_r3_outside_its_hours_and_for_a_day_after_its_end_it_counts_as_used_up(gateway):
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%a").lower()
    hours = {"tz": "UTC", "weekly": [{"days": [yesterday], "from": "00:00", "to": "24:00"}]}
    made = await reserve(gateway, hours=hours, overflow="flex")
    assert tiers(await gateway.ask(service_tier="reserved")) == ("reserved", "flex", "reservation_exhausted", "flex")
    assert tiers(await gateway.ask(service_tier="auto"))[:3] == ("default", "default", None)
    (await gateway.admin.delete(f"/reservations/{made['id']}")).raise_for_status()
    assert tiers(await gateway.ask(service_tier="reserved")) == ("reserved", "flex", "reservation_exhausted", "flex")


async def test_r3_several_add_up(gateway):
    """From their start on; one that comes to another fills the floor's minute bit by bit."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    ids = [(await reserve(gateway, starts_at=soon.isoformat()))["id"] for _ in range(2)]

    async def active():
        return [(await gateway.admin.get(f"/reservations/{one}")).json()["in_force"] for one in ids] == [True, True]

    assert not await active()
    await eventually(active)
    served = [(await gateway.ask(service_tier="reserved")).headers["x-fareclass-served-tier"] for _ in range(5)]
    assert served == ["reserved"] * 4 + ["default"]


async def test_r3_the_key_must_allow_reserved_but_not_its_overflow(gateway):
    await reserve(gateway, overflow="priority")
    only = gateway.caller((await gateway.new_key(allowed_tiers=["reserved"], default_tier="reserved"))["secret"])
    served = [(await only.post("/chat/completions", json=chat())).headers["x-fareclass-served-tier"] for _ in range(3)]
    assert served == ["reserved", "reserved", "priority"]
    never = gateway.caller((await gateway.new_key(allowed_tiers=["default"]))["secret"])
    assert (await never.post("/chat/completions", json=chat(service_tier="reserved"))).status_code == 403
    assert tiers(await never.post("/chat/completions", json=chat(service_tier="auto")))[1] == "default"


async def test_r25_inside_the_floor_the_quota_is_not_touched_and_beyond_it_it_holds(gateway):
    await reserve(gateway)
    await gateway.limit(rpm=1)
    answers = [await gateway.ask(service_tier="reserved") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert tiers(answers[2])[1] == "default"


async def test_r22_others_fill_every_slot_and_the_floor_is_there_at_once(gateway, upstream):
    """Four flex streams hold all four slots; they can't be continued here, but nothing of them has been sent yet."""
    await reserve(gateway)
    release = asyncio.Event()

    async def slow(turn):
        if turn.body["messages"][-1]["content"] != QUESTION:
            await release.wait()
        await turn.whole()

    upstream.play = slow
    others = [{"role": "user", "content": f"{QUESTION} Slowly."}]
    tasks = [asyncio.create_task(gateway.ask(service_tier="flex", messages=others)) for _ in range(4)]
    await gateway.becomes("running", 4)
    assert tiers(await gateway.ask(service_tier="reserved")) == INSIDE
    release.set()
    assert [(await task).status_code for task in tasks] == [200] * 4


async def test_r20_a_failure_gives_the_whole_hold_back(gateway, upstream):
    await reserve(gateway)

    async def die(turn):
        await turn.die()

    play, upstream.play = upstream.play, die
    assert (await gateway.ask(service_tier="reserved")).status_code == 502
    upstream.play = play
    for _ in range(2):
        assert tiers(await gateway.ask(service_tier="reserved"))[1] == "reserved"


async def test_r20_what_an_engine_makes_beyond_max_tokens_is_debt(gateway, upstream):
    """LiteLLM#37001: `max_tokens: 1` declared to pay less."""
    await reserve(gateway)

    async def ignore(turn):
        turn.body["max_tokens"] = 20
        await (turn.say(20) if turn.body["stream"] else turn.whole())
        if turn.body["stream"]:
            await turn.end()

    upstream.play = ignore
    assert tiers(await gateway.ask(service_tier="reserved", max_tokens=1))[1] == "reserved"
    assert tiers(await gateway.ask(service_tier="reserved", max_tokens=1))[1] == "default"
    floor = (await gateway.pool())["floors"][0]
    assert floor["output_left"] in (-12, -11)


async def test_r10_the_pool_shows_floors_and_headroom(gateway):
    await reserve(gateway, input_tpm=6_000, output_tpm=600)

    async def kept():
        return (await gateway.pool())["headroom"]["slots"] == 3

    await eventually(kept)  # nobody has asked for the floor yet: the time of day is looked at every second
    await gateway.ask(service_tier="reserved")
    pool = await gateway.pool()
    assert pool["headroom"] == {"slots": 3, "fixed_limit": 1, "fixed_running": 0}
    assert pool["kept_share"] == 1.0
    [floor] = pool["floors"]
    assert (floor["input_tpm"], floor["output_tpm"]) == (6_000, 600)
    assert 595 <= floor["output_left"] <= 600


async def test_r23_floors_shrink_while_a_replica_is_away(upstream, launch, pair):
    settings = sellable(pair[0].url, slots=8)
    settings["models"][MODEL]["replicas"].append({"url": pair[1].url, "slots": 8})
    gateway = await launch(settings)
    await reserve(gateway, input_tpm=12_000, output_tpm=1_200)
    await gateway.ask(service_tier="reserved")
    assert (await gateway.pool())["kept_share"] == 1.0
    replica = f"/pools/{MODEL}/replicas/replica-1"
    (await gateway.admin.patch(replica, json={"drain": True})).raise_for_status()
    assert 0.4 < (await gateway.pool())["kept_share"] < 0.5
    (await gateway.admin.patch(replica, json={"drain": False})).raise_for_status()
    assert (await gateway.pool())["kept_share"] == 1.0


async def test_r27_limit_headers_show_what_is_left_of_the_floor(gateway):
    """Input and output together, as OpenAI's headers have one number for tokens."""
    await reserve(gateway, input_tpm=6_000, output_tpm=600)
    headers = (await gateway.ask(service_tier="reserved")).headers
    assert headers["x-ratelimit-limit-tokens"] == "6600"
    assert 6_500 < int(headers["x-ratelimit-remaining-tokens"]) < 6_600
    assert headers["x-ratelimit-reset-tokens"].endswith("ms")
    assert "x-ratelimit-limit-requests" not in headers


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_r20_a_restart_gives_no_minute_away(upstream, start, end):
    """What was used of the floor stays used, whether the gateway was stopped or killed."""
    process = await start(sellable(upstream.url))
    gateway = process.gateway()
    await reserve(gateway)
    for _ in range(2):
        assert tiers(await gateway.ask(service_tier="reserved"))[1] == "reserved"
    await gateway.recorded(2)
    process.send(end)
    await process.wait()
    await gateway.close()
    again = (await start()).gateway()
    assert tiers(await again.ask(service_tier="reserved"))[1] == "default"
    await again.close()


async def test_r18_a_slow_upload_meets_the_floors_of_the_moment_at_which_it_is_whole(gateway):
    """Its headers came before the reservation was there."""
    body, sent, go_on = json.dumps(chat(service_tier="reserved")).encode(), asyncio.Event(), asyncio.Event()

    async def slowly():
        yield body[:10]
        sent.set()
        await go_on.wait()
        yield body[10:]

    headers = {"content-type": "application/json"}
    task = asyncio.create_task(gateway.http.post("/chat/completions", content=slowly(), headers=headers))
    await sent.wait()
    await gateway.pool()
    await reserve(gateway)
    go_on.set()
    assert tiers(await task) == INSIDE


async def test_r20_a_request_ends_when_its_holds_are_settled(gateway, upstream, monkeypatch):
    """Counting may take its time: a checkpoint meanwhile has the use, so the entry must not look later than that."""
    counting, go_on = asyncio.Event(), asyncio.Event()

    async def count(_engine, _text):
        counting.set()
        await go_on.wait()

    monkeypatch.setattr(HttpEngine, "count_tokens", count)
    upstream.play = tell_in_two(1, asyncio.Event())
    await reserve(gateway)
    task = asyncio.create_task(gateway.ask(stream=True, service_tier="reserved"))
    await gateway.speaks("reserved")
    task.cancel()
    await counting.wait()
    settled_us = time.time_ns() // 1000
    go_on.set()
    [row] = await gateway.recorded(1)
    assert row["outcome"] == "cancelled" and row["ended_us"] <= settled_us


@pytest.mark.parametrize(
    "broken",
    [
        "not json",
        '{"floors": {"p": [1]}, "quotas": {}}',
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("{}", "[]", "null", "123")),
    ],
)
async def test_a_checkpoint_that_is_damaged_stops_no_start_and_gives_no_minute_away(upstream, start, broken):
    """R20: it is left out, and the ledger's last minutes are charged instead."""
    process = await start(sellable(upstream.url))
    gateway = process.gateway()
    await reserve(gateway)
    for _ in range(2):
        assert tiers(await gateway.ask(service_tier="reserved"))[1] == "reserved"
    await gateway.recorded(2)
    process.send(signal.SIGTERM)
    await process.wait()
    await gateway.close()
    with sqlite3.connect(process.folder / "db" / "fareclass.db") as database:
        assert database.execute("UPDATE checkpoints SET state = ?", (broken,)).rowcount
    again = (await start()).gateway()
    assert tiers(await again.ask(service_tier="reserved"))[1] == "default"
    await again.close()
