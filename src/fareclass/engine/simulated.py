"""The simulated engine as a live replica: serves the OpenAI API in-process, in real time, without a model.

It lets a fleet be tried out on a laptop. Answers are plain words drawn from the prompt
(`sim_text`), at the pace of a real GPU replica (`sim_replica`). `n`, `stop`, `max_tokens`,
`seed` and continuing work as on a real engine; tools, JSON schemas, log probabilities and
sampling settings are accepted and ignored, and there are no embeddings. Prompts stay cached
for later ones of their project that begin alike.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from fareclass.core.prefix import Prefix
from fareclass.core.usage import Usage
from fareclass.engine.base import Call, Engine, EngineFailed, EngineRefused, Isolation, Prompt, Traits
from fareclass.engine.sim_cache import Piece
from fareclass.engine.sim_replica import SimReplica, Speed
from fareclass.engine.sim_sequence import Sequence
from fareclass.engine.sim_text import Answer, Question, count_tokens

_encode = msgspec.json.encode
_US = 1_000_000
_BYTES_PER_TOKEN = 8
"""Of a block of a prompt: more than its words need, so that what is cached is never more than what there is."""


class SimulatedEngine(Engine):
    """One simulated replica on the running event loop's clock.

    `mean_tokens` is how long an answer is on average where nothing limits it.
    """

    def __init__(self, speed: Speed, *, mean_tokens: int = 200) -> None:
        self._replica = SimReplica(speed)
        self._mean_tokens = mean_tokens
        self._calls: set[SimulatedCall] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._traits = Traits(
            flavour="simulated",
            continuable=True,
            clean_cut_only=False,
            recompute_tokens=speed.block_tokens,
            keeps_cut_prefill=speed.keeps_cut_prefill,
            honours_priority=True,
            has_tokenizer=True,
            caches=True,
            tells_cached=True,
            isolation=Isolation.SALT,
        )

    @property
    def traits(self) -> Traits:
        return self._traits

    async def open(self, prompt: Prompt) -> Call:
        """Start a request. It is refused if it is none that makes text, or never fits into the context."""
        if self._closed:
            raise EngineFailed("unreachable", "the simulated engine is closed")
        call = SimulatedCall(self, prompt, self._choices(prompt))
        now_us = self._advance()
        for choice in call.choices:
            self._replica.submit(choice.sequence, now_us)
        self._calls.add(call)
        self._set_timer()
        return call

    def forget(self, id: str) -> None:
        """Nothing is kept for an answer but what any prompt leaves in the cache."""

    async def healthy(self) -> bool:
        return not self._closed

    async def probe(self) -> Traits:
        """What it can do is known: nothing needs finding out."""
        return self._traits

    async def count_tokens(self, text: str) -> int | None:
        return count_tokens(text)

    async def count_prompt(self, body: Mapping[str, Any]) -> int | None:
        return Question(body).tokens

    async def close(self) -> None:
        """End every call as a dying engine would."""
        self._closed = True
        for call in tuple(self._calls):
            call.fail(EngineFailed("unreachable", "the simulated engine was closed"))
        if self._timer is not None:
            self._timer.cancel()

    def _choices(self, prompt: Prompt) -> list["_Choice"]:
        body = prompt.body
        if prompt.path == "/chat/completions":
            questions = [Question(body)]
        elif prompt.path == "/completions":
            given = body.get("prompt", "")
            several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
            questions = [Question(body, one) for one in given] if several else [Question(body, given)]
        else:
            raise EngineRefused(404, _error(f"The simulated engine does not serve {prompt.path}.", "not_found"))
        per_question = body.get("n") or 1
        choices = [
            _Choice(prompt, question, f"{question.digest}/{number}", self._mean_tokens)
            for question in questions
            for number in range(per_question)
        ]
        room = self._replica.speed.kv_tokens
        if (longest := max(choice.sequence.peak_tokens for choice in choices)) > room:
            message = f"The request needs {longest} tokens; this engine's context is {room}."
            raise EngineRefused(400, _error(message, "context_length_exceeded"))
        return choices

    def _advance(self) -> int:
        """Bring the replica up to now and wake the calls that have new tokens."""
        now_us = int(asyncio.get_running_loop().time() * _US)
        self._replica.advance(now_us)
        for call in self._calls:
            call.wake_if_new()
        return now_us

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._set_timer()

    def _set_timer(self) -> None:
        end_us = self._replica.step_end_us
        if self._timer is None and end_us is not None:
            self._timer = asyncio.get_running_loop().call_at(end_us / _US, self._tick)

    def made(self, sequence: Sequence) -> int:
        """Tokens a sequence of one of its calls has made."""
        return self._replica.made(sequence)

    def drop(self, call: "SimulatedCall") -> None:
        """A call is over: whatever of it still runs is given up."""
        if call not in self._calls:
            return
        self._calls.discard(call)
        now_us = self._advance()
        for choice in call.choices:
            self._replica.abort(choice.sequence, now_us)


class _Choice:
    """One sequence of a call: its answer, and how many of its tokens were passed on."""

    __slots__ = ("answer", "question", "relayed", "sequence")

    def __init__(self, prompt: Prompt, question: Question, seed: str, mean_tokens: int) -> None:
        body = prompt.body
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        most = max(1, (mean_tokens * 8 if asked is None else asked) - prompt.made_tokens)
        stop = body.get("stop") or ()
        stops = tuple(word for word in ((stop,) if isinstance(stop, str) else stop) if word)
        self.question = question
        self.answer = Answer(seed, mean_tokens, most, stops, prompt.beginning)
        begun = count_tokens(prompt.beginning)
        self.sequence = Sequence(
            f"{prompt.id}/{seed}",
            question.tokens + begun,
            self.answer.tokens,
            reuses=bool(prompt.beginning),
            rank=prompt.rank,
            pieces=_pieces(prompt.prefix),
        )
        self.relayed = 0


def _pieces(prefix: Prefix | None) -> tuple[Piece, ...]:
    """A prompt as the cache knows it: digests name their project, so nobody finds another's (R31).

    A piece must count the same in every prompt, so its tokens are taken from its own size.
    """
    if prefix is None:
        return ()
    sizes = [end - start for start, end in pairwise((0, *prefix.ends))]
    return tuple(Piece(digest, size // _BYTES_PER_TOKEN) for digest, size in zip(prefix.digests, sizes, strict=True))


class SimulatedCall(Call):
    """One request under way on a `SimulatedEngine`."""

    def __init__(self, engine: SimulatedEngine, prompt: Prompt, choices: list[_Choice]) -> None:
        self.choices = choices
        self._engine = engine
        self._chat = prompt.path == "/chat/completions"
        self._model = prompt.body.get("model", "")
        self._named = bool(prompt.beginning)
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + uuid.uuid4().hex
        self._created = int(time.time())
        self._new = asyncio.Event()
        self._failure: EngineFailed | None = None

    @property
    def made_tokens(self) -> int:
        return sum(choice.relayed for choice in self.choices)

    @property
    def usage(self) -> Usage | None:
        """As an engine counts it: the prompts with the answer's beginning, and what this call made so far."""
        if not self.made_tokens:
            return None
        cached = sum(choice.sequence.cached for choice in self.choices)
        prompt = sum(choice.sequence.prompt_tokens for choice in self.choices)
        return Usage(input=prompt - cached, cache_read=cached, output=self.made_tokens)

    @property
    def _whole(self) -> bool:
        return all(choice.relayed == choice.answer.tokens for choice in self.choices)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._whole:
            await self._more()
            events = [self._event(number, choice) for number, choice in enumerate(self.choices) if self._behind(choice)]
            yield b"".join(events)

    async def body(self) -> bytes:
        while not all(self._engine.made(choice.sequence) == choice.answer.tokens for choice in self.choices):
            await self._more()
        for choice in self.choices:
            choice.relayed = choice.answer.tokens
        return _encode(self._envelope("chat.completion", [self._final(*item) for item in enumerate(self.choices)]))

    async def close(self) -> None:
        self._engine.drop(self)
        self.fail(EngineFailed("broken", "the call was closed"))

    def wake_if_new(self) -> None:
        """Some tokens may have been made."""
        if not self._new.is_set() and any(self._behind(choice) for choice in self.choices):
            self._new.set()

    def fail(self, failure: EngineFailed) -> None:
        """Nothing more will come: whoever waits for it learns why."""
        self._failure = self._failure or failure
        self._new.set()

    def _behind(self, choice: _Choice) -> bool:
        return self._engine.made(choice.sequence) > choice.relayed

    async def _more(self) -> None:
        await self._new.wait()
        self._new.clear()
        if self._failure is not None:
            raise self._failure

    def _event(self, number: int, choice: _Choice) -> bytes:
        """The chunk with all tokens that were made and not yet passed on."""
        made, first = self._engine.made(choice.sequence), choice.relayed
        text, choice.relayed = choice.answer.piece(first, made), made
        finish = choice.answer.finish if made == choice.answer.tokens else None
        part: dict[str, Any] = {"index": number, "finish_reason": finish}
        if self._chat:
            part["delta"] = {"content": text} if first or self._named else {"role": "assistant", "content": text}
        else:
            part["text"] = text
        return b"data: " + _encode(self._envelope("chat.completion.chunk", [part], counted=False)) + b"\n\n"

    def _final(self, number: int, choice: _Choice) -> dict[str, Any]:
        text = choice.answer.piece(0, choice.answer.tokens)
        part: dict[str, Any] = {"index": number, "finish_reason": choice.answer.finish, "logprobs": None}
        return part | ({"message": {"role": "assistant", "content": text}} if self._chat else {"text": text})

    def _envelope(self, kind: str, choices: list[dict[str, Any]], *, counted: bool = True) -> dict[str, Any]:
        envelope = {
            "id": self._id,
            "object": kind if self._chat else "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if counted and (usage := self.usage) is not None:
            envelope["usage"] = {
                "prompt_tokens": usage.prompt,
                "completion_tokens": usage.output,
                "total_tokens": usage.prompt + usage.output,
                "prompt_tokens_details": {"cached_tokens": usage.cache_read},
            }
        return envelope


def _error(message: str, code: str) -> Mapping[str, Any]:
    return {"message": message, "type": "invalid_request_error", "code": code}
