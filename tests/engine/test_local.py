"""The built-in engine for real: what it says it can do, it does; and nothing of it is ever left behind."""

import asyncio
import os
import signal
import sys

import aiohttp
import msgspec
import psutil
import pytest

from fareclass.engine.answer import read_answer
from fareclass.engine.base import EngineFailed, EngineRefused, Prompt
from fareclass.engine.local import LocalEngine
from fareclass.engine.model_file import fetch_default_model
from tests.engine.conftest import chat, collect, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

CODE = "Write a Python function that adds two numbers, with a docstring."
LONG = "Sort these: " + " ".join(f"w{number * 7919 % 1000}" for number in range(300))


async def idle(local: LocalEngine) -> bool:
    _, slots = await local._http.look("GET", "/slots")
    return not any(slot["is_processing"] for slot in slots)


async def say(local: LocalEngine, prompt: Prompt):
    call = await local.open(prompt)
    answer = read_answer(await collect(call))
    return answer, call.usage


async def test_the_probe_finds_what_llama_can_do(local):
    """R11: continuable, also under a schema and after white space; one token is computed again."""
    traits = local.traits
    assert traits.flavour == "llama.cpp"
    assert traits.continuable and traits.continues_constrained and traits.has_tokenizer
    assert traits.recompute_tokens <= 8
    assert traits.honours_priority is False


async def test_an_answer_cut_anywhere_and_continued_is_the_unbroken_one(local):
    """R11, after every token of a greedy answer in which there are indents, quotes and numbers."""
    call = await local.open(chat(CODE, max_tokens=32))
    blocks, made = [], []
    async for block in call:
        blocks.append(block)
        made.append(call.made_tokens)
    await call.close()
    whole = read_answer(blocks).text
    assert call.made_tokens == call.usage.output == 32
    for cut in range(1, len(blocks) - 2, 4):
        beginning = read_answer(blocks[:cut]).text
        rest, usage = await say(local, chat(CODE, max_tokens=32, beginning=beginning, made=made[cut - 1]))
        assert beginning + rest.text == whole, f"cut after {cut}: {beginning!r}"
        assert made[cut - 1] + usage.output == 32
        assert usage.input <= 8


async def test_white_space_that_would_be_lost_is_made_once_more_and_passed_on_once(local):
    """R46: cut after white space and continued from before it, as where a template strips it; the text is unbroken."""
    call = await local.open(chat(CODE, max_tokens=32))
    blocks = await collect(call)
    whole, cuts = read_answer(blocks).text, 0
    for cut in range(2, len(blocks) - 2):
        text = read_answer(blocks[:cut]).text
        kept = text.rstrip()
        if kept == text:
            continue
        cuts += 1
        call = await local.open(chat(CODE, max_tokens=33 - cut, beginning=kept, said=text[len(kept) :]))
        assert text + read_answer(await collect(call)).text == whole, f"cut after {text!r}"
        assert call.made_tokens == call.usage.output == 33 - cut
    assert cuts > 2


async def test_a_completion_is_continued_too(local):
    """R11 for /completions."""
    body = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
    whole, _ = await say(local, Prompt(path="/completions", body=body, stream=True, rank=2))
    call = await local.open(Prompt(path="/completions", body=body, stream=True, rank=2))
    blocks = [await anext(call) for _ in range(3)]
    made = call.made_tokens
    await call.close()
    beginning = read_answer(blocks).text
    rest, usage = await say(
        local, Prompt(path="/completions", body=body, stream=True, rank=2, beginning=beginning, made_tokens=made)
    )
    assert beginning + rest.text == whole.text
    assert made + usage.output == 16


async def test_a_pause_in_mid_stream_is_continued_with_the_engines_own_count(local):
    """R11: cut while it runs, then continued with what the engine said it had made."""
    whole, _ = await say(local, chat(CODE, max_tokens=40))
    call = await local.open(chat(CODE, max_tokens=40))
    blocks = [await anext(call) for _ in range(9)]
    made = call.made_tokens
    await call.close()
    beginning = read_answer(blocks).text
    rest, usage = await say(local, chat(CODE, max_tokens=40, beginning=beginning, made=made))
    assert beginning + rest.text == whole.text
    assert made + usage.output == 40


async def test_a_caller_who_hangs_up_in_mid_prefill_frees_its_slot(local):
    """R15: the engine is told at once, and notices between two batches of 64."""
    call = await local.open(chat(LONG, max_tokens=4))
    assert not await idle(local)
    await call.close()
    await eventually(lambda: idle(local), 3)


async def test_a_second_project_finds_nothing_of_the_first_ones_prompt(local):
    """R31: the same prompt, asked by others, is computed again each time; asked by its own project it is not."""
    question = "What is the capital of the country whose flag is a maple leaf?"
    for project in ("one", "two", "three"):
        _, usage = await say(local, chat(question, max_tokens=2, salt=project))
        assert usage.cache_read == 0
    call = await local.open(chat(question, stream=False, max_tokens=2, salt="four"))
    await call.body()
    await call.close()
    assert call.usage.cache_read == 0
    _, usage = await say(local, chat(question, max_tokens=2, salt="four"))
    assert usage.input == 1


