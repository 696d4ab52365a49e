"""What a cached prompt is worth on the built-in engine: time to the first token, cold and cached (R30)."""

import statistics
import time

import aiohttp

from fareclass.core.prefix import Block
from fareclass.engine.base import Prompt
from fareclass.engine.local import LocalEngine
from fareclass.engine.model_file import fetch_default_model
from fareclass.policy.caching import read_links

WORDS = 500
"""About 2,000 tokens."""
ROUNDS = 3


async def measure() -> None:
    async with aiohttp.ClientSession() as session:
        engine = LocalEngine(session, fetch_default_model(), model_name="m", slots=2, context_tokens=4_096)
        await engine.start()
        await engine.probe()
        try:
            rows = [await _round(engine, number) for number in range(ROUNDS)]
        finally:
            await engine.close()
    cold, warm = (statistics.median(row[place][0] for row in rows) for place in (0, 1))
    for name, place in (("cold", 0), ("cached", 1), ("a stranger's", 2)):
        told = ", ".join(
            f"{seconds:.2f} s ({cached} of {prompt} cached)" for seconds, cached, prompt in (r[place] for r in rows)
        )
        print(f"first token, {name:12}: {told}")
    print(f"cold / cached, medians: {cold / warm:.0f} x (wanted: 8 x)")


async def _round(engine: LocalEngine, number: int) -> list[tuple[float, int, int]]:
    """The same long prompt with a new question: asked first, asked again, and by another project."""
    known = f"Round {number}: " + " ".join(f"w{word * 7919 % 1000}" for word in range(WORDS))
    return [
        await _first_token(engine, known, question, project)
        for question, project in (("One?", "own"), ("Two?", "own"), ("Two?", f"stranger {number}"))
    ]


async def _first_token(engine: LocalEngine, known: str, question: str, project: str) -> tuple[float, int, int]:
    messages = [{"role": "system", "content": known}, {"role": "user", "content": question}]
    links = read_links(b"bench", [Block(one.encode(), len(one)) for one in (known, question)])
    prefix = None if links is None else links.prefix(b"bench", project.encode())
    body = {"messages": messages, "temperature": 0, "max_tokens": 2}
    begin = time.perf_counter()
    call = await engine.open(
        Prompt(path="/chat/completions", body=body, stream=True, rank=2, salt=project, prefix=prefix)
    )
    first = None
    async for _ in call:
        first = first or time.perf_counter() - begin
    await call.close()
    assert call.usage is not None and first is not None
    return first, call.usage.cache_read, call.usage.prompt
