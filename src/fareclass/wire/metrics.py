"""`/metrics`, for Prometheus (R42)."""

import asyncio
import hmac

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fareclass.telemetry.metrics import CONTENT_TYPE, Metrics


def metrics_route(metrics: Metrics, key: str | None) -> Route:
    """The page; with a key it is only for who shows it (R51)."""
    expected = None if key is None else f"Bearer {key}".encode()

    async def page(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if expected is not None and not hmac.compare_digest(expected, given):
            return Response("the admin key is needed, as `Authorization: Bearer …`\n", 401, media_type="text/plain")
        return Response(await asyncio.to_thread(metrics.render, metrics.look()), media_type=CONTENT_TYPE)

    return Route("/metrics", page)
