"""A collector of traces on loopback, which takes them as OTLP over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """`status` is what it answers. `bodies` are what it was sent, `spans` what was in them, `resource` whose they are."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[bytes] = []
        self.headers: list[Any] = []
        self.spans: list[Span] = []
        self.resource: dict[str, object] = {}
        self.url = ""

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def below(self, span: Span) -> list[Span]:
        return [one for one in self.spans if one.parent_span_id == span.span_id]

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 200:
            self.bodies.append(body)
            self.headers.append(request.headers)
            self._decode(body)
        return web.Response(status=self.status)

    def _decode(self, body: bytes) -> None:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = values(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                assert of_scope.scope.name == "fareclass"
                self.spans += of_scope.spans


def values(told: Any) -> dict[str, object]:
    """The attributes of a span, event or resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in told.attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
