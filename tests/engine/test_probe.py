"""R11, R17: what is concluded from what a replica answers. What llama.cpp itself answers is in `test_local`."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fareclass.core.usage import Usage
from fareclass.engine import probe
from fareclass.engine.base import EngineRefused, Prompt
from fareclass.engine.probe import UNKNOWN_RECOMPUTE, Findings, find_traits

LLAMA = {"/props": {"default_generation_settings": {}}}
VLLM = {"/version": {"version": "0.32"}}
LONG = 300
"""Tokens of the prompt that shows how an engine caches."""


class Played:
    """A call that gives one piece of text."""

    def __init__(self, text: str, usage: Usage) -> None:
        self.usage = usage
        self._text = text

    async def __aiter__(self):
        event = {"choices": [{"index": 0, "delta": {"content": self._text}}]}
        yield b"data: " + msgspec.json.encode(event) + b"\n\n"

    async def close(self) -> None:
        """There is nothing to close."""


class Replica:
    """An engine that continues everything; `cached` of a long prompt's tokens, first asked and then continued."""

    def __init__(self, pages: dict[str, Any], cached: Callable[[Prompt], int] = lambda _prompt: 0) -> None:
        self.questions: list[str] = []
        self.refused = ""
        self._pages = pages
        self._cached = cached

    async def open(self, prompt: Prompt) -> Played:
        question = prompt.body["messages"][0]["content"]
        self.questions.append(question)
        if self.refused and self.refused in question:
            raise EngineRefused(400, {})
        if "lazy" in prompt.beginning:
            text = " dog."[len(prompt.beginning) - len("The quick brown fox jumps over the lazy") :]
        elif "JSON" in question:
            text = '{"city": "Paris"}'.removeprefix(prompt.beginning)
        else:
            text = " x"
        cached = self._cached(prompt)
        return Played(text, Usage(input=LONG - cached, cache_read=cached, output=1))

    async def look(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return (200, self._pages[path]) if path in self._pages else (404, None)

    async def count_tokens(self, text: str) -> int | None:
        return None

    def assume(self, found: Findings) -> None:
        """What it is told of itself changes nothing here."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CUT_AFTER_S", 0)
    monkeypatch.setattr(probe, "_SETTLE_S", 0)


async def test_llama_is_asked_for_no_long_prompt():
    """R31: it is told to reuse nothing but what it continues, so a cut prompt is lost; the start is short."""
    replica = Replica(LLAMA, lambda prompt: LONG - 1 if prompt.beginning.endswith("dog") else 0)
    traits = (await find_traits(replica)).traits
    assert (traits.continuable, traits.continues_constrained) == (True, True)
    assert (traits.recompute_tokens, traits.keeps_cut_prefill) == (1, False)
    assert max(map(len, replica.questions)) < 60


@pytest.mark.parametrize(("first", "kept"), [(0, False), (128, True), (LONG - 1, False)])
async def test_others_are_cut_in_mid_prefill(first, kept):
    """All of it cached means that the cut came after the prefill."""
    replica = Replica(VLLM, lambda prompt: LONG - 16 if prompt.beginning else first)
    traits = (await find_traits(replica)).traits
    assert (traits.keeps_cut_prefill, traits.recompute_tokens) == (kept, 16)


@pytest.mark.parametrize("pages", [LLAMA, VLLM])
async def test_a_shared_beginning_is_no_warm_continuation(pages):
    """Only the template's first tokens were found: everything else would be computed again."""
    replica = Replica(pages, lambda prompt: 24 if prompt.beginning else 0)
    assert (await find_traits(replica)).traits.recompute_tokens == UNKNOWN_RECOMPUTE


@pytest.mark.parametrize("refused", ["quick brown", "🦙", "Count"])
async def test_an_engine_that_refuses_a_question_is_used_and_not_continued(refused):
    replica = Replica(VLLM)
    replica.refused = refused
    assert not (await find_traits(replica)).traits.continuable
