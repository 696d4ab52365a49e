"""A gateway for the console's own code, without a network: it has keys, and knows one admin's."""

import asyncio
from typing import Any

import httpx
import msgspec

from fareclass.console.client import Gateway
from fareclass.console.settings import Settings

ADMIN = "the-admin-key"


class Keys:
    """What the gateway's control plane says of keys; `revoked` are those that were, in their order."""

    def __init__(self, *names_and_ages: tuple[str, str]) -> None:
        self.held: list[dict[str, Any]] = [
            {"id": f"key_{name}", "name": name, "created": created, "revoked_at": None}
            for name, created in names_and_ages
        ]
        self.revoked: list[str] = []
        self.changed = asyncio.Event()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"] != f"Bearer {ADMIN}":
            return httpx.Response(401, json={"error": {"code": "unauthenticated", "message": "no"}})
        if request.url.path.endswith("/self"):
            return httpx.Response(200, json={"role": "admin"})
        if request.method == "GET":
            return httpx.Response(200, json={"data": self.held, "next": None})
        if request.method == "POST":
            name = msgspec.json.decode(request.content)["name"]
            made = {"id": f"key_{name}", "name": name, "created": "2020-01-01T00:00:00Z", "revoked_at": None}
            self.held.append(made)
            return httpx.Response(201, json=made | {"secret": "s"})
        self.revoked.append(request.url.path.rpartition("/")[2].removeprefix("key_"))
        self.changed.set()
        return httpx.Response(200, json={})


def gateway_of(keys: Keys) -> Gateway:
    gateway = Gateway(Settings(gateway="http://gateway"))
    gateway._http = httpx.AsyncClient(base_url=gateway.url, transport=httpx.MockTransport(keys.answer))
    return gateway
