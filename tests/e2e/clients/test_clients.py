"""Unmodified clients against the real engine: for each of them the same, as far as it can be asked for."""

import asyncio
import itertools
from typing import Any, NamedTuple

import httpx
import pytest

from tests.e2e.callers import RULES
from tests.e2e.clients import client as words
from tests.e2e.clients.anthropic_sdk import AnthropicBedrock, AnthropicMessages
from tests.e2e.clients.aws_sdk import Boto3
from tests.e2e.clients.client import City, Client
from tests.e2e.clients.langchain import LangChainAws, LangChainOpenAI
from tests.e2e.clients.litellm_lib import LiteLLM
from tests.e2e.clients.llm_cli import LlmCli
from tests.e2e.clients.openai_sdk import OpenAIChat, OpenAIResponses, chat_messages
from tests.e2e.clients.vercel_sdk import (
    VercelAnthropic,
    VercelBedrock,
    VercelOpenAIChat,
    VercelOpenAICompatible,
    VercelOpenAIResponses,
)
from tests.e2e.gateway import MODEL, Gateway, chat
from tests.engine.conftest import eventually

CLIENTS = [
    OpenAIChat,
    OpenAIResponses,
    AnthropicMessages,
    AnthropicBedrock,
    Boto3,
    LangChainOpenAI,
    LangChainAws,
    LiteLLM,
    LlmCli,
    VercelOpenAIChat,
    VercelOpenAIResponses,
    VercelOpenAICompatible,
    VercelAnthropic,
    VercelBedrock,
]
THROTTLED = [kind for kind in CLIENTS if kind not in (VercelOpenAIChat, VercelOpenAIResponses)]
"""Vercel's retries are the same for all of its providers."""
LONG = chat(max_tokens=900, stream=True, logit_bias={"2": -100})
"""Can't end by itself, so it runs for longer than any client takes to be refused twice."""
TOLD_S = 1.0
"""When a project comes back that is at its limit of concurrent requests, none of which has ended yet (R14)."""


