"""What users of other gateways suffer from reserved capacity, each as a test that it can't happen here (R18 to R23).

How near a floor comes to what was promised, and how fast it is back, is measured: `make bench`, table `floors`.
"""

import asyncio

import pytest

from tests.e2e.callers import Listener
from tests.e2e.gateway import MODEL, chat, cost
from tests.e2e.test_engine_trouble import error
from tests.e2e.test_reservations import CAPACITY, INSIDE, reserve, sellable, tiers
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, story, tell, tell_in_two
from tests.engine.conftest import eventually

STREAM = {"messages": [{"role": "user", "content": QUESTION}], "model": MODEL, "max_tokens": 12}


@pytest.fixture
async def gateway(upstream, launch):
    return await launch(sellable(upstream.url))


@pytest.fixture
async def movable(pair, launch):
    """A gateway before an engine that can continue answers, so that all of its slots may be lent out."""
    made = await launch(sellable(pair[0].url))
    made.upstream = pair[0]
    return made


async def stranger(gateway, **fields):
    """A caller of another project, which has no reservation."""
    return gateway.caller((await gateway.new_key(project="stranger", **fields))["secret"])


async def filled(gateway, tier, go_on):
    """Streams of another project in every slot: each says two of its twelve words, and the rest once it may go on."""
    begin = tell_in_two(2, go_on)

    async def play(turn):
        if turn.begun:
            await go_on.wait()
        await (begin if not turn.begun and turn.limit == 12 else tell)(turn)

    gateway.upstream.play = play
    key = (await gateway.new_key(project="stranger"))["secret"]
    other = type(gateway)(gateway.url, key, gateway.folder)
    streams = [Listener(other, "/chat/completions", {**STREAM, "service_tier": tier}) for _ in range(4)]
    await gateway.speaks(tier, 4)
    return other, streams


async def test_pain_teams_blow_past_the_models_capacity(gateway, upstream):
    """BerriAI/litellm#35422: teams with reserved quota were served 213 % of the model's capacity, without one 429.

    R19, R22: 64 callers of each of two owners at once get what their floors hold and no answer more, the engine never
    has more than its slots, and what the pool can't do is not sold.
    """
    other = gateway.caller((await gateway.new_key(project="other"))["secret"])
    for project in ("default", "other"):
        await reserve(gateway, project=project, overflow="reject")
    asked = chat(service_tier="reserved")
    for mine in (gateway.http, other):
        answers = await asyncio.gather(*(mine.post("/chat/completions", json=asked) for _ in range(64)))
        assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 62
    assert len(upstream.turns) == 4 and upstream.most <= 4
    body = {"project": "default", "model": MODEL, **CAPACITY}
    refused = await gateway.admin.post("/reservations", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "insufficient_capacity")
    assert 0 < refused.json()["error"]["available"]["output_tpm"] < CAPACITY["output_tpm"]


async def test_pain_a_lone_team_never_reaches_all_of_the_capacity(movable):
    """BerriAI/litellm-docs#735: a team that was alone stayed below 100 % because others had reserved.

    R10, R12: whoever asks gets every slot, as long as nobody who has reserved wants one.
    """
    await reserve(movable, input_tpm=7_000, output_tpm=700)
    go_on = asyncio.Event()
    other, streams = await filled(movable, "flex", go_on)
    assert await movable.count("running") == 4 == (await movable.pool())["slots"]
    go_on.set()
    await asyncio.gather(*(stream.task for stream in streams))
    await other.close()


async def test_pain_capacity_that_was_lent_out_is_not_taken_back(movable):
    """BerriAI/litellm-docs#735: "borrowed capacity is not clawed back within a window".

    R22, R11: the owner's answers are whole before one word more of the borrowers' is, of whom none loses anything.
    """
    await reserve(movable, input_tpm=7_000, output_tpm=700)
    go_on = asyncio.Event()
    other, streams = await filled(movable, "priority", go_on)
    for _ in range(3):
        assert tiers(await movable.ask(service_tier="reserved")) == INSIDE
    assert [stream.text for stream in streams] == [story(2)] * 4
    go_on.set()
    await asyncio.gather(*(stream.task for stream in streams))
    assert [stream.text for stream in streams] == [story(12)] * 4
    await other.close()


