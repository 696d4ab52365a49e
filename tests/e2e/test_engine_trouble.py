"""R46: engines that are dead, die, hang or lie: a clear error or a silent failover, and nothing is billed twice."""

import asyncio
import socket
from functools import partial

import pytest

from fareclass.engine.openai_http import HttpEngine, Timeouts
from tests.e2e.callers import COUNT, RULES, Listener, whole
from tests.e2e.gateway import MODEL, behind, chat, cost, local
from tests.e2e.upstream import PROMPT_TOKENS, Upstream, serving, story, tell
from tests.engine.conftest import eventually

FIXED = {"seed": 1}
"""A request that can't be continued (R11)."""


def content(answer):
    """The text of a streamed answer that was read whole."""
    return "".join(part.split('"')[0] for part in answer.text.split('"content":"')[1:])


def error(answer):
    """The error object, which is all that a refusal holds."""
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "code", "param"}
    return body["error"]


async def test_an_engine_that_is_dead_at_start_is_told_and_comes_back(launch):
    """R14: 503 with the honest time to come back; the gateway starts, and serves once the engine does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gateway = await launch(behind(f"http://127.0.0.1:{port}/v1"))
    answer = await gateway.ask()
    assert (answer.status_code, error(answer)["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1 and int(answer.headers["retry-after-ms"]) >= 1000
    ready = await gateway.http.get(f"{gateway.url}/readyz")
    assert ready.status_code == 503 and MODEL in ready.json()["reason"]
    assert (await gateway.http.get(f"{gateway.url}/healthz")).status_code == 200
    async with serving(Upstream(), port):

        async def served() -> bool:
            return (await gateway.ask()).status_code == 200

        await eventually(served)
        assert (await gateway.http.get(f"{gateway.url}/readyz")).status_code == 200
    rows = gateway.rows()
    assert {row["cost_pico"] for row in rows if row["outcome"] == "shed"} == {0}
    assert len([row for row in rows if row["outcome"] == "completed"]) == 1


async def refuse_500(turn):
    await turn.answer({"error": {"message": "out of memory"}}, 500)


async def refuse_429(turn):
    await turn.answer({"error": {"message": "busy"}}, 429)


async def die_at_once(turn):
    await turn.die()


async def die_after_headers(turn):
    await turn.begin()
    await turn.die()


async def lie(turn):
    await turn.begin()
    await turn.write(b"data: {this is no JSON}\n\n")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("trouble", [refuse_500, refuse_429, die_at_once, die_after_headers, lie])
async def test_r46_as_long_as_no_byte_was_sent_the_other_replica_answers(pair, launch, trouble, stream):
    """The caller sees nothing of it, and pays once."""
    first, second = pair
    gateway = await launch(behind(first.url, second.url))

    async def once(turn):
        first.play = second.play = tell
        await trouble(turn)

    first.play = second.play = once
    answer = await gateway.ask(stream=stream, **FIXED if stream else {})
    assert answer.status_code == 200, answer.text
    text = content(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == story(4)
    assert len(first.turns + second.turns) == 2
    (row,) = gateway.rows()
    assert (row["outcome"], row["output"], row["cost_pico"]) == ("completed", 4, cost("default", PROMPT_TOKENS, 4))
    await gateway.idle()


@pytest.mark.parametrize("trouble", [refuse_500, die_after_headers])
async def test_r46_a_replica_that_fails_everybody_costs_nobody_an_answer(pair, launch, trouble):
    """The retry goes to another replica, not to the one that has just failed, though that is the emptiest."""
    broken, sound = pair
    gateway = await launch(behind(broken.url, sound.url))
    broken.play = trouble
    for _ in range(6):
        answer = await gateway.ask(**FIXED)
        assert answer.status_code == 200, answer.text
    assert len(sound.turns) == 6
    assert {row["outcome"] for row in gateway.rows()} == {"completed"}


async def test_r46_a_retry_that_waits_for_another_replica_goes_back_when_that_goes_away(pair, launch):
    """R12: rather the replica that failed it once than none."""
    gateway = await launch(behind(*(one.url for one in pair), slots=1))
    release = asyncio.Event()

    async def speak(turn):
        await turn.say(1)
        await release.wait()
        await turn.say(turn.limit - turn.at)
        await turn.end()

    for one in pair:
        one.play = speak
    first = asyncio.create_task(gateway.ask(stream=True, **FIXED))
    await eventually(lambda: pair[0].turns or pair[1].turns)
    taken = 0 if pair[0].turns else 1
    free = pair[1 - taken]

    async def fail_once(turn):
        free.play = tell
        await refuse_500(turn)

    free.play = fail_once
    second = asyncio.create_task(gateway.ask(service_tier="flex", stream=True, **FIXED))
    await eventually(lambda: free.turns)
    await gateway.becomes("running", 1)
    await gateway.admin.patch(f"/pools/{MODEL}/replicas/replica-{taken}", json={"drain": True})
    assert content(await asyncio.wait_for(second, 5)) == story(4)
    release.set()
    assert content(await first) == story(4)


async def test_one_callers_poison_is_his_own_trouble(upstream, gateway):
    """Engines answer 500 to requests that they choke on. Whoever sends such ones in a row must not take the model
    away from everybody else: its health page is fine, and it serves others well."""

    async def choke(turn):
        await (refuse_500 if "poison" in turn.body.get("user", "") else tell)(turn)

    upstream.play = choke
    villain = gateway.caller((await gateway.new_key(project="villain"))["secret"])
    for _ in range(4):
        poisoned = await villain.post("/chat/completions", json=chat(user="poison"))
        assert poisoned.status_code == 502
        assert (await gateway.ask()).status_code == 200
    for _ in range(8):
        await villain.post("/chat/completions", json=chat(user="poison"))
    assert (await gateway.ask()).status_code == 200


async def test_what_the_real_engine_chokes_on_is_the_callers_400_and_others_are_served(real):
    """llama.cpp answers 500 to tools, parts and media that it can't read, and 501 to embeddings."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    choking = (
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, None),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]},
            "messages[0].content[1]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
    )
    for fields, param in choking:
        answer = await real.ask(**fields)
        assert (answer.status_code, error(answer)["param"]) == (400, param), answer.text
        assert error(answer)["message"] and (await real.ask()).status_code == 200, fields
    answer = await real.http.post("/embeddings", json={"model": MODEL, "input": "x"})
    assert answer.status_code == 400 and error(answer)["code"] != "overloaded"
    assert (await real.ask()).status_code == 200


