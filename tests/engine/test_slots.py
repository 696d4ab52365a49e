"""Slots of the built-in engine for real: own prompts are found, strangers' never, paused answers keep theirs (R11, R31)."""

import aiohttp
import pytest

from fareclass.core.prefix import Block
from fareclass.engine.answer import read_answer
from fareclass.engine.base import Isolation, Prompt
from fareclass.engine.local import LocalEngine
from fareclass.engine.model_file import fetch_default_model
from fareclass.policy.caching import read_links
from tests.engine.conftest import collect

SLOTS = 1


@pytest.fixture
async def engine():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        local = LocalEngine(session, fetch_default_model(), model_name="m", slots=SLOTS, context_tokens=512)
        await local.start()
        await local.probe()
        yield local
        await local.close()


def text(seed: int, words: int = 20) -> str:
    return f"List {seed}: " + " ".join(f"w{number * seed % 1000}" for number in range(words))


def chat(*texts: str, id: str, salt: str, **fields) -> Prompt:
    messages = [{"role": "assistant" if n % 2 else "user", "content": words} for n, words in enumerate(texts)]
    body = {"messages": messages, "temperature": 0, "max_tokens": fields.pop("tokens", 2)}
    links = read_links(b"key", [Block(words.encode(), len(words)) for words in texts])
    prefix = None if links is None else links.prefix(b"key", salt.encode())
    return Prompt(path="/chat/completions", body=body, stream=True, rank=2, id=id, salt=salt, prefix=prefix, **fields)


async def say(engine: LocalEngine, prompt: Prompt):
    call = await engine.open(prompt)
    await collect(call)
    return call.usage


async def cut(engine: LocalEngine, prompt: Prompt) -> tuple[str, int]:
    """Its answer so far, paused after some tokens."""
    call = await engine.open(prompt)
    blocks = [await anext(call) for _ in range(4)]
    made = call.made_tokens
    await call.close()
    return read_answer(blocks).text.rstrip(), made


async def test_r31_a_project_finds_its_own_prompt_and_no_other_does(engine):
    assert engine.traits.isolation is Isolation.SLOTS and engine.traits.caches
    asked = text(7919)
    assert (await say(engine, chat(asked, id="a", salt="one"))).cache_read == 0
    assert (await say(engine, chat(asked, id="b", salt="two"))).cache_read == 0
    again = await say(engine, chat(asked, "Yes.", text(11, 3), id="c", salt="one"))
    assert again.cache_read > again.prompt - 45
    for number in range(SLOTS + 3):
        stranger = await say(engine, chat(asked, "Yes.", id=f"s{number}", salt=f"stranger {number}"))
        assert stranger.cache_read == 0


async def test_r11_more_paused_answers_than_slots_all_go_on_from_where_they_were(engine):
    asked = [chat(text(4001 + n), id=f"answer {n}", salt=f"project {n % 2}", tokens=40) for n in range(SLOTS + 5)]
    begun = [await cut(engine, prompt) for prompt in asked]
    for n, (beginning, made) in enumerate(begun):
        goes_on = chat(
            text(4001 + n),
            id=f"answer {n}",
            salt=f"project {n % 2}",
            tokens=made + 2,
            beginning=beginning,
            made_tokens=made,
        )
        usage = await say(engine, goes_on)
        assert usage.input <= 8, f"answer {n} was computed again: {usage}"


async def test_r31_what_a_call_of_several_sequences_left_is_nobodys(engine):
    """llama.cpp itself places it, so nothing is known of any slot after it."""
    asked = text(31)
    await say(engine, chat(asked, id="a", salt="one"))
    body = {**chat(asked, id="n", salt="two").body, "n": 2}
    call = await engine.open(Prompt(path="/chat/completions", body=body, stream=False, rank=2, id="n", salt="two"))
    await call.body()
    await call.close()
    for number in range(SLOTS + 2):
        assert (await say(engine, chat(asked, id=f"s{number}", salt=f"stranger {number}"))).cache_read == 0


async def test_the_files_of_paused_answers_are_gone_with_the_engine(engine):
    """They hold what callers wrote: their folder is the owner's alone."""
    folder = engine._folder
    for n in range(SLOTS + 4):
        await cut(engine, chat(text(6007 + n), id=f"answer {n}", salt="one", tokens=40))
    assert any(folder.iterdir()) and folder.stat().st_mode & 0o077 == 0
    await engine.close()
    assert not folder.exists()
