"""Counts of tokens: what is counted, and how many at once."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fareclass.core.limits import COUNTS
from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Quota
from fareclass.flow.counting import TokenCounts
from fareclass.policy.estimate import Estimator
from tests.wire.test_anthropic_translate import PIXEL, TOOL, WALK, parse


class Tokenizer:
    """A pool whose tokenizer answers when it may; `tokens` None is one that can't, `prompt` what a whole prompt has."""

    def __init__(self, tokens: int | None = 5, prompt: int | None = None) -> None:
        self.tokens = tokens
        self.prompt = prompt
        self.texts: list[str] = []
        self.may = asyncio.Event()

    def tokenizer(self) -> "Tokenizer":
        return self

    async def count_prompt(self, body: Mapping[str, Any]) -> int | None:
        return self.prompt

    async def count_tokens(self, text: str) -> int | None:
        self.texts.append(text)
        await self.may.wait()
        return self.tokens


def counts(pool: Tokenizer, concurrency: int | None = None) -> TokenCounts:
    quotas = {("proj_a", "m"): Quota(concurrency=concurrency)}
    snapshot = SimpleNamespace(models={"m": None}, quotas=quotas)
    return TokenCounts(lambda: cast("Any", snapshot), {"m": cast("Any", pool)}, Estimator())


async def test_all_that_a_model_reads_is_counted_and_a_picture_as_such():
    pool = Tokenizer(prompt=99)
    pool.may.set()
    request = parse(messages=[*WALK, {"role": "user", "content": [PIXEL]}], system="Be brief.", tools=[TOOL])
    assert await counts(pool).count(request) == 5 + 2 * 1_024
    for words in ("Be brief.", "Paints.", "Red?", "I paint.", "colour", "Error: no", "Look:"):
        assert words in pool.texts[0]
    assert "AAAA" not in pool.texts[0]


async def test_what_the_template_adds_is_counted_where_the_engine_can():
    assert await counts(Tokenizer(prompt=99)).count(parse()) == 99


async def test_where_no_tokenizer_answers_it_is_the_gateways_estimate():
    pool = Tokenizer(None)
    pool.may.set()
    request = parse()
    assert await counts(pool).count(request) == -(-request.prompt_bytes // 4)


@pytest.mark.parametrize(("concurrency", "most"), [(None, COUNTS), (2, 2), (10**6, COUNTS)])
async def test_r25_a_project_counts_no_more_at_once_than_it_may_and_again_after(concurrency, most):
    pool = Tokenizer()
    under_test = counts(pool, concurrency)
    running = [asyncio.create_task(under_test.count(parse())) for _ in range(most)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await under_test.count(parse())
    assert caught.value.outcome is Outcome.THROTTLED and caught.value.retry_after_ms
    pool.may.set()
    assert await asyncio.gather(*running) == [5] * most
    assert await under_test.count(parse()) == 5
