"""Sends the day's requests and its batch, and keeps the tally."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal

import aiohttp

from fareclass.cli.demo import scenario
from fareclass.cli.demo.gateway import Control, DemoFailed, Gateway, GatewayAway
from fareclass.cli.demo.scenario import CAST, NIGHTLY, Send
from fareclass.cli.demo.stage import Stage
from fareclass.cli.demo.tally import Books, Done, Tally

REST_S = 20.0
"""How long what is still under way in the morning may go on."""
_LOOK_S = 1.0
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
_AWAY = 0
_END = b"data: [DONE]\n\n"


class Play:
    """One day. `now_hour` is where it is; beyond `DAWN + 24` it is over."""

    def __init__(
        self, session: aiohttp.ClientSession, gateway: Gateway, stage: Stage, tally: Tally, minutes: float, seed: int
    ) -> None:
        self.tally = tally
        self._session = session
        self._url = gateway.url
        self.minutes = minutes
        self._sends = scenario.day(minutes, seed)
        self._keys: dict[str, str] = {actor.what: key for actor, key in zip(CAST, stage.keys, strict=True)}
        self._admin = Control(session, gateway.url, gateway.admin_key)
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def now_hour(self) -> float:
        return scenario.hour_at(self._loop.time() - self._started_s, self.minutes)

    async def until(self, hour: float) -> None:
        """Wait for an hour of the day."""
        await self._at(scenario.at_s(hour, self.minutes))

    async def run(self) -> None:
        """Send all, each at its time, and the batch at night; then wait for what is still under way, for a while.

        Raises:
            DemoFailed: the gateway refuses the batch, or does not end it well.
        """
        night = asyncio.create_task(self._night())
        try:
            for send in self._sends:
                await self._at(send.at_s)
                task = asyncio.create_task(self._ask(send))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            await self.until(scenario.DAWN + scenario.HOURS)
            await asyncio.wait({night, *self._under_way}, timeout=REST_S)
            if night.done():
                await night
        finally:
            await _ended([night, *self._under_way])
        await self.read_books()

    async def look(self) -> None:
        """Keep the books up to date, until cancelled.

        Raises:
            DemoFailed: the gateway refuses them.
        """
        while True:
            with suppress(GatewayAway):
                await self.read_books()
            await asyncio.sleep(_LOOK_S)

    async def read_books(self) -> None:
        """What the gateway has of each served tier: its tier board."""
        rows = (await self._admin.call("GET", "/admin/v1/tiers"))["data"]
        for tier in {row["served_tier"] for row in rows}:
            served = [row for row in rows if row["served_tier"] == tier]
            self.tally.books[tier] = Books(
                pauses=sum(row["pauses"] for row in served),
                cache_read=sum(row["cache_read"] for row in served),
                usd=sum((Decimal(row["cost"]) for row in served), Decimal(0)),
            )

    async def _at(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, self._started_s + seconds - self._loop.time()))

    async def _ask(self, send: Send) -> None:
        """One request, read to its end; what becomes of it goes into the tally."""
        ask, project = send.actor.ask, send.actor.project
        hour = scenario.hour_at(send.at_s, self.minutes)
        self.tally.send(ask.tier)
        begun_s = self._loop.time()
        headers = {"authorization": f"Bearer {self._keys[send.actor.what]}"}
        try:
            async with self._session.post(
                f"{self._url}/v1/chat/completions", json=scenario.body(send.actor, send.number), headers=headers
            ) as answer:
                first_s, whole = await self._read(answer)
                done = Done(
                    project=project,
                    hour=hour,
                    requested=ask.tier,
                    served=answer.headers.get("x-fareclass-served-tier", ask.tier),
                    status=answer.status,
                    queue_ms=int(answer.headers.get("x-fareclass-queue-ms", 0)),
                    ttft_ms=None if first_s is None else (first_s - begun_s) * 1_000,
                    whole=whole,
                )
        except (aiohttp.ClientError, TimeoutError):
            done = Done(project=project, hour=hour, requested=ask.tier, served=ask.tier, status=_AWAY)
        self.tally.done.append(done)

    async def _read(self, answer: aiohttp.ClientResponse) -> tuple[float | None, bool]:
        """When its first piece came, in the loop's time, and whether it came to its end.

        Comments that only keep a stream open are no piece.
        """
        first_s, end = None, b""
        async for piece in answer.content.iter_any():
            if first_s is None and answer.ok and not piece.startswith(b":"):
                first_s = self._loop.time()
            end = (end + piece)[-len(_END) :]
        return first_s, end == _END

    async def _night(self) -> None:
        """Hand the batch in, and follow it to its end."""
        await self.until(scenario.NIGHT)
        count = scenario.batch_lines(self.minutes)
        api = Control(self._session, self._url, self._keys[NIGHTLY.what])
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", _batch_file(count), filename="night.jsonl", content_type="application/jsonl")
        file = await api.call("POST", "/v1/files", data=form)
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await api.call("POST", "/v1/batches", asked)
        self.tally.batch_lines = count
        while batch["status"] not in _OVER:
            await asyncio.sleep(_LOOK_S)
            batch = await api.call("GET", f"/v1/batches/{batch['id']}")
            self.tally.batch_done = batch["request_counts"]["completed"]
        if batch["status"] != "completed":
            raise DemoFailed(f"the night's batch ended as {batch['status']}")


def _batch_file(count: int) -> bytes:
    lines = (
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": scenario.body(NIGHTLY, number),
        }
        for number in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel those that still run, and wait for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
