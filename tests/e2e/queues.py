"""Two streams of a real Valkey, and `fareclass consume` between them: as a process, or inside the test's loop."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from fareclass.cli.consumer.patience import Times
from fareclass.cli.consumer.streams import Streams
from fareclass.cli.consumer.worker import Worker
from tests.e2e.gateway import Gateway, chat
from tests.e2e.upstream import Play, Turn, tell
from tests.engine.conftest import eventually

REQUESTS, ANSWERS, GROUP = "requests", "answers", "fareclass"
QUICK = Times(idle_s=1.0, keep_s=0.1, look_s=0.05, block_s=0.05, drain_s=0.2, first_wait_s=0.05)
SLOW = QUICK._replace(idle_s=Times().idle_s)
"""Of a worker that takes over nothing but what it is left."""


class Queue:
    """What a queue-driven workflow sees, and what an operator may ask Valkey."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: Redis = Redis.from_url(url, protocol=2)

    async def ask(self, body: dict[str, Any] | bytes | None = None, **fields: Any) -> str:
        """Put a request; without a body, a chat. Its id."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(chat() if body is None else body)
        return await self.send(body=raw, **fields)

    async def send(self, **fields: Any) -> str:
        """Put a message of just these fields."""
        added: bytes = await self.client.xadd(REQUESTS, fields)
        return added.decode()

    async def answers(self) -> list[dict[str, bytes]]:
        found: Any = await self.client.xrange(ANSWERS)
        return [{name.decode(): value for name, value in fields.items()} for _, fields in found]

    async def answered(self, count: int, within_s: float = 10.0) -> dict[str, dict[str, bytes]]:
        """The answers by their request, once there are so many."""

        async def there() -> bool:
            return await self.client.xlen(ANSWERS) >= count

        await eventually(there, within_s)
        found = await self.answers()
        assert len(found) == count
        return {fields["request"].decode(): fields for fields in found}

    async def answer(self, request: str) -> dict[str, bytes]:
        """That of the only request so far."""
        return (await self.answered(1))[request]

    async def pending(self) -> list[dict[str, Any]]:
        """What was taken and not answered: `message_id`, `consumer`, `time_since_delivered` (ms), `times_delivered`."""
        found: list[dict[str, Any]] = await self.client.xpending_range(REQUESTS, GROUP, "-", "+", 100)
        return found

    async def is_older(self, request: str, age_ms: int) -> None:
        """Wait until the request has been in Valkey for so long."""

        async def so() -> bool:
            seconds, micros = await self.client.time()
            return seconds * 1000 + micros // 1000 - int(request.partition("-")[0]) > age_ms

        await eventually(so)

    async def held_by(self, consumer: str) -> None:
        """Wait until all that is pending is this consumer's, and something is."""

        async def so() -> bool:
            return {entry["consumer"] for entry in await self.pending()} == {consumer.encode()}

        await eventually(so)


def tell_after(go_on: asyncio.Event) -> Play:
    """A healthy engine that keeps everybody waiting until it may go on."""

    async def play(turn: Turn) -> None:
        await go_on.wait()
        await tell(turn)

    return play


def code(answer: dict[str, bytes]) -> str:
    """Of an answer that is an error."""
    found: str = msgspec.json.decode(answer["body"])["error"]["code"]
    return found


class Consumer:
    """`fareclass consume` as a process; `said` is what it wrote."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / f"consumer-{os.urandom(4).hex()}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, queue: Queue, gateway: Gateway, *more: str, **environ: str) -> None:
        ours = {"FARECLASS_VALKEY": queue.url, "FARECLASS_URL": gateway.url, "FARECLASS_API_KEY": gateway.key}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fareclass", "consume", REQUESTS, ANSWERS, *more,
                env=os.environ | ours | environ, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text()

    async def says(self, words: str) -> None:
        """Wait until it has written this."""
        await eventually(lambda: words in self.said)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), 10)

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Hired:
    """A worker inside the test's loop, with other times than those of the command."""

    def __init__(self, at: str, gateway: Gateway, name: str, places: int, times: Times) -> None:
        self.said: list[str] = []
        streams = Streams(at, REQUESTS, ANSWERS, GROUP, name)
        self.worker = Worker(
            streams, gateway.url, gateway.key, tier="flex", places=places, say=self.said.append, times=times
        )
        self.task = asyncio.create_task(self.worker.run())

    async def says(self, words: str) -> None:
        await eventually(lambda: any(words in line for line in self.said))

    async def stop(self) -> None:
        self.worker.stop()
        await asyncio.wait_for(self.task, 10)

    async def dismiss(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


Consume = Callable[..., Awaitable[Consumer]]
Hire = Callable[..., Awaitable[Hired]]
