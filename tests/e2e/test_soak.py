"""R35, over and over: a gateway that is killed at any moment and started again on the same database."""

import asyncio
import contextlib
import random
import signal

import httpx
import pytest

from tests.e2e.gateway import chat, simulated

ROUNDS = 12
CALLERS = 24
pytestmark = pytest.mark.slow


class Callers:
    """They ask on all tiers, streamed and not, leave now and then, and note which answers came whole."""

    def __init__(self, seed: int) -> None:
        self.answered: list[str] = []
        self._dice = random.Random(seed)
        self._asked = 0

    async def call(self, gateway) -> None:
        """One after the other, until the gateway is gone."""
        with contextlib.suppress(httpx.TransportError):
            while True:
                await self._ask(gateway)

    async def _ask(self, gateway) -> None:
        self._asked += 1
        name = f"caller-{self._asked}"
        dice = self._dice
        stream, tier = dice.random() < 0.5, dice.choice(["priority", "default", "flex"])
        body = chat(stream=stream, service_tier=tier, max_tokens=dice.randint(1, 30), n=dice.choice([None, None, 2]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.choice([30, 30, dice.random() / 5])):
                answer = await gateway.http.post("/chat/completions", json=body, headers={"x-request-id": name})
                assert answer.status_code in {200, 503}, answer.text
                if answer.status_code == 200:
                    assert answer.text.endswith("data: [DONE]\n\n") == stream
                    self.answered.append(name)


async def test_twelve_kills_lose_no_answered_request_and_double_none(start, database):
    """Each start has the database at once and finds all that was answered before."""
    callers = Callers(seed=35)
    settings = {**simulated(replicas=2, slots=4, base_us=1000, sequence_us=100), **database}
    whole = 0
    for number in range(ROUNDS):
        process = await start(settings if number == 0 else None)
        gateway = process.gateway()
        tasks = [asyncio.create_task(callers.call(gateway)) for _ in range(CALLERS)]
        await asyncio.sleep(0.2 + random.Random(number).random())
        process.send(signal.SIGKILL)
        await asyncio.gather(*tasks)
        await process.wait()
        rows = gateway.rows()
        await gateway.close()
        recorded = [row["caller_id"] for row in rows if row["outcome"] == "completed"]
        assert len(recorded) == len(set(recorded))
        assert set(callers.answered) <= set(recorded)
        assert len(callers.answered) > whole, "it served in this round"
        whole = len(callers.answered)
    last = (await start()).gateway()
    report = (await last.admin.get("/usage")).raise_for_status().json()["data"]
    rows = last.rows()
    assert sum(row["requests"] for row in report) == len(rows)
    assert sum(row["output"] for row in report) == sum(row["output"] for row in rows if row["first_token_us"])
    await last.close()
