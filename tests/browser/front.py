"""What stands between console and gateway in these tests: it can go away, and gives plans a past that never was."""

import math
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

MODEL = "m"
_DAYS = 9
_PER_HOUR = 6
_OURS = ("host", "content-length", "transfer-encoding", "connection", "server", "date")


def office_hours(project: str) -> list[dict[str, Any]]:
    """Requests of nine days, from eight to eight alone."""
    seconds = (
        day * 86_400 + hour * 3_600 + number * 3_600 // _PER_HOUR
        for day in range(_DAYS)
        for hour in range(8, 20)
        for number in range(_PER_HOUR)
    )
    return [
        {
            "timestamp": second, "input_tokens": 9_000 + round(500 * math.sin(second)), "output_tokens": 900,
            "project": project, "model": MODEL,
        }
        for second in seconds
    ]  # fmt: skip


class Front:
    """Passes everything on to a gateway, and with each plan that is asked for the past of this project."""

    def __init__(self, gateway: str, project: str) -> None:
        self._gateway = gateway
        self._project = project
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.open()

    def open(self) -> None:
        """Serve, in a thread."""
        app = Starlette(
            routes=[Route("/{path:path}", self._pass_on, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])]
        )
        config = uvicorn.Config(app, port=self._port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._client = httpx.AsyncClient(base_url=self._gateway, timeout=60)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            self._thread.join(0.02)

    def close(self) -> None:
        """Nobody listens there any more."""
        self._server.should_exit = True
        self._thread.join(20)

    async def _pass_on(self, request: Request) -> Response:
        target = f"{request.url.path}?{request.url.query}"
        headers = {name: value for name, value in request.headers.items() if name not in _OURS}
        body: dict[str, Any] = {"content": await request.body()}
        if request.url.path == "/admin/v1/plan":
            assert "from" not in await request.json(), "the page's first span is the planner's own"
            body = {"json": {"trace": office_hours(self._project)}}
        asked = self._client.build_request(request.method, target, headers=headers, **body)
        answer = await self._client.send(asked, stream=True)

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        told = {name: value for name, value in answer.headers.items() if name not in _OURS}
        return StreamingResponse(parts(), answer.status_code, told)
