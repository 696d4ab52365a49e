"""What the wire's tests share: a walk whose every step the test writes, and what a model says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from fareclass.core.outcomes import Refusal
from fareclass.core.request import Request
from fareclass.core.snapshot import Key
from fareclass.core.tiers import BY_WORD, Tier
from fareclass.core.tokens import token
from fareclass.core.usage import Usage
from fareclass.flow.reply import Reply, Served

Script = Callable[[Request, Reply], Awaitable[None]]
SECRET = token("key_test", "proof")


def chunk(text: str, **more: Any) -> bytes:
    """One event as llama.cpp writes it."""
    body = {
        "choices": [{"finish_reason": None, "index": 0, "delta": {"content": text}}],
        "created": 1763900000,
        "id": "chatcmpl-first",
        "model": "upstream/Model",
        "object": "chat.completion.chunk",
        **more,
    }
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def served_as(request: Request, **more: Any) -> Served:
    """What a walk says of a request that ran at once on the tier it asked for."""
    tier = BY_WORD.get(request.tier_word or "default", Tier.DEFAULT)
    facts = {
        "request_id": request.id,
        "requested": tier,
        "served": tier,
        "queue_ms": 7,
        "replica": "r1",
        "model": request.model,
        "upstream_model": "upstream/Model",
    }
    return Served(**(facts | more))


async def reply_whole(reply: Reply, served: Served, body: bytes, usage: Usage | None = None) -> None:
    """The end of a walk with an answer in one piece."""
    usage = usage or Usage()
    try:
        translated = reply.translated(served, body, usage)
    except Refusal as refusal:
        await reply.refuse(refusal, served)
    else:
        await reply.whole(served, translated)


async def say_hello(request: Request, reply: Reply) -> None:
    """The walk of a healthy model."""
    if request.stream:
        await reply.start(served_as(request))
        await reply.relay(chunk("", choices=[{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]))
        await reply.relay(chunk("lo") + chunk("!"))
        await reply.end(Usage(input=5, cache_read=4, output=3))
    else:
        await reply_whole(reply, served_as(request), WHOLE, Usage(input=5, cache_read=4, output=3))


WHOLE = (
    b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"Hello!"}}],'
    b'"created":1763900000,"model":"upstream/Model","object":"chat.completion",'
    b'"usage":{"completion_tokens":3,"prompt_tokens":9,"total_tokens":12},"id":"chatcmpl-first"}'
)


class FakeWalk:
    """Runs the test's script, and keeps what came in, what was rejected and whether the walk was cancelled."""

    def __init__(self) -> None:
        self.script: Script = say_hello
        self.requests: list[Request] = []
        self.rejections: list[tuple[str, Key | None, Refusal]] = []
        self.cancelled = asyncio.Event()
        self.rejection = asyncio.Event()

    async def run(self, request: Request, reply: Reply) -> None:
        self.requests.append(request)
        try:
            await self.script(request, reply)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def check(self, request: Request) -> None:
        """All that a test sends may run."""

    def rejected(self, arrival: Any, endpoint: str, key: Key | None, refusal: Refusal) -> None:
        self.rejections.append((endpoint, key, refusal))
        self.rejection.set()


class Running:
    """The data plane under test: where it listens, and its walk."""

    def __init__(self, walk: FakeWalk) -> None:
        self.walk = walk
        self.url = ""
        self.not_ready: str | None = None
