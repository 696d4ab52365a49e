"""What the console answers before any page: by whom it is asked, at which path, and how slowly (R51)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from fareclass.console import gate as gates
from fareclass.console.gate import COOKIE, Gate
from fareclass.console.session import Sessions
from fareclass.console.temporary import LEFT_AFTER, PREFIX, TemporaryKeys
from tests.unit.console.calls import ADMIN, Keys, gateway_of

HOST = "console.example"
SOCKET = "/_nicegui_ws/socket.io/"


class Asked:
    """A gate before an app that knows `/pools` and takes down what it is asked for."""

    def __init__(self, keys: Keys) -> None:
        self.paths: list[str] = []
        self.sessions = Sessions(lambda _: None)
        self.gate = Gate(
            self.app, gateway_of(keys), self.sessions, TemporaryKeys(), lambda scope: scope["path"] == "/pools",
            home="/pools", secure=False,
        )  # fmt: skip
        self.token = self.sessions.begin(ADMIN, "admin")
        session = self.sessions.find(self.token)
        assert session is not None
        session.pages.add("page")

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    def http(self, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.gate)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=headers)

    async def socket(self, origin: str, path: str = SOCKET) -> str:
        """What a WebSocket for the session's page is answered."""
        told: list[str] = []
        named = {"host": HOST, "origin": origin, "cookie": f"{COOKIE}={self.token}"}
        headers = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "websocket", "path": path, "query_string": b"client_id=page", "headers": headers}

        async def send(message: Any) -> None:
            told.append(message["type"])

        await self.gate(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
        return told[0]


@pytest.fixture
def keys() -> Keys:
    return Keys((f"{PREFIX}left", (datetime.now(UTC) - 2 * LEFT_AFTER).isoformat()))


@pytest.fixture
def asked(keys: Keys) -> Asked:
    return Asked(keys)


@pytest.mark.parametrize("origin", ["http://[", "http://", f"http://{HOST}.evil", f"ftp://{HOST}", HOST, ""])
async def test_what_is_no_origin_of_the_console_is_refused(asked: Asked, origin: str):
    async with asked.http(origin=origin) as client:
        assert (await client.post("/login", data={"key": ADMIN})).status_code == 403
    assert await asked.socket(origin) == "websocket.close"
    assert asked.paths == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_its_own_origin_is_taken_also_behind_a_proxy_that_does_tls(asked: Asked, scheme: str):
    async with asked.http(origin=f"{scheme}://{HOST}") as client:
        assert (await client.post("/login", data={"key": ADMIN})).status_code == 303
    assert await asked.socket(f"{scheme}://{HOST}") == "websocket.accept"


@pytest.mark.parametrize("path", ["/_nicegui_ws/../socket.io/", "/_nicegui_ws/./socket.io/", "/_nicegui_ws/", "/pools"])
async def test_a_socket_is_at_its_one_path(asked: Asked, path: str):
    assert await asked.socket(f"http://{HOST}", path) == "websocket.close"
    assert asked.paths == []


async def test_of_an_unknown_path_no_page_is_made(asked: Asked):
    async with asked.http(cookie=f"{COOKIE}={asked.token}") as client:
        answer = await client.get("/nowhere")
        assert (await client.get("/pools")).status_code == 200
    assert answer.status_code == 404 and 'href="/"' in answer.text
    assert answer.headers["content-security-policy"]
    assert asked.paths == ["/pools"]


async def test_a_form_that_does_not_come_to_its_end_is_given_up(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gates, "HEAD_READ_S", 0.01)

    async def half() -> AsyncIterator[bytes]:
        yield b"key="
        await asyncio.Event().wait()

    received = httpx.Request("POST", f"http://{HOST}/login", content=half())
    async with asked.http(origin=f"http://{HOST}") as client, asyncio.timeout(10):
        received.headers.update({"origin": f"http://{HOST}"})
        assert (await client.send(received)).status_code == 408


async def test_an_admins_login_revokes_what_the_playground_left(asked: Asked, keys: Keys):
    async with asked.http(origin=f"http://{HOST}") as client:
        await client.post("/login", data={"key": ADMIN})
    async with asyncio.timeout(10):
        await keys.changed.wait()
    assert keys.revoked == [f"{PREFIX}left"]
