"""What users of other gateways suffer from cached tokens, each as a test that it can't happen here (R24, R25, R28 to R32).

Where the engine is simulated it has a prefix cache and tells what it reused; the other is a vLLM that caches and tells
nothing, unless the test has it tell. The built-in engine's own cache is tested in `test_caching`.
"""

import asyncio

import pytest

from tests.e2e.gateway import INPUT_PICO, MODEL, OUTPUT_PICO, behind, chat, cost, simulated
from tests.e2e.test_reservations import CAPACITY
from tests.e2e.upstream import PROMPT_TOKENS, QUESTION, VLLM, tell

LONG = " ".join(f"fact{number * 7919 % 1000:03}" for number in range(500))
"""500 tokens, which every question stands behind."""
POINT = {"cache_control": {"type": "ephemeral"}}
KINDS = ("input", "cache_write_5m", "cache_write_1h", "cache_read")


def facts(question, **point):
    """Messages: the long beginning, and a question of its own."""
    system = {"role": "system", "content": [{"type": "text", "text": LONG, **point}]}
    return [system, {"role": "user", "content": question}]


def caching(**model):
    settings = simulated(slots=4, base_us=1_000, sequence_us=0)
    settings["models"][MODEL] |= {"cache": {"min_tokens": 50}, "capacity": CAPACITY, **model}
    return settings


async def warm(gateway):
    """The beginning is in the cache from here on; how many tokens it has."""
    answer = await gateway.ask(messages=facts("Zero?", **POINT))
    return answer.json()["usage"]["prompt_tokens_details"]["cache_write_tokens"]


@pytest.fixture
async def vllm(upstream, launch):
    upstream.pages = VLLM
    settings = behind(upstream.url)
    settings["models"][MODEL]["cache"] = {"min_tokens": 5}
    made = await launch(settings)
    made.upstream = upstream
    return made


async def test_pain_cached_tokens_eat_the_limit(launch):
    """BerriAI/litellm#18728: tokens that came out of a cache counted against the TPM limit.

    R25: twenty prompts, together many times the limit, pass it, since but for the first they were read from the cache.
    """
    gateway = await launch(caching())
    written = await warm(gateway)
    await gateway.limit(tpm=2 * written)
    for number in range(20):
        assert (await gateway.ask(messages=facts(f"{number}?", **POINT))).status_code == 200
    rows = await gateway.recorded(21)
    assert sum(row["cache_read"] for row in rows) > 9 * 2 * written
    fresh = [{"role": "user", "content": f"{word} {LONG} {LONG}"} for word in ("No", "Never")]
    codes = [(await gateway.ask(messages=[message])).status_code for message in fresh]
    assert 429 in codes, "what no cache has counts"


async def inside(gateway, weight):
    """Of twelve prompts whose long beginning is cached, how many fit into a floor of two such beginnings a minute."""
    written = await warm(gateway)
    body = {"project": "default", "model": MODEL, "input_tpm": 2 * written, "output_tpm": 100, "overflow": "flex"}
    (await gateway.admin.post("/reservations", json=body)).raise_for_status()
    asked = [gateway.ask(messages=facts(f"{weight} {number}?"), service_tier="reserved") for number in range(12)]
    served = [(await each).headers["x-fareclass-served-tier"] for each in asked]
    assert served == sorted(served, reverse=True), "once it is used up it stays so"
    return served.count("reserved")


async def test_pain_no_weight_of_a_tenth_for_cached_tokens(launch):
    """librefang/librefang#4943: wanted is "a 0.1x weight"; etalab-ia/OpenGateLLM#998: the same for limits.

    R24: against a floor a cached token counts a tenth, unless set otherwise: twelve times the prompt fits where two of
    it would.
    """
    assert await inside(await launch(caching()), "tenth") == 12


@pytest.mark.parametrize(("weight", "fit"), [("1", {1, 2}), ("0.5", {3, 4}), ("0", {12})])
async def test_pain_the_weight_of_cached_tokens_is_not_the_operators_to_choose(launch, weight, fit):
    """api7/aisix#733: wanted is the opposite, cached tokens counted in full: the weight must be policy, not code.

    R24: it is the model's `burndown.cache_read`.
    """
    assert await inside(await launch(caching(burndown={"cache_read": weight})), weight) in fit