async def test_r46_an_engine_that_fails_everybody_is_a_502_and_not_billed(upstream, gateway):
    upstream.play = refuse_500
    answer = await gateway.ask()
    assert (answer.status_code, error(answer)["code"]) == (502, "upstream_error")
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("upstream_failed", 0)
    await gateway.idle()
    upstream.play = tell

    async def served() -> bool:
        return (await gateway.ask()).status_code == 200

    await eventually(served)


async def test_r46_a_stream_that_can_not_be_continued_ends_with_an_error_event(upstream, gateway):
    """No [DONE], which would say that it is whole; what was sent is billed, once."""

    async def break_off(turn):
        await turn.say(3)
        await turn.die()

    upstream.play = break_off
    answer = await gateway.ask(stream=True, max_tokens=50, **FIXED)
    assert content(answer) == story(3)
    last = answer.text.strip().split("\n\n")[-1]
    assert last.startswith('data: {"error":') and '"code":"upstream_error"' in last and "[DONE]" not in answer.text
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["output"], row["estimated"]) == ("upstream_failed", 3, 1)
    assert row["cost_pico"] == cost("default", row["input"], 3)
    await gateway.idle()


@pytest.mark.parametrize("stream", [True, False])
async def test_r46_an_answer_goes_on_where_its_replica_died(pair, launch, stream):
    """R11: one text, one id, the usage of one unbroken call."""
    first, second = pair
    gateway = await launch(behind(first.url, second.url))

    async def break_off(turn):
        first.play = second.play = tell
        await turn.say(3)
        await turn.die()

    first.play = second.play = break_off
    answer = await gateway.ask(stream=stream, max_tokens=9, stream_options={"include_usage": True} if stream else None)
    broken, continued = sorted(first.turns + second.turns, key=lambda turn: turn.begun)
    assert (continued.begun, continued.body["max_tokens"]) == (3, 6)
    if stream:
        assert content(answer) == story(9) and answer.text.endswith("data: [DONE]\n\n")
        assert answer.text.count(f'"id":"chatcmpl-{id(broken)}"') == 11
        assert f'"prompt_tokens":{PROMPT_TOKENS},"completion_tokens":9' in answer.text
    else:
        body = answer.json()
        assert (body["choices"][0]["message"]["content"], body["id"]) == (story(9), f"chatcmpl-{id(broken)}")
        assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (PROMPT_TOKENS, 9)
    (row,) = await gateway.recorded(1)
    assert row["cost_pico"] == cost("default", PROMPT_TOKENS, 9) and row["outcome"] == "completed"


