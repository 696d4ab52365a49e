"""The one internal form of a generating request, whatever API it came through."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fareclass.core.prefix import Block
from fareclass.core.snapshot import Key, PriceBook


class Job(msgspec.Struct, frozen=True):
    """What a line of a batch takes with it: `books` are the price books at the making of its job, by model (R33),
    `deadline_s` is the end of its window on the event loop's clock; `raised`: it ranks as default now (R13).
    """

    books: Mapping[str, PriceBook]
    deadline_s: float
    raised: bool = False


class Request(msgspec.Struct, kw_only=True):
    """What the wire understood of a caller's request.

    `key` proved whose request it is. `model` is the name that the caller wrote; a route's becomes that of the model which
    has the request (R45). `path` is the upstream path below `/v1` (`/chat/completions`). `body` holds the API's
    own fields as they came, `extra` those the API does not know (R50: they pass only if the
    model says so). `tier_word` is the tier as the caller wrote it. `max_tokens` is the
    caller's limit on output, None if there was none. `prompt_bytes` is the size of what
    will be prefilled for one sequence, from which its tokens are estimated. `width` is `n` × prompts (R49).
    `continuable` is what the request itself allows of R11; the engine must allow it too.
    `media_hosts` are the hosts of remote media in it (R47). `blocks` gives the prompt in pieces that a cache knows
    (R28); they are made only where there is one.
    `job` is set for a line of a batch. `deadline_s`, on the event loop's clock, ends its wait in line, where its client
    won't wait longer (R48).
    `arrived_s` is the event loop's clock, `arrived_us` the time of day. `asked` is what only its own dialect needs to
    know of it.
    """

    id: str
    caller_id: str
    endpoint: str
    path: str
    key: Key
    model: str
    tier_word: str | None
    stream: bool
    body: Mapping[str, Any]
    extra: Mapping[str, Any]
    max_tokens: int | None
    width: int
    size_bytes: int
    prompt_bytes: int
    continuable: bool
    constrained: bool
    stop: tuple[str, ...]
    media_hosts: tuple[str, ...]
    blocks: Callable[[], Iterable[Block]] = tuple
    traceparent: str | None
    arrived_s: float
    arrived_us: int
    job: Job | None = None
    deadline_s: float | None = None
    asked: object = None
