"""What users of other gateways suffer from limits and budgets, each as a test that it can't happen here (R25 to R27)."""

import asyncio
import re
import signal

import httpx
import pytest

from tests.e2e.gateway import INPUT_PICO, MODEL, OUTPUT_PICO, behind, chat, cost
from tests.e2e.test_engine_trouble import error
from tests.e2e.upstream import PROMPT_TOKENS, tell, tell_one
from tests.engine.conftest import eventually

DURATION = re.compile(r"(\d+h)?(\d+m)?\d+(\.\d+)?(s|ms)")


def usd(pico):
    return f"{pico / 10**12:.12f}"


def tokens(output, prompt=PROMPT_TOKENS):
    return prompt * INPUT_PICO + output * OUTPUT_PICO


async def give(gateway, pico, whose="default", per="day"):
    answer = await gateway.admin.put(f"/budgets/{whose}", json={"usd": usd(pico), "per": per})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def budget(gateway):
    [found] = (await gateway.admin.get("/budgets")).json()["data"]
    return {name: round(float(found[name]) * 10**12) for name in ("usd", "spent", "held", "left")}


def exceeded(answer):
    """429 that says why, and does not send a client round for a day."""
    assert (answer.status_code, error(answer)["code"]) == (429, "budget_exceeded"), answer.text
    return error(answer)["message"]


async def endless(turn):
    """An engine that goes on for as long as anybody listens, whatever `max_tokens` says."""
    for _ in range(100_000):
        await turn.write_out(" w")
        await asyncio.sleep(0)


@pytest.fixture
async def gateway(upstream, launch):
    made = await launch(behind(upstream.url, slots=64))
    made.upstream = upstream
    return made