async def test_r35_the_prompt_is_the_first_calls_though_a_later_one_tells_its_own(pair, launch):
    """R11: a continuation's prompt holds the answer's beginning, which is output already."""
    gateway = await launch(behind(*(one.url for one in pair)))
    deaths = [lambda turn: turn.say(3), lambda turn: turn.say_counted(2)]

    async def break_off(turn):
        await deaths.pop(0)(turn)
        if not deaths:
            pair[0].play = pair[1].play = tell
        await turn.die()

    pair[0].play = pair[1].play = break_off
    answer = await gateway.ask(max_tokens=9)
    assert answer.json()["choices"][0]["message"]["content"] == story(9)
    (row,) = await gateway.recorded(1)
    assert (row["input"], row["output"], row["estimated"]) == (PROMPT_TOKENS, 9, 0)


async def test_r46_a_drained_replica_hands_its_stream_over(pair, launch):
    """Drain by the operator: what can be continued goes on elsewhere at once, and nothing new starts there."""
    first, second = pair
    gateway = await launch(behind(first.url, second.url))

    async def speak_slowly(turn):
        for _ in range(turn.limit - turn.begun):
            await turn.say(1)
            await asyncio.sleep(0.02)
        await turn.end()

    first.play = second.play = speak_slowly
    task = asyncio.create_task(gateway.ask(stream=True, max_tokens=40))
    await eventually(lambda: any(turn.at > 3 for turn in first.turns + second.turns))
    home = 0 if first.turns else 1
    changed = await gateway.admin.patch(f"/pools/{MODEL}/replicas/replica-{home}", json={"drain": True})
    assert changed.json()["drain"] is True
    assert content(await task) == story(40)
    assert pair[home].turns[0].gone.is_set() or pair[home].turns[0].at < 40
    assert len(pair[1 - home].turns) == 1
    for _ in range(3):
        assert (await gateway.ask()).status_code == 200
    assert len(pair[home].turns) == 1
    assert gateway.rows()[0]["cost_pico"] == cost("default", PROMPT_TOKENS, 40)


@pytest.mark.parametrize("said", [0, 3], ids=["before the first token", "in mid-stream"])
async def test_r46_an_engine_that_hangs_has_stalled(pair, launch, monkeypatch, said):
    """Its work goes on elsewhere, and it is told."""
    monkeypatch.setattr("fareclass.app_engines.HttpEngine", partial(HttpEngine, timeouts=Timeouts(stall_s=0.5)))
    gateway = await launch(behind(*(one.url for one in pair)))

    async def freeze(turn):
        for one in pair:
            one.play = tell
        await turn.begin()
        await turn.say(said)
        await turn.hang()

    for one in pair:
        one.play = freeze
    answer = await gateway.ask(stream=True, max_tokens=6)
    assert content(answer) == story(6)
    frozen = next(turn for one in pair for turn in one.turns if turn.at == said)
    await asyncio.wait_for(frozen.gone.wait(), 2)
    (row,) = gateway.rows()
    assert row["cost_pico"] == cost("default", PROMPT_TOKENS, 6)