async def test_pain_nobody_knows_how_reservations_combine(upstream, launch):
    """BerriAI/litellm#32223: how do weights, the pool for the others and reservations for each model combine?

    R18, R3: those of a project on a model add up; no weight, nor anybody without one, is in that sum; another model's
    is its own; and the pool and the calendar show just that.
    """
    settings = sellable(upstream.url)
    settings["models"]["second"] = settings["models"][MODEL]
    gateway = await launch(settings)
    await stranger(gateway)
    (await gateway.admin.patch("/projects/stranger", json={"weight": 50})).raise_for_status()
    for model, output_tpm in ((MODEL, 8), (MODEL, 4), ("second", 100)):
        await reserve(gateway, model=model, output_tpm=output_tpm)

    async def shown():
        pools = (await gateway.admin.get("/pools")).json()["data"]
        return {pool["model"]: [(each["input_tpm"], each["output_tpm"]) for each in pool["floors"]] for pool in pools}

    await gateway.ask(service_tier="reserved")

    async def in_force():
        return await shown() == {MODEL: [(2_000, 12)], "second": [(1_000, 100)]}

    await eventually(in_force)
    served = [tiers(await gateway.ask(service_tier="reserved"))[1] for _ in range(3)]
    assert served == ["reserved", "default", "default"], "what was bought second fills within a minute"
    assert tiers(await gateway.ask(model="second", service_tier="reserved")) == INSIDE
    [sold] = (await gateway.admin.get("/capacity", params={"model": MODEL})).json()["data"]
    assert (sold["now"]["sold_input_tpm"], sold["now"]["sold_output_tpm"]) == (2_000, 12)


async def test_pain_a_team_without_settings_is_silently_capped(movable):
    """BerriAI/litellm#18953, #17664: who had no reservation got 25 % of the TPM, and nothing said so.

    R25: without a quota there is no limit, whatever others have reserved: all slots, no refusal, no limit header.
    """
    await reserve(movable, input_tpm=7_000, output_tpm=700)
    other = await stranger(movable)
    assert (await other.post("/chat/completions", json=chat())).status_code == 200, "it shows how long one takes (R14)"

    async def together(turn):
        await eventually(lambda: movable.upstream.most == 4)
        await tell(turn)

    movable.upstream.play = together
    answers = await asyncio.gather(*(other.post("/chat/completions", json=chat()) for _ in range(64)))
    assert {answer.status_code for answer in answers} == {200}
    assert not [name for answer in answers for name in answer.headers if "ratelimit" in name]


async def test_pain_a_limit_counts_twice_and_halves_the_rate(gateway):
    """BerriAI/litellm#34140: a team's limit for a model was counted twice, so it got half of its rate.

    R25, R20: a project's two keys together get all of the requests, of the tokens and of the floor, and no more.
    """
    second = gateway.caller((await gateway.new_key())["secret"])

    async def served(count, **fields):
        callers = (gateway.http, second)
        return [
            (await callers[number % 2].post("/chat/completions", json=chat(**fields))).status_code
            for number in range(count)
        ]

    await gateway.limit(rpm=6)
    assert await served(12) == [200] * 6 + [429] * 6
    await gateway.limit(tpm=20 * (PROMPT_TOKENS + 4))
    tokens = await served(24)
    assert tokens[:19] == [200] * 19 and 429 in tokens, "the last needs room for what its prompt may be"
    await gateway.limit()
    await reserve(gateway, overflow="reject", output_tpm=24)
    assert await served(8, service_tier="reserved") == [200] * 6 + [429] * 2


async def test_pain_every_mechanism_is_a_ceiling_and_none_is_a_floor(movable):
    """SocialGouv/iterion#950: "Every budget mechanism here is a ceiling. None is a floor."

    R22: all slots and a line behind them are a stranger's, the owner's own quota is used up; its floor is there.
    """
    await reserve(movable)
    await movable.limit(rpm=0)
    go_on = asyncio.Event()
    other, streams = await filled(movable, "priority", go_on)
    waiting = [asyncio.create_task(other.ask(service_tier="priority")) for _ in range(8)]
    await movable.becomes("waiting", 8)
    assert (await movable.ask()).status_code == 429
    assert tiers(await movable.ask(service_tier="reserved")) == INSIDE
    assert not any(task.done() for task in waiting)
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 8
    await asyncio.gather(*(stream.task for stream in streams))
    await other.close()


