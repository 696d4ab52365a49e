"""An OpenAI-compatible server on loopback whose every answer is played by the test, token by token."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

QUESTION = "Tell me a story."
PROMPT_TOKENS = 11
WORDS = [f" w{number}" for number in range(200)]
"""What the model always says, one token each."""


VLLM = {"/version": {"version": "0.11.0"}}


def story(tokens: int) -> str:
    return "".join(WORDS[:tokens])


class Turn:
    """One call, as the upstream sees it. `gone` is set when the gateway hangs up on it."""

    def __init__(self, request: web.Request, body: dict[str, Any]) -> None:
        self.body = body
        self.headers = request.headers
        self.path = request.path
        self.gone = asyncio.Event()
        self._request = request
        self._response: web.StreamResponse | None = None
        messages = body.get("messages") or [{}]
        text = messages[-1]["content"] if messages[-1].get("role") == "assistant" else ""
        self.begun = text.count("w")
        """Tokens of the answer that this call continues."""
        self.at = self.begun
        self.cached: int | None = None
        """What its usage says was read from a cache, None for an engine that says nothing."""

    @property
    def limit(self) -> int:
        return self.begun + (self.body.get("max_tokens") or 8)

    async def begin(self) -> None:
        """Status and headers of a stream."""
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await self._response.prepare(self._request)

    async def say(self, tokens: int) -> None:
        """So many tokens more, each an event of its own."""
        await self.write_out(*WORDS[self.at : self.at + tokens])
        self.at += tokens

    async def write_out(self, *pieces: str) -> None:
        """Text beside the story, each piece an event of its own."""
        for piece in pieces:
            await self.event({"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None})

    async def end(self, reason: str = "length") -> None:
        """The answer is whole."""
        await self.event({"index": 0, "delta": {}, "finish_reason": reason})
        await self.write(b"data: " + msgspec.json.encode(self._envelope([], usage=self._usage)) + b"\n\n")
        await self.write(b"data: [DONE]\n\n")

    async def event(self, choice: dict[str, Any], **more: Any) -> None:
        await self.write(b"data: " + msgspec.json.encode(self._envelope([choice], **more)) + b"\n\n")

    async def say_counted(self, tokens: int) -> None:
        """As `say`, with a running count in each event, as some engines have it."""
        for word in WORDS[self.at : self.at + tokens]:
            self.at += 1
            await self.event({"index": 0, "delta": {"content": word}, "finish_reason": None}, usage=self._usage)

    async def write(self, data: bytes) -> None:
        if self._response is None:
            await self.begin()
        assert self._response is not None
        await self._response.write(data)

    async def whole(self) -> None:
        """The answer of a call that is not streamed."""
        self.at = self.limit
        message = {"role": "assistant", "content": "".join(WORDS[self.begun : self.at])}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        await self.answer(self._envelope([choice], usage=self._usage))

    async def answer(self, value: object, status: int = 200) -> None:
        response = web.json_response(value, status=status)
        self._response = response
        await response.prepare(self._request)
        await response.write_eof()

    async def die(self) -> None:
        """The connection breaks."""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def hang(self) -> None:
        """Nothing more, until the gateway hangs up."""
        await asyncio.Event().wait()

    @property
    def response(self) -> web.StreamResponse:
        return self._response or web.Response(status=500)

    @property
    def _usage(self) -> dict[str, Any]:
        prompt, output = PROMPT_TOKENS + self.begun, self.at - self.begun
        told = {} if self.cached is None else {"prompt_tokens_details": {"cached_tokens": self.cached}}
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **told}

    def _envelope(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        head = {"id": f"chatcmpl-{id(self)}", "object": "chat.completion.chunk", "created": 1763900000}
        return {**head, "model": self.body["model"], "choices": choices, **more}


Play = Callable[[Turn], Awaitable[None]]


async def tell(turn: Turn) -> None:
    """What a healthy engine does."""
    if turn.body.get("stream"):
        await turn.say(turn.limit - turn.begun)
        await turn.end()
    else:
        await turn.whole()


async def tell_one(turn: Turn) -> None:
    """One token, by the model's own choice."""
    turn.body["max_tokens"] = 1
    await tell(turn)


def tell_in_two(tokens: int, go_on: asyncio.Event) -> Play:
    """A healthy engine that says so many tokens, and the rest once it may go on."""

    async def play(turn: Turn) -> None:
        await turn.say(tokens)
        await go_on.wait()
        await turn.say(turn.limit - turn.at)
        await turn.end()

    return play


class Upstream:
    """Answers calls that ask `QUESTION` by `play`, and the gateway's own probes as a model that can continue or not.

    `turns` are the calls so far, in order; `most` is how many were ever under way at once. `pages` are what else it
    shows, by path: with `VLLM` it is taken for a vLLM.
    """

    def __init__(self, *, continues: bool = False) -> None:
        self.continues = continues
        self.play: Play = tell
        self.turns: list[Turn] = []
        self.most = 0
        self.healthy = True
        self.pages: dict[str, Any] = {}
        self.url = ""
        self._active = 0
        self._came: asyncio.Queue[Turn] = asyncio.Queue()

    async def next(self) -> Turn:
        """The next call that comes, or came and was not asked for yet."""
        return await asyncio.wait_for(self._came.get(), 10)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            if request.path in self.pages:
                return web.json_response(self.pages[request.path])
            if request.path != "/v1/models":
                return web.json_response({}, status=404)
            return web.json_response({"data": []}, status=200 if self.healthy else 503)
        if not request.path.startswith("/v1/"):
            return web.json_response({"error": {"message": "no such page"}}, status=404)
        turn = Turn(request, await request.json())
        if QUESTION not in msgspec.json.encode(turn.body).decode():
            await _answer_probe(turn, continues=self.continues)
            return turn.response
        self.turns.append(turn)
        self._came.put_nowait(turn)
        self._active += 1
        self.most = max(self.most, self._active)
        try:
            await self.play(turn)
        except (ConnectionError, asyncio.CancelledError):
            turn.gone.set()
            raise
        finally:
            self._active -= 1
        return turn.response


async def _answer_probe(turn: Turn, *, continues: bool) -> None:
    last = turn.body["messages"][-1]["content"]
    text = " dog." if continues and last.endswith("lazy") else "…"
    await turn.event({"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None})
    await turn.end("stop")


@asynccontextmanager
async def serving(upstream: Upstream, port: int = 0) -> AsyncIterator[Upstream]:
    """The upstream listens until the block ends."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()