async def test_r46_a_replica_found_down_loses_what_has_gone_silent(pair, launch):
    """Long before its stream would count as stalled: its health page says that it is sick."""
    gateway = await launch(behind(*(one.url for one in pair)))

    async def freeze(turn):
        for one in pair:
            one.play = tell
            one.healthy = turn not in one.turns
        await turn.say(2)
        await turn.hang()

    for one in pair:
        one.play = freeze
    answer = await gateway.ask(stream=True, max_tokens=6)
    assert content(answer) == story(6)
    ups = [replica["up"] for replica in (await gateway.pool())["replicas"]]
    assert sorted(ups) == [False, True]


async def test_a_refusal_of_the_engine_is_the_callers_to_see(upstream, gateway):
    """R6: 400 with the engine's own words; no other replica is tried, nothing is billed."""

    async def too_long(turn):
        message = "the request exceeds the available context size"
        await turn.answer({"error": {"message": message, "code": "exceed_context", "type": "x"}}, 400)

    upstream.play = too_long
    answer = await gateway.ask(stream=True)
    assert answer.status_code == 400
    assert error(answer)["message"] == "prompt is too long: the request exceeds the available context size"
    assert error(answer)["code"] == "context_length_exceeded"
    assert len(upstream.turns) == 1
    (row,) = await gateway.recorded(1)
    assert (row["outcome"], row["cost_pico"]) == ("invalid", 0)


async def test_the_real_engine_killed_in_mid_stream_comes_back_and_goes_on(start):
    """R46 on llama.cpp: SIGKILL for its process; one stream waits for the new process and comes whole, the other,
    which can't be continued, ends with an error event. Then everything is as before."""
    process = await start(local(slots=2))
    gateway = process.gateway()
    asked = {**COUNT, "messages": [RULES, *COUNT["messages"]], "max_tokens": 40}
    unbroken = await whole(gateway, "/chat/completions", asked)
    goes_on = Listener(gateway, "/chat/completions", asked)
    breaks = Listener(gateway, "/chat/completions", {**asked, **FIXED})
    await eventually(lambda: len(goes_on.chunks) > 5 and len(breaks.chunks) > 5, 30)
    (engine,) = process.engines()
    engine.kill()
    await asyncio.gather(goes_on.task, breaks.task)
    assert breaks.error is not None and breaks.error["code"] == "upstream_error" and not breaks.done
    assert goes_on.done and goes_on.text == unbroken["choices"][0]["message"]["content"]
    assert len({chunk["id"] for chunk in goes_on.chunks}) == 1
    prompt = unbroken["usage"]["prompt_tokens"]
    details = {"cached_tokens": prompt - 1, "cache_write_tokens": 0}
    assert goes_on.chunks[-1]["usage"] == {**unbroken["usage"], "prompt_tokens_details": details}
    rows = await gateway.recorded(3)
    assert [row["outcome"] for row in rows] == ["completed", "completed", "upstream_failed"]
    assert rows[0]["cost_pico"] == cost("default", prompt, 40)
    assert rows[1]["cost_pico"] == cost("default", prompt, 40, cached=prompt - 1), "read once, before the engine died"
    assert rows[2]["cost_pico"] == cost(
        "default", rows[2]["input"] + rows[2]["cache_read"], rows[2]["output"], rows[2]["cache_read"]
    )
    assert 5 <= rows[2]["output"] < 40
    (again,) = process.engines()
    assert again.pid != engine.pid
    assert await whole(gateway, "/chat/completions", {**COUNT, "max_tokens": 4})
    await gateway.idle()
    await gateway.close()
