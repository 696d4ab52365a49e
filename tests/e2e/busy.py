"""A gateway whose every tier has served something, and refused something."""

from typing import Any

import httpx

from tests.e2e.gateway import MODEL, Gateway, chat, simulated
from tests.e2e.test_batches import ended, line, packed, submit

SERVED = ("reserved", "priority", "default", "flex")


def reservable(**more: Any) -> dict[str, Any]:
    """Settings of a gateway with a simulated engine of two slots, on which something can be reserved."""
    settings = simulated(slots=2)
    prices = {"input": "0.021", "output": "0.084"}
    capacity = {"input_tpm": 60_000, "output_tpm": 6_000}
    settings["models"][MODEL] |= {"capacity": capacity, "reserved_price": prices}
    return settings | more


class Busy:
    """Callers of one gateway, whose answers have four tokens: project `default` has a floor, project `poor` no quota."""

    def __init__(self, gateway: Gateway, poor: httpx.AsyncClient) -> None:
        self._gateway = gateway
        self._poor = poor

    @classmethod
    async def begin(cls, gateway: Gateway, *, answers: int = 1) -> "Busy":
        """With a floor for so many answers a minute."""
        floor = {"input_tpm": 2_000, "output_tpm": 4 * answers, "overflow": "priority"}
        body = {"project": "default", "model": MODEL, **floor}
        (await gateway.admin.post("/reservations", json=body)).raise_for_status()
        poor = await gateway.new_key("poor")
        await gateway.limit("poor", rpm=0)
        return cls(gateway, gateway.caller(poor["secret"]))

    async def wave(self, times: int = 1) -> None:
        """Of each tier so many whole answers and as many streams; of each kind of refusal so many."""
        gateway = self._gateway
        for _ in range(times):
            for tier in SERVED:
                for stream in (False, True):
                    (await gateway.ask(service_tier=tier, stream=stream)).raise_for_status()
            assert (await gateway.ask(model="there-is-none")).status_code == 404
            assert (await self._poor.post("/chat/completions", json=chat())).status_code == 429
        await self._drained(times)
        batch = await submit(gateway.sdk(), packed([line(number) for number in range(times)]))
        assert (await ended(gateway.sdk(), batch.id)).status == "completed"
        await gateway.idle()

    async def _drained(self, times: int) -> None:
        """While its replica is drained a model serves nobody."""
        path = f"/pools/{MODEL}/replicas/{(await self._gateway.pool())['replicas'][0]['id']}"
        (await self._gateway.admin.patch(path, json={"drain": True})).raise_for_status()
        assert {(await self._gateway.ask()).status_code for _ in range(times)} == {503}
        (await self._gateway.admin.patch(path, json={"drain": False})).raise_for_status()
