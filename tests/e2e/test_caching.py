"""Prompt caching for real: the built-in engine behind a gateway, and callers with the OpenAI SDK (R28-R32)."""

import os
import sqlite3
from pathlib import Path

import pytest

from fareclass.core.prefix import Block
from fareclass.core.tokens import key_id
from fareclass.policy.caching import read_links
from tests.e2e.gateway import FACTORS, INPUT_PICO, MODEL, OUTPUT_PICO, Gateway, local, simulated

LONG = "You know these things: " + " ".join(f"fact {number * 7919 % 1000}" for number in range(60))
POINT = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture
async def cached(real):
    """The session's gateway, seen by a project of its own."""
    key = await real.new_key(project=f"caching {os.urandom(4).hex()}")
    gateway = Gateway(real.url, key["secret"], real.folder)
    yield gateway
    await gateway.close()


async def ask(gateway: Gateway, question: str, system: str, **fields):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": system, **POINT}]},
        {"role": "user", "content": question},
    ]
    sdk = gateway.sdk()
    return await sdk.chat.completions.create(model=MODEL, messages=messages, max_tokens=4, temperature=0, **fields)


@pytest.mark.parametrize("tier", ["priority", "default", "flex"])
async def test_r32_a_write_and_then_a_read_are_billed_at_the_tiers_own_rates(cached, tier):
    """Exact on each tier, streamed or not: 1.25 and 0.1 of the tier's own input price."""
    system = f"For {tier}. {LONG}"
    first = await ask(cached, "One?", system, service_tier=tier)
    second = await ask(cached, "Two?", system, service_tier=tier)
    stream = await ask(cached, "Three?", system, service_tier=tier, stream=True, stream_options={"include_usage": True})
    third = [chunk async for chunk in stream][-1]
    written = first.usage.prompt_tokens_details.cache_write_tokens
    assert written > 150 and first.usage.prompt_tokens_details.cached_tokens == 0
    for usage in (second.usage, third.usage):
        details = usage.prompt_tokens_details
        assert details.cache_write_tokens <= 2 and abs(details.cached_tokens - written) <= 2
        assert usage.prompt_tokens < details.cached_tokens + details.cache_write_tokens + 40
    rows = [row for row in cached.rows() if row["key"] == key_id(cached.key.encode())]
    for row, usage in zip(rows, (first.usage, second.usage, third.usage), strict=True):
        kinds = (row["input"], row["cache_write_5m"], row["cache_read"])
        assert sum(kinds) == usage.prompt_tokens
        assert kinds[1:] == (usage.prompt_tokens_details.cache_write_tokens, usage.prompt_tokens_details.cached_tokens)
        pico = (kinds[0] * 100 + kinds[1] * 125 + kinds[2] * 10) * INPUT_PICO // 100 + row["output"] * OUTPUT_PICO
        assert row["cost_pico"] == round(pico * FACTORS[tier])
        assert row["prefix"].count(":") == 2


async def test_r31_a_strangers_identical_prompt_finds_nothing_and_leaves_the_owners_alone(cached):
    stranger = await cached.new_key(project="stranger")
    await ask(cached, "One?", LONG)
    other = Gateway(cached.url, stranger["secret"], cached.folder)
    foreign = await ask(other, "One?", LONG)
    assert foreign.usage.prompt_tokens_details.cached_tokens == 0
    assert foreign.usage.prompt_tokens_details.cache_write_tokens > 150
    assert (await ask(cached, "One?", LONG)).usage.prompt_tokens_details.cached_tokens > 150
    pool = await cached.pool()
    assert pool["replicas"][0]["cache_isolation"] == "slots"
    await other.close()


async def test_r29_entries_outlive_a_restart_and_nobody_can_compute_their_names(start):
    """R51: a digest in the database says nothing without the master key."""
    system = f"{LONG} {LONG}"
    made = simulated(slots=2)
    made["models"][MODEL] |= {"cache": {"min_tokens": 50}}
    process = await start(made)
    gateway = process.gateway()
    await ask(gateway, "One?", system)
    await gateway.close()
    process.send(15)
    assert await process.wait() == 0
    with sqlite3.connect(gateway.folder / "db" / "fareclass.db") as connection:
        rows = connection.execute("SELECT digest, project, tokens, ttl_s FROM cache_entries").fetchall()
    ((digest, project, tokens, ttl_s),) = rows
    assert tokens > 150 and ttl_s == 300
    block = Block(b'{"role":"system"}' + f'{{"type":"text","text":"{system}"}}'.encode(), 1)
    for key in (b"", project.encode()):
        links = read_links(key, [block])
        assert links is not None and digest not in {links.digests[0].hex(), links.prefix(key, b"").digests[0].hex()}
    again = (await start()).gateway()
    answer = await ask(again, "One?", system)
    details = answer.usage.prompt_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens > 150) == (0, True), "the engine had to begin anew"
    await again.close()


async def test_r28_five_points_are_refused_by_their_path(cached):
    part = {"type": "text", "text": "x", **POINT}
    answer = await cached.http.post(
        "/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": [part] * 5}]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[4].cache_control"


async def test_r15_who_hangs_up_leaves_nothing_that_the_next_ones_would_wait_for(launch):
    """A paused answer is put into a file when another call needs its slot; one that ended is not."""
    kept = {folder: len(list(folder.iterdir())) for folder in slot_folders()}
    gateway = await launch(local(slots=2))
    [folder] = slot_folders() - set(kept)
    for number in range(6):
        asked = {"model": MODEL, "messages": [{"role": "user", "content": f"Count to {number}0."}], "stream": True}
        async with gateway.http.stream("POST", "/chat/completions", json=asked) as response:
            await anext(response.aiter_lines())
        await gateway.idle()
        assert not list(folder.iterdir())
    assert (await gateway.ask(model=MODEL, max_tokens=2)).status_code == 200


def slot_folders():
    return set(Path("/dev/shm").glob(f"fareclass-slots-{os.getpid()}-*"))
