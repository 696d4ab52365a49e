"""A gateway with a past that it never had: before the real one, it adds a trace to each plan that is asked for."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.browser.console import MODEL

_DAYS = 9
_PER_HOUR = 20


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


@contextmanager
def with_past(gateway: str, project: str) -> Iterator[str]:
    """Serve it in a thread; yields its URL."""
    client = httpx.AsyncClient(base_url=gateway, timeout=60)

    async def forward(request: Request) -> Response:
        body: Any = await request.body()
        if request.url.path == "/admin/v1/plan":
            answer = await client.post(
                "/admin/v1/plan",
                json={"trace": office_hours(project)},
                headers={"authorization": request.headers["authorization"]},
            )
        else:
            headers = {
                name: request.headers[name] for name in ("authorization", "content-type") if name in request.headers
            }
            target = f"{request.url.path}?{request.url.query}"
            answer = await client.request(request.method, target, content=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