class Account(NamedTuple):
    """A key of a client's own."""

    gateway: Gateway
    kind: type[Client]
    project: str
    id: str
    key: str

    def client(self, retries: int | None = None) -> Client:
        return self.kind(self.gateway.url, self.key, retries)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What the ledger has of it, in order of arrival."""
        rows = [row for row in self.gateway.rows() if row["key"] == self.id]
        return sorted(rows, key=lambda row: row["arrived_us"])

    async def recorded(self, count: int) -> list[dict[str, Any]]:
        """The same once there are so many; a refusal is told before it is on disk."""
        await eventually(lambda: len(self.rows) >= count, 30)
        return self.rows


async def opened(gateway: Gateway, kind: type[Client], project: str | None = None) -> Account:
    key = await gateway.new_key(project, default_tier=kind.key_tier)
    return Account(gateway, kind, project or "default", key["id"], key["secret"])


def listed(kinds: list[type[Client]]) -> list[Any]:
    """As parameters. Each call of `llm` starts a program: `make test` has it in test_guide.py."""
    return [pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] if kind is LlmCli else []) for kind in kinds]


@pytest.fixture(params=listed(CLIENTS))
async def account(request, real) -> Account:
    return await opened(real, request.param)


def prompt(row: dict[str, Any]) -> int:
    return row["input"] + row["cache_write_5m"] + row["cache_read"]


@pytest.fixture(scope="session")
def whole(real_process) -> str:
    """What the model says to `QUESTION`, whoever asks."""
    asked = chat(messages=[{"role": "user", "content": words.QUESTION}], max_tokens=words.MAX_TOKENS, temperature=0)
    headers = {"authorization": f"Bearer {real_process.key}"}
    answer = httpx.post(f"{real_process.url}/v1/chat/completions", json=asked, headers=headers, timeout=60)
    return answer.raise_for_status().json()["choices"][0]["message"]["content"]


async def test_r1_r2_r4_a_chat_is_served_on_the_tier_that_was_chosen_and_counted_as_billed(account: Account, whole):
    said = await asyncio.to_thread(account.client().chat, words.QUESTION, tier=account.kind.tier)
    (row,) = account.rows
    assert said.text == whole
    assert (row["served_tier"], said.tier) == (account.kind.served, account.kind.told)
    assert (prompt(row), row["cache_read"], row["output"]) == (said.prompt, said.cached, said.output)
    assert said.output == words.MAX_TOKENS


async def test_r4_a_stream_comes_in_pieces_and_says_what_the_whole_answer_says(account: Account, whole):
    pieces = await asyncio.to_thread(account.client().stream, words.QUESTION)
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    (row,) = account.rows
    assert (row["streamed"], row["outcome"], row["output"]) == (1, "completed", words.MAX_TOKENS)


async def test_r50_a_tool_is_called_and_its_result_understood(account: Account):
    called = await asyncio.to_thread(account.client().call_tool)
    assert (called.name, called.arguments) == (words.WEATHER, {"city": "Paris"})
    assert words.SUNNY in called.text
    assert [row["outcome"] for row in account.rows] == ["completed"] * 2


async def test_r50_structured_output_is_obeyed_by_the_engine(account: Account):
    assert isinstance(await asyncio.to_thread(account.client().structured), City)


async def test_r28_r30_a_prompt_is_cached_and_shown_as_cached(account: Account):
    """Written where the client marks it, and read the second time."""
    system = f"The key of {account.kind.name} is {account.id}. {RULES['content']}"
    first = await asyncio.to_thread(account.client().chat, words.QUESTION, system)
    second = await asyncio.to_thread(account.client().chat, words.OTHER_QUESTION, system)
    written, read = account.rows
    assert (first.cached, written["cache_write_5m"] > 100) == (0, account.kind.marks)
    assert second.cached == read["cache_read"] > 100
    assert (first.prompt, second.prompt) == (prompt(written), prompt(read))


@pytest.mark.parametrize("kind", listed(THROTTLED))
async def test_r14_r25_a_throttle_and_what_the_client_makes_of_it(real, kind):
    """An error of its own, at once where no wait can help; else it comes back when it is told to, and is served."""
    account = await opened(real, kind, f"throttled {kind.name}")
    await real.limit(account.project, concurrency=0)
    with pytest.raises(kind.refused, match=kind.says):
        await asyncio.to_thread(account.client(None if kind.gives_up else 0).chat, words.QUESTION)
    assert len(await account.recorded(1)) == 1
    await real.limit(account.project, concurrency=1)
    async with real.caller(account.key).stream("POST", "/chat/completions", json=LONG):
        patient = asyncio.create_task(asyncio.to_thread(account.client().chat, words.QUESTION))
        await account.recorded(1 + kind.refusals)
    assert (await patient).output == words.MAX_TOKENS
    _, *tried = [row for row in account.rows if row["outcome"] != "cancelled"]
    assert [row["outcome"] for row in tried] == ["throttled"] * kind.refusals + ["completed"]
    waits = [(later["arrived_us"] - one["arrived_us"]) / 1e6 for one, later in itertools.pairwise(tried)]
    assert all(TOLD_S <= wait < 3 * TOLD_S for wait in waits), waits


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_r14_litellms_num_retries_heed_nothing(real, api):
    """They come on top of the tries that do, and on Anthropic's API there are no others."""
    account = await opened(real, LiteLLM, f"litellm {api}")
    await real.limit(account.project, concurrency=0)
    where = {"openai": {}, "anthropic": {"model": f"anthropic/{MODEL}", "api_base": real.url}}[api]
    messages = chat_messages(words.QUESTION, None)
    for more, tries in ({}, 1), ({"num_retries": 2}, 1 + 3):
        with pytest.raises(LiteLLM.refused):
            await asyncio.to_thread(LiteLLM(real.url, account.key).complete, messages, **where, **more)
        assert len(await account.recorded(tries)) == tries, more
