"""A scriptable server for what a real engine can't be made to do, and the real engine for everything else."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from fareclass.core.prefix import Block
from fareclass.engine.base import Call, Prompt
from fareclass.engine.local import LocalEngine
from fareclass.engine.model_file import fetch_default_model
from fareclass.engine.openai_http import HttpEngine, Timeouts
from fareclass.policy.caching import read_links

DIE = "die"
HANG = "hang"


class FakeServer:
    """Answers every POST below /v1 by a script: pieces of bytes, each a write of its own, `DIE` or `HANG`.

    `seen` are the bodies and headers it got; `gone` is set when a caller hung up on it.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes | str] = []
        self.status = 200
        self.content_type = "text/event-stream"
        self.pages: dict[str, Any] = {}
        self.answer: Callable[[dict[str, Any]], web.Response] | None = None
        self.seen: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith("/v1/") or request.method == "GET":
            page = self.pages.get(request.path)
            if page is None:
                return web.json_response({"error": {"message": "no such page"}}, status=404)
            return web.Response(text=page) if isinstance(page, str) else web.json_response(page)
        self.seen.append(await request.json())
        self.headers.append(request.headers.copy())
        if self.answer is not None:
            return self.answer(self.seen[-1])
        response = web.StreamResponse(status=self.status, headers={"Content-Type": self.content_type})
        await response.prepare(request)
        try:
            for piece in self.pieces:
                await self._play(request, response, piece)
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return response

    async def _play(self, request: web.Request, response: web.StreamResponse, piece: bytes | str) -> None:
        if piece == DIE:
            request.transport.abort()
        elif piece == HANG:
            await asyncio.sleep(3600)
        else:
            await response.write(piece)
            await asyncio.sleep(0.002)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def engine(fake: FakeServer) -> AsyncIterator[HttpEngine]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        timeouts = Timeouts(connect_s=1, stall_s=0.3, answer_s=1)
        yield HttpEngine(session, fake.url, "upstream-name", api_key="sk-up", timeouts=timeouts)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local() -> AsyncIterator[LocalEngine]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        engine = LocalEngine(session, fetch_default_model(), model_name="smollm2", slots=4, context_tokens=2048)
        await engine.start()
        await engine.probe()
        yield engine
        await engine.close()


def chat(
    question: str = "Hello",
    *,
    stream: bool = True,
    beginning: str = "",
    said: str = "",
    made: int = 0,
    id: str = "request",
    salt: str = "project",
    **fields: Any,
) -> Prompt:
    """A request of one project; calls with the same id are of one answer."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, **fields}
    links = read_links(b"key", [Block(question.encode(), len(question))])
    return Prompt(
        path="/chat/completions",
        body=body,
        stream=stream,
        rank=2,
        beginning=beginning,
        said=said,
        made_tokens=made,
        id=id,
        salt=salt,
        prefix=None if links is None else links.prefix(b"key", salt.encode()),
    )


async def collect(call: Call) -> list[bytes]:
    """All items of a stream; the call is closed."""
    try:
        return [block async for block in call]
    finally:
        await call.close()


async def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> None:
    """Wait until an async or plain condition holds."""
    async with asyncio.timeout(within_s):
        for _ in itertools.count():
            held = condition()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.02)