async def test_nothing_private_of_the_engine_reaches_the_caller(local):
    call = await local.open(chat(CODE, max_tokens=6))
    stream = b"".join(await collect(call))
    assert stream.count(b'"role":"assistant"') == 1
    for private in (b"timings", b"prompt_progress", b"usage", b"[DONE]"):
        assert private not in stream


async def test_a_prompt_too_long_for_the_engine_is_refused_with_its_counts(local):
    with pytest.raises(EngineRefused, match=r"prompt is too long: 30\d\d tokens > 2048 maximum") as refused:
        await local.open(chat("word " * 3000, max_tokens=1))
    assert refused.value.status == 400


async def test_an_image_for_a_model_without_eyes_is_refused_by_its_part(local):
    """Section 11, R46: llama.cpp says 500; it is the request's mistake, and no replica's failure."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    for stream in (True, False):
        with pytest.raises(EngineRefused, match="takes no image input") as refused:
            await local.open(chat(messages=messages, stream=stream))
        assert (refused.value.status, refused.value.error["param"]) == (400, "messages[0].content[1]")


async def test_tokens_are_counted_by_the_engine(local):
    assert await local.count_tokens("Hello there, you.") == 5
    assert await local.count_tokens("") == 0


async def test_nobody_else_on_the_machine_can_use_it(local):
    async with aiohttp.ClientSession() as session:
        response = await session.post(local._http._base_url + "/chat/completions", json={"messages": []})
        assert response.status == 401
    assert not any("api_key" in part or part == local._http._headers["Authorization"].split()[1]
                   for part in psutil.Process(local.pid).cmdline())  # fmt: skip


async def test_an_engine_that_dies_fails_its_calls_and_is_started_again():
    """R46: the stream ends with a failure, and the replica comes back by itself."""
    async with aiohttp.ClientSession() as session:
        engine = LocalEngine(session, fetch_default_model(), model_name="m", slots=1, context_tokens=512)
        await engine.start()
        first = engine.pid
        call = await engine.open(chat("Count to 100.", max_tokens=200))
        await anext(call)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(EngineFailed):
            await collect(call)
        await eventually(engine.healthy, 20)
        assert engine.pid != first
        for project in ("one", "two"):
            _, usage = await say(engine, chat("Name three rivers.", max_tokens=1, salt=project))
            assert usage.cache_read == 0, "R31 holds before it was probed, too"
        second = engine.pid
        await engine.close()
        assert not psutil.pid_exists(second)
        assert not await engine.healthy()
        with pytest.raises(EngineFailed) as failed:
            await engine.open(chat())
        assert failed.value.reason == "unreachable"


async def test_a_file_that_is_no_model_is_told_with_the_engines_last_words(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EngineFailed, match=r"broken\.gguf[\s\S]*failed to load model"):
            await LocalEngine(session, path, model_name="m", slots=1).start()
    assert not [
        c for c in psutil.Process().children() if "local_server" in " ".join(c.cmdline()) and str(path) in c.cmdline()
    ]


PARENT = """
import asyncio, sys, aiohttp
from pathlib import Path
from fareclass.engine.local import LocalEngine
async def main():
    async with aiohttp.ClientSession() as session:
        engine = LocalEngine(session, Path(sys.argv[1]), model_name="m", slots=1, context_tokens=512)
        await engine.start()
        print(engine.pid, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_gateway_that_is_killed_leaves_no_engine_behind(how):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(fetch_default_model()), stdout=asyncio.subprocess.PIPE
    )
    child = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    assert psutil.pid_exists(child)
    parent.send_signal(how)
    await parent.wait()
    await eventually(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked", "prompts"),
    [
        ("/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story."}], "n": 3}, 1),
        ("/completions", {"prompt": ["One, two", "Red, green, blue,", "A"]}, 3),
        ("/completions", {"prompt": ["One, two", "One, two"], "n": 2}, 2),
    ],
)
async def test_r6_every_sequence_of_an_answer_is_counted(local: LocalEngine, path, asked, prompts, stream):
    """The prompt is counted once, however many answers there are to it."""
    alone = {**asked, "n": 1} if prompts == 1 else {"prompt": "One, two"}
    usages = []
    for body in (alone, asked):
        body = {**body, "max_tokens": 7, "logprobs": True if "messages" in body else 1, "seed": 1}
        call = await local.open(Prompt(path=path, body=body, stream=stream, rank=2))
        if stream:
            answer = read_answer([block async for block in call])
            found = [answer.choices[index].logprobs or {} for index in sorted(answer.choices)]
        else:
            told = msgspec.json.decode(await call.body())
            found = [choice["logprobs"] for choice in told["choices"]]
            assert told["usage"]["completion_tokens"] == call.usage.output
            assert told["usage"]["prompt_tokens"] == call.usage.prompt
        await call.close()
        usages.append((call.usage, sum(len(each["content"]) for each in found), len(found)))
    (one, _, _), (usage, made, sequences) = usages
    assert sequences == 3 if "n" in asked and prompts == 1 else sequences > 1
    assert usage.output == made == 7 * sequences
    if prompts == 1:
        assert usage.prompt == one.prompt
    else:
        assert usage.prompt > one.prompt