async def test_pain_five_concurrent_calls_on_a_small_limit(gateway):
    """BerriAI/litellm#18730 (663 tokens used on a limit of 100), envoyproxy/ai-gateway#680 (the same race, by design).

    R25: holds come before the calls, so one of five gets through.
    """
    await gateway.limit(tpm=100)
    answers = await asyncio.gather(*(gateway.ask(max_tokens=120) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429, 429]


async def test_pain_the_first_request_without_max_tokens_is_refused(gateway):
    """BerriAI/litellm#29193, #28805: an estimate larger than a small limit was refused.

    R25, R26: nothing is known yet of what it makes, and a small limit is no reason to refuse it.
    """
    await gateway.limit(tpm=20)
    assert (await gateway.ask(max_tokens=None)).status_code == 200
    await gateway.limit()
    await give(gateway, tokens(300, prompt=40))
    assert (await gateway.ask(max_tokens=None)).status_code == 200


async def test_pain_declaring_max_tokens_1_gets_round_a_token_limit(gateway):
    """BerriAI/litellm#37001. R25: an engine that ignores it leaves debt, which the project waits for."""
    await gateway.limit(tpm=200)

    async def ignores(turn):
        await turn.write_out(*[" more"] * 600)
        turn.at = 600
        await turn.end()

    gateway.upstream.play = ignores
    assert (await gateway.ask(max_tokens=1, stream=True)).status_code == 200
    gateway.upstream.play = tell
    refused = await gateway.ask(max_tokens=1)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 60, "more than a minute of debt"


async def test_pain_declaring_max_tokens_1_gets_round_a_budget(gateway):
    """BerriAI/litellm#37001. R26: what is made beyond the hold is paid for too; the answer ends where the money does."""
    await give(gateway, tokens(100))
    gateway.upstream.play = endless
    answer = await gateway.ask(max_tokens=1, stream=True)
    assert answer.text.count('"content":" w"') < 256 and '"finish_reason":"length"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    exceeded(await gateway.ask(max_tokens=256))


async def test_pain_five_concurrent_calls_on_a_small_budget(gateway):
    """BerriAI/litellm#40002 (4 of 5 admitted, 0.60 USD spent of 0.45), #34732, #40095: concurrent calls got round it.

    R26: what is held for one is not there for the next.
    """
    await give(gateway, 5 * tokens(100) // 2)
    answers = await asyncio.gather(*(gateway.ask(max_tokens=100) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "under way" in exceeded(refused) and refused.headers["retry-after"] == "1"
    stands = await budget(gateway)
    assert (
        stands["spent"] == 2 * tokens(100) and stands["held"] == 0 and stands["left"] == stands["usd"] - stands["spent"]
    )


@pytest.mark.parametrize("fields", [{"max_tokens": None}, {"max_tokens": 100_000}, {"max_tokens": 1}])
async def test_pain_64_concurrent_streams_overspend_a_budget(gateway, fields):
    """BerriAI/litellm#26672: 99 USD spent on a budget of 30.

    R26: overshoot stays below 64 × 256 tokens, and books equal the ledger.
    """
    await give(gateway, tokens(64 * 300, prompt=64 * PROMPT_TOKENS))
    gateway.upstream.play = endless
    answers = await asyncio.gather(*(gateway.ask(stream=True, **fields) for _ in range(64)))
    served = [answer for answer in answers if answer.status_code == 200]
    assert served and all('"finish_reason":"length"' in answer.text for answer in served)
    for answer in answers:
        if answer.status_code == 429:
            exceeded(answer)
    stands = await budget(gateway)
    rows = await gateway.recorded(64)
    assert stands["spent"] == sum(row["cost_pico"] for row in rows) and stands["held"] == 0
    assert stands["usd"] // 2 < stands["spent"] < stands["usd"] + 64 * 256 * OUTPUT_PICO
    assert sum(row["output"] for row in rows if row["first_token_us"]) == sum(
        answer.text.count('"content":" w"') for answer in served
    ), "what was sent is billed, no more and no less (R6)"


async def test_pain_a_token_limit_counts_requests(gateway):
    """wso2/api-platform#2932: a token limit was charged 1 for each request: overshot 150 times, silently.

    R25: what an answer used is what it is charged: six of 111 tokens leave no room for a seventh in 700.
    """
    await gateway.limit(tpm=700)
    codes = [(await gateway.ask(max_tokens=100)).status_code for _ in range(12)]
    used = codes.count(200) * (PROMPT_TOKENS + 100)
    assert codes[:6] == [200] * 6 and codes[7:] == [429] * 5, "the time that this takes is worth one more at most"
    assert (
        sum(row["input"] + row["output"] for row in await gateway.recorded(12) if row["outcome"] == "completed") == used
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_pain_a_token_limit_is_set_and_never_enforced(gateway, stream):
    """headroomlabs-ai/headroom#3347: `--tpm` was accepted, shown, and never enforced.

    R25: it binds from the next request on, on every address, whatever the tier, and names itself.
    """
    assert (await gateway.ask(stream=stream)).status_code == 200
    await gateway.limit(tpm=1)
    assert (await gateway.ask(stream=stream)).status_code == 200, (
        "more than it can ever hold: admitted while it is full"
    )
    for path, asked in (
        ("/chat/completions", chat(stream=stream)),
        ("/completions", {"model": MODEL, "prompt": "Tell me", "max_tokens": 1, "stream": stream}),
        ("/embeddings", {"model": MODEL, "input": "Tell me"}),
    ):
        for tier in ("priority", "default", "flex"):
            refused = await gateway.http.post(path, json={**asked, "service_tier": tier})
            assert refused.status_code == 429 and "1 tokens per minute" in error(refused)["message"], refused.text


async def test_pain_every_team_is_held_at_the_same_estimate(gateway):
    """BerriAI/litellm#36143: one output estimate for all, too much for those with short answers.

    R25: each project's own mean is held: after a short answer one has room for ten calls at once, another for one.
    """
    other = gateway.caller((await gateway.new_key(project="other"))["secret"])
    for project in ("default", "other"):
        await gateway.limit(project, tpm=700)
    go_on = asyncio.Event()

    async def brief(turn):
        await go_on.wait()
        await tell_one(turn)

    async def served(caller):
        asked = [caller.post("/chat/completions", json=chat(max_tokens=512)) for _ in range(10)]
        return [answer.status_code for answer in await asyncio.gather(*asked)].count(200)

    gateway.upstream.play = tell_one
    assert (await gateway.ask(max_tokens=512)).status_code == 200
    gateway.upstream.play = brief
    mine, others = asyncio.create_task(served(gateway.http)), asyncio.create_task(served(other))
    await gateway.becomes("running", 11)
    go_on.set()
    assert (await mine, await others) == (10, 1)


async def test_pain_a_named_end_user_escapes_the_budget(gateway):
    """BerriAI/litellm#11083: a user named by the caller was never stopped.

    R26: a budget is the project's or the key's; no field or header of the caller's moves a request to another.
    """
    await give(gateway, tokens(4, prompt=25))
    assert (await gateway.ask()).status_code == 200
    named = {"x-litellm-end-user-id": "other", "openai-organization": "other", "openai-project": "other"}
    exceeded(await gateway.http.post("/chat/completions", json=chat(user="other"), headers=named))


async def test_r26_an_answer_that_is_not_streamed_ends_with_length_too(launch, pair):
    """It runs streamed upstream, and is put together from what was paid for."""
    upstream, _ = pair
    gateway = await launch(behind(upstream.url))
    await give(gateway, tokens(300, prompt=40))
    upstream.play = endless
    answer = (await gateway.ask(max_tokens=None)).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length" and choice["message"]["content"].count("w") < 2 * 256
    assert answer["usage"]["completion_tokens"] == choice["message"]["content"].count("w")


async def test_r26_each_of_several_sequences_that_had_not_ended_ends_with_length(gateway):
    await give(gateway, tokens(600, prompt=80))

    async def one_ends(turn):
        await turn.event({"index": 0, "delta": {"content": " only"}, "finish_reason": None})
        await turn.event({"index": 0, "delta": {}, "finish_reason": "stop"})
        for _ in range(100_000):
            await turn.event({"index": 1, "delta": {"content": " w"}, "finish_reason": None})

    gateway.upstream.play = one_ends
    text = (await gateway.ask(n=2, max_tokens=None, stream=True)).text
    assert text.count('"finish_reason":"stop"') == 1 and text.count('"finish_reason":"length"') == 1
    assert re.search(r'"index":1,"delta":\{\},"finish_reason":"length"', text)


async def test_r26_plain_completions_end_with_length_in_their_own_form(gateway):
    await give(gateway, tokens(300, prompt=40))

    async def text_events(turn):
        for _ in range(100_000):
            await turn.write(b'data: {"id":"c","object":"text_completion","created":1,"model":"%s",'
                             b'"choices":[{"index":0,"text":" w","finish_reason":null}]}\n\n' % MODEL.encode())  # fmt: skip

    gateway.upstream.play = text_events
    asked = {"model": MODEL, "prompt": "Tell me a story.", "stream": True}
    text = (await gateway.http.post("/completions", json=asked)).text
    last = text.split("\n\n")[-3]
    assert '"text":""' in last and '"finish_reason":"length"' in last and '"id":"c"' in last


async def test_r26_a_call_that_can_t_be_topped_up_is_sent_with_what_was_held(gateway):
    """Log probabilities keep it from being streamed upstream: the engine itself stops at what is paid for."""
    await give(gateway, tokens(300, prompt=40))
    answer = await gateway.ask(max_tokens=5_000, logprobs=True)
    assert answer.status_code == 200
    assert gateway.upstream.turns[-1].body["max_tokens"] == 256
    assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_r26_what_a_budget_cut_is_not_what_answers_are_expected_to_be(gateway):
    """Cut streams and answers that were sent with a limit teach nothing: the next is still sent with all of 256."""
    gateway.upstream.play = lambda turn: turn.say_counted(200)
    await give(gateway, tokens(100))
    assert '"finish_reason":"length"' in (await gateway.ask(max_tokens=1, stream=True)).text
    gateway.upstream.play = tell
    for _ in range(2):
        spent = (await budget(gateway))["spent"]
        await give(gateway, spent + tokens(300, prompt=40))
        assert (await gateway.ask(max_tokens=5_000, logprobs=True)).status_code == 200
        assert gateway.upstream.turns[-1].body["max_tokens"] == 256


async def test_r26_an_answer_that_ends_by_itself_at_its_limit_keeps_its_own_reason(gateway):
    """The hold was exactly what `max_tokens` may cost: nothing is cut, and nothing is said twice."""
    await give(gateway, tokens(20, prompt=40))

    async def stops(turn):
        await turn.say(20)
        await turn.end("stop")

    gateway.upstream.play = stops
    text = (await gateway.ask(max_tokens=20, stream=True)).text
    assert '"finish_reason":"stop"' in text and "length" not in text


async def test_r26_keys_and_projects_have_budgets_of_their_own(gateway):
    """A key's budget binds that key alone, a project's all its keys; both at once bind, and what is lifted is gone."""
    other = gateway.caller((await gateway.new_key())["secret"])
    await give(gateway, tokens(4, prompt=25), "default/first")
    first = await gateway.ask()
    assert first.status_code == 200, first.text
    message = exceeded(await gateway.ask())
    assert "key 'first'" in message and "renews at" in message
    assert (await other.post("/chat/completions", json=chat())).status_code == 200
    await give(gateway, tokens(8), per="month")
    refused = await other.post("/chat/completions", json=chat())
    assert "project 'default'" in exceeded(refused), "what was spent before there was a budget counts"
    assert refused.headers["x-should-retry"] == "false"
    for whose in ("default", "default/first"):
        assert (await gateway.admin.delete(f"/budgets/{whose}")).status_code == 200
    assert (await gateway.ask()).status_code == 200
    assert (await gateway.admin.get("/budgets")).json()["data"] == []


async def test_r26_nothing_is_kept_of_requests_that_failed_or_went_away(gateway):
    await give(gateway, tokens(200, prompt=40))
    spoken = asyncio.Event()

    async def stuck(turn):
        await turn.say(3)
        spoken.set()
        await turn.hang()

    gateway.upstream.play = stuck
    task = asyncio.create_task(gateway.ask(max_tokens=150, stream=True))
    await spoken.wait()
    assert (await budget(gateway))["held"] >= 150 * OUTPUT_PICO
    exceeded(await gateway.ask(max_tokens=150, stream=True))
    task.cancel()

    async def settled():
        stands = await budget(gateway)
        return stands["held"] == 0 < stands["spent"] == sum(row["cost_pico"] for row in gateway.rows())

    await eventually(settled)
    await gateway.limit(rpm=0)
    assert (await gateway.ask(max_tokens=4)).status_code == 429
    assert (await budget(gateway))["held"] == 0, "refused by its quota after the budget had held for it"


async def test_pain_spending_is_forgotten_over_a_restart(database, start, upstream):
    """R26: after a kill the budget stands where the ledger does, to the last 10⁻¹² USD, on both databases."""
    process = await start(behind(upstream.url, **database))
    gateway = process.gateway()
    assert (await gateway.ask()).status_code == 200
    await give(gateway, tokens(100), "default/first")
    await give(gateway, tokens(100), per="month")
    assert [(await gateway.ask(service_tier=tier)).status_code for tier in ("priority", "flex")] == [200, 200]
    process.send(signal.SIGKILL)
    await process.wait()
    again = (await start(None)).gateway()
    spent = sum(cost(tier, PROMPT_TOKENS, 4) for tier in ("default", "priority", "flex"))
    found = (await again.admin.get("/budgets")).json()["data"]
    assert [round(float(each["spent"]) * 10**12) for each in found] == [spent, spent]
    assert (await again.ask(max_tokens=60)).status_code == 200
    exceeded(await again.ask(max_tokens=60))
    assert sum(row["cost_pico"] for row in await again.recorded(5)) == spent + tokens(60)
    for each in (gateway, again):
        await each.close()


async def test_r25_a_priority_share_is_there_for_priority_alone(gateway):
    """Default fills its part; priority still gets its own, until that is gone too."""
    await gateway.limit(tpm=1000, priority_share=0.4)

    async def stuck(turn):
        await turn.say(1)
        await turn.hang()

    gateway.upstream.play = stuck
    tasks = [asyncio.create_task(gateway.ask(max_tokens=500, stream=True))]
    await gateway.becomes("running", 1)
    refused = await gateway.ask(max_tokens=100, stream=True)
    assert refused.status_code == 429 and "600 tokens per minute" in error(refused)["message"]
    assert (await gateway.ask(max_tokens=100, stream=True, service_tier="flex")).status_code == 429
    tasks.append(asyncio.create_task(gateway.ask(max_tokens=300, stream=True, service_tier="priority")))
    await gateway.becomes("running", 2)
    assert "1000 tokens" in error(await gateway.ask(max_tokens=300, service_tier="priority"))["message"]
    for task in tasks:
        task.cancel()


async def test_r27_headers_show_what_is_left_after_this_request_s_hold(gateway):
    """As OpenAI names them, on answers and on refusals, streamed and not, and only where there is a limit."""
    assert not ratelimit(await gateway.ask())
    await gateway.limit(tpm=1000, priority_share=0.5, rpm=2)
    shown = ratelimit(await gateway.ask(max_tokens=100, stream=True))
    assert shown["limit-requests"] == "2" and shown["remaining-requests"] == "1" and shown["limit-tokens"] == "500"
    assert 370 < int(shown["remaining-tokens"]) < 400 and DURATION.fullmatch(shown["reset-tokens"])
    assert shown["reset-requests"] in {"30s", "29.9s"} or shown["reset-requests"].startswith("29.")
    wide = ratelimit(await gateway.ask(service_tier="priority"))
    assert wide["limit-tokens"] == "1000" and int(wide["remaining-tokens"]) > 500
    refused = await gateway.ask()
    assert refused.status_code == 429 and ratelimit(refused)["remaining-requests"] == "0"
    await gateway.limit(rpm=5)
    assert set(ratelimit(await gateway.ask())) == {"limit-requests", "remaining-requests", "reset-requests"}


def ratelimit(answer: httpx.Response) -> dict[str, str]:
    start = "x-ratelimit-"
    return {name.removeprefix(start): value for name, value in answer.headers.items() if name.startswith(start)}