async def test_pain_no_failover_from_provisioned_to_on_demand(gateway):
    """envoyproxy/ai-gateway#1571: wanted is a token quota that goes over to on-demand when it is used up.

    R21: six requests at once, no refusal: two inside the floor at no cost, four at the list price, and each says which.
    """
    await reserve(gateway, overflow="default")
    answers = await asyncio.gather(*(gateway.ask(service_tier="reserved") for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    beyond = ("reserved", "default", "reservation_exhausted", "default")
    assert sorted(map(tiers, answers), key=str) == sorted([INSIDE] * 2 + [beyond] * 4, key=str)
    costs = sorted(row["cost_pico"] for row in await gateway.recorded(6))
    assert costs == [0] * 2 + [cost("default", PROMPT_TOKENS, 4)] * 4


async def test_pain_a_quota_refuses_where_another_has_room(upstream, launch):
    """envoyproxy/ai-gateway#2460: 429 although the other model has quota; buckets per tenant counted, never enforced.

    R25: a project's quota on a model binds that project on that model, each by itself, and is enforced.
    """
    settings = sellable(upstream.url)
    settings["models"]["second"] = settings["models"][MODEL]
    gateway = await launch(settings)
    other = await stranger(gateway)
    for project, model, rpm in (("default", MODEL, 1), ("default", "second", 2), ("stranger", MODEL, 3)):
        (await gateway.admin.put(f"/quotas/{project}/{model}", json={"rpm": rpm})).raise_for_status()
    for caller, model, served in ((gateway.http, MODEL, 1), (gateway.http, "second", 2), (other, MODEL, 3)):
        codes = [
            (await caller.post("/chat/completions", json=chat(model=model))).status_code for _ in range(served + 2)
        ]
        assert codes == [200] * served + [429] * 2
    assert (await other.post("/chat/completions", json=chat(model="second"))).status_code == 200


async def test_pain_low_priority_can_not_be_kept_to_a_part_of_the_limit(upstream, launch):
    """BerriAI/litellm#1452: "give low priority 50k of 500k TPM, leave the rest for priority 1".

    R25: `priority_share: 0.9` does that; default and flex stop at 50,000, priority goes on until 500,000.
    """
    settings = sellable(upstream.url, slots=64)
    settings["models"][MODEL]["max_tokens_default"] = 24_000
    gateway = await launch(settings)
    await gateway.limit(tpm=500_000, priority_share=0.9)
    upstream.play = lambda turn: turn.hang()
    low, high = {"max_tokens": 24_000}, {"max_tokens": 24_000, "n": 8, "service_tier": "priority"}
    tasks = [asyncio.create_task(gateway.ask(**low, service_tier=tier)) for tier in ("default", "flex")]
    await gateway.becomes("running", 2)
    for tier in ("default", "flex"):
        assert "50000 tokens" in error(await gateway.ask(**low, service_tier=tier))["message"]
    tasks += [asyncio.create_task(gateway.ask(**high)) for _ in range(2)]
    await gateway.becomes("running", 2 + 2 * 8)
    assert "500000 tokens" in error(await gateway.ask(**high))["message"]
    for task in tasks:
        task.cancel()


async def test_pain_a_floor_is_charged_for_what_it_never_gave(gateway, upstream):
    """wso2/api-platform#2932 and BerriAI/litellm#29193 on floors: charged by the request, or by what was announced.

    R20: an answer that announced fifty tokens and made one is charged one, at its end; so the next fits, at no cost.
    """
    await reserve(gateway, output_tpm=8, overflow="reject")

    async def brief(turn):
        await turn.say(1)
        await turn.end("stop")

    upstream.play = brief
    answers = [await gateway.ask(service_tier="reserved", max_tokens=50, stream=True) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    rows = await gateway.recorded(6)
    assert [(row["output"], row["cost_pico"]) for row in rows] == [(1, 0)] * 6