async def test_pain_usage_lacks_cached_tokens_so_nobody_is_billed_for_less(vllm):
    """gpustack/gpustack#5189: vLLM had 98 % cached, its `usage` said nothing of it, so all was billed in full.

    R30, R32: where an engine says nothing, what the project's own index knows of that replica counts: told and billed.
    """
    first, second = [(await vllm.ask()).json()["usage"] for _ in range(2)]
    assert "prompt_tokens_details" not in first, "nothing was cached, and the engine's own body is passed on as it is"
    assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] == PROMPT_TOKENS
    costs = [row["cost_pico"] for row in await vllm.recorded(2)]
    assert costs == [cost("default", PROMPT_TOKENS, 4), cost("default", PROMPT_TOKENS, 4, cached=PROMPT_TOKENS)]


@pytest.mark.parametrize("point", [POINT, {"prompt_cache_breakpoint": {"mode": "explicit"}}])
async def test_pain_no_breakpoints_nor_writes_and_reads_on_engines_of_ones_own(vllm, point):
    """vllm-project/vllm#44775: wanted are explicit breakpoints, with what was written and read, on a self-hosted vLLM.

    R28, R30: a point is billed as written once and as read after that, and the engine never sees it.
    """
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You know these things well.", **point}]},
        {"role": "user", "content": QUESTION},
    ]
    told = [(await vllm.ask(messages=messages)).json()["usage"]["prompt_tokens_details"] for _ in range(2)]
    assert told[0]["cached_tokens"] == 0 < told[0]["cache_write_tokens"]
    assert told[1]["cached_tokens"] >= told[0]["cache_write_tokens"] and told[1]["cache_write_tokens"] == 0
    bare = [{"role": "system", "content": [{"type": "text", "text": "You know these things well."}]}, messages[1]]
    assert [turn.body["messages"] for turn in vllm.upstream.turns] == [bare] * 2
    assert len({turn.body["cache_salt"] for turn in vllm.upstream.turns}) == 1


async def test_pain_custom_prices_ignore_cache_rates(launch):
    """BerriAI/litellm#28009: with prices of one's own the cache's rates were ignored: 67 % overcharged.

    R32, R33: a price named for reads and writes is what is billed, exactly, from the file and from the control plane.
    """
    price = {"input": "3", "output": "15", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6"}
    gateway = await launch(caching(price=price))
    await warm(gateway)
    await gateway.ask(messages=facts("One?", **POINT))
    (await gateway.admin.put(f"/prices/{MODEL}", json={**price, "cache_read": "0.9"})).raise_for_status()
    await gateway.ask(messages=facts("Two?", **POINT))
    rows = await gateway.recorded(3)
    assert rows[0]["cache_write_5m"] > 400 and rows[1]["cache_read"] > 400 < rows[2]["cache_read"]
    for row, read_pico in zip(rows, (300_000, 300_000, 900_000), strict=True):
        pico = (3_000_000, 3_750_000, 6_000_000, read_pico)
        assert (
            row["cost_pico"] == sum(row[k] * p for k, p in zip(KINDS, pico, strict=True)) + row["output"] * 15 * 10**6
        )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("told", [0, 8, PROMPT_TOKENS, 5_000])
async def test_pain_cached_tokens_are_billed_twice(vllm, told, stream):
    """Aider-AI/aider#5516, Osmantic/ODS#2519 (2.64 times), adolfousier/opencrabs#1636, github/gh-aw-firewall#4760.

    R30: kinds never overlap. They add up to the engine's `prompt_tokens`, which includes what was cached, whatever it
    claims; nothing that was read is input as well.
    """
    await vllm.ask()

    async def tells(turn):
        turn.cached = told
        await tell(turn)

    vllm.upstream.play = tells
    assert (await vllm.ask(stream=stream)).status_code == 200
    row = (await vllm.recorded(2))[1]
    read = row["cache_read"]
    assert read == (min(told, PROMPT_TOKENS) if told else PROMPT_TOKENS), "0 from who has never told any is no word"
    assert sum(row[kind] for kind in KINDS) == PROMPT_TOKENS
    assert row["cost_pico"] == cost("default", PROMPT_TOKENS, 4, cached=read)


async def test_pain_a_caller_pays_less_by_naming_what_he_never_sent(vllm):
    """The same bills from the other side: what is in nobody's cache is not cheaper because it is marked (R29, R31)."""
    strange = vllm.caller((await vllm.new_key(project="stranger"))["secret"])

    async def boasts(turn):
        turn.cached = PROMPT_TOKENS
        await tell(turn)

    vllm.upstream.play = boasts
    await asyncio.gather(vllm.ask(), strange.post("/chat/completions", json=chat()))
    rows = await vllm.recorded(2)
    assert [row["cost_pico"] for row in rows] == [PROMPT_TOKENS * INPUT_PICO + 4 * OUTPUT_PICO] * 2
