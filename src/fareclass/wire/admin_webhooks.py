"""Webhooks over HTTP (R47): where a project's events go, and what became of each."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.webhooks import DeliveryView, WebhookMade, Webhooks, WebhookView
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, page, path_part, read_body, read_query


class WebhookAdmin:
    """Turns HTTP into commands of `Webhooks`."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    def operations(self) -> list[Operation]:
        """What the control plane can do with webhooks."""
        at, deliveries = "/projects/{project}/webhooks", "/projects/{project}/webhooks/deliveries"
        one, op = deliveries + "/{delivery}", Operation
        listed = "List a project's events, newest first"
        return [
            op("GET", at, self.show, "Show a project's webhook", WebhookView),
            op("PUT", at, self.put, "Set a project's webhook", WebhookMade, types.WebhookIn),
            op("DELETE", at, self.clear, "Send a project's events nowhere", WebhookView),
            op("POST", at + "/test", self.test, "Send a test event", DeliveryView),
            op("GET", deliveries, self.deliveries, listed, DeliveryView, query=types.Page, many=True),
            op("GET", one, self.delivery, "Show how an event stands", DeliveryView),
            op("POST", one + "/replay", self.replay, "Send an event again", DeliveryView),
        ]

    async def show(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._webhooks.get, path_part(request, "project")))

    async def put(self, request: Request) -> Response:
        given = await read_body(request, types.WebhookIn)
        project = path_part(request, "project")
        return answer(
            await asyncio.to_thread(self._webhooks.set, ACTOR, project, given.url, given.events, rotate=given.rotate)
        )

    async def clear(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._webhooks.clear, ACTOR, path_part(request, "project")))

    async def test(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._webhooks.test, ACTOR, path_part(request, "project")))

    async def deliveries(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        project = path_part(request, "project")
        found = await asyncio.to_thread(self._webhooks.deliveries, project, before=part.after, limit=part.limit + 1)
        return page(found, part.limit, "id")

    async def delivery(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._webhooks.delivery, *_which(request)))

    async def replay(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._webhooks.replay, ACTOR, *_which(request)))


def _which(request: Request) -> tuple[str, str]:
    return path_part(request, "project"), path_part(request, "delivery")
