"""What the rest of the program may expect of any engine.

One `Engine` is one replica. A `Call` is one upstream request on it; its life is the
capacity it holds, so whoever opens a call closes it, whatever happens.
"""

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from fareclass.core.prefix import Prefix
from fareclass.core.usage import Usage


class Isolation(StrEnum):
    """How one project is kept from finding another's prompts in an engine's cache (R31).

    SALT: the engine is told whose a prompt is. SLOTS: each call is sent to a slot that the gateway knows the owner
    of. OWN: no request reuses anything but its own beginning. NONE: it is not; SHARED: nor is it meant to be.
    """

    SALT = "salt"
    SLOTS = "slots"
    OWN = "own"
    SHARED = "shared"
    NONE = "none"


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found out about one replica and model; nothing here is assumed (R11, R17).

    `continuable`: an answer given its beginning goes on from exactly there.
    `continues_constrained`: also under a JSON schema. `clean_cut_only`: the beginning must
    not end in white space. `recompute_tokens`: prompt tokens that a warm continuation
    computes again. `keeps_cut_prefill`: a prompt cut in mid-prefill stays cached.
    `honours_priority`: the engine's own `priority` changes its order.
    `has_tokenizer`: `count_tokens` asks the engine rather than guessing.
    `caches`: it keeps prompts for later requests, None where that can't be told. `tells_cached`: its usage says how
    much of a prompt it reused. `isolation`: how it keeps projects' cached prompts apart (R31).
    `takes_tools`: the model is told of a request's tools, None where that can't be told.
    """

    flavour: str = "openai"
    continuable: bool = False
    continues_constrained: bool = False
    clean_cut_only: bool = True
    recompute_tokens: int = 0
    keeps_cut_prefill: bool = False
    honours_priority: bool | None = None
    has_tokenizer: bool = False
    caches: bool | None = None
    tells_cached: bool = False
    isolation: Isolation = Isolation.NONE
    takes_tools: bool | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it goes upstream, in the words of the OpenAI API.

    `path` is below `/v1`, such as `/chat/completions`. `body` is what the caller sent,
    less what R50 drops; it is shared and never changed. `rank` is the scheduler's (R17).
    To continue an answer, `beginning` is its text so far and `made_tokens` how many tokens
    that was: the engine's `max_tokens` shrinks by it. `said` is white space that came behind
    the beginning and that the engine would lose: it is to come once more, and is not passed
    on again. `traceparent` is the caller's. `id` is the request's own, the same for each of its calls.
    `salt` stands for its project in an engine's cache, empty where projects share it; `prefix` are the prompt's
    beginnings, if the gateway keeps track of them (R31).
    """

    path: str
    body: Mapping[str, Any]
    stream: bool
    rank: int
    beginning: str = ""
    said: str = ""
    made_tokens: int = 0
    traceparent: str | None = None
    id: str = ""
    salt: str = "gateway"
    prefix: Prefix | None = None


class Call(Protocol):
    r"""One upstream request under way.

    Streamed: iterate. Each item is one or more whole server-sent events of the OpenAI API
    (`data: {…}\n\n`), as bytes from the engine, without its private fields, without
    usage and `[DONE]`. The first item comes with the first token (a chunk that only names
    the role is held back and sent with it), so `first item` = first token. The iterator
    ends when the engine says the answer is whole, and raises `EngineFailed` otherwise.
    Not streamed: `await body()`.
    """

    @property
    def made_tokens(self) -> int:
        """Output tokens of this call so far: the engine's own count where it keeps one, else events."""

    @property
    def usage(self) -> Usage | None:
        """The engine's own count: of the whole call once it is over, or as far as it went, where the engine tells."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def body(self) -> bytes:
        """The whole answer of a call that is not streamed; sets `usage` where the answer has it."""

    async def close(self) -> None:
        """End the call, telling the engine at once (R15). Idempotent; never raises."""


class Engine(Protocol):
    """One replica."""

    @property
    def traits(self) -> Traits: ...

    async def open(self, prompt: Prompt) -> Call:
        """Send a request; returns once the engine has accepted it (status and headers are in).

        Raises:
            EngineRefused: the engine said no to this very request (4xx); another replica would too.
            EngineFailed: the engine can't be reached, is broken, or answers 5xx, 408 or 429.
        """

    def forget(self, id: str) -> None:
        """The request with this id makes no further call here: what is kept for it to go on from may go."""

    async def healthy(self) -> bool:
        """One cheap look at whether it can serve; never raises."""

    async def probe(self) -> Traits:
        """Find `traits` out with a few small requests and keep them.

        Raises:
            EngineFailed: the engine went away while it was looked at.
        """

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text by the engine's tokenizer, or None where it has none or fails."""

    async def count_prompt(self, body: Mapping[str, Any]) -> int | None:
        """Tokens of a chat without media as the model reads it, template included; None where that can't be told."""

    async def close(self) -> None:
        """Give back connections and, where the engine is ours, its process."""


class EngineFailed(Exception):
    """A replica did not do its work: `reason` is one of unreachable, timeout, stalled, broken, refused."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EngineRefused(Exception):
    """The engine refused this request as the caller's mistake: its status and its own error object."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message", "the engine refused the request")))
        self.status = status
        self.error = error
