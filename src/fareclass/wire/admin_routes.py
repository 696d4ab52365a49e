"""Routes over HTTP: public names that stand for several models (R45)."""

import asyncio
from decimal import Decimal
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from fareclass.core.limits import PRICE_USD, ROUTE_MODELS
from fareclass.flow.control import Control
from fareclass.flow.routes import ORDERS, Routes
from fareclass.store.records import LimitsRecord, RouteModelRecord, RouteRecord, RuleRecord
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, page, path_part, read_body, read_query

Order = Annotated[str, Meta(extra_json_schema={"enum": list(ORDERS)})]
BlendedUsd = Annotated[
    Decimal,
    Meta(
        description="USD per 1M tokens of the request, input and output together, at the tier that serves it",
        extra_json_schema={"type": ["string", "number"], "minimum": 0, "maximum": PRICE_USD},
    ),
]


class LimitsIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model must be. Beyond `quality_min` and `usd_per_1m_max` none is taken.

    The other two are measured: where no model meets them, the one that misses them least is taken.
    """

    quality_min: float | None = None
    usd_per_1m_max: BlendedUsd | None = None
    ttft_p95_ms_max: int | None = None
    tokens_per_s_min: float | None = None

    def record(self) -> LimitsRecord:
        """As they are kept, their bounds not checked yet."""
        usd = self.usd_per_1m_max
        return LimitsRecord(
            quality_min=self.quality_min,
            usd_per_1m_max=None if usd is None else str(usd),
            ttft_p95_ms_max=self.ttft_p95_ms_max,
            tokens_per_s_min=self.tokens_per_s_min,
        )


class RuleIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which model goes first."""

    order_by: Order
    limits: LimitsIn = LimitsIn()

    def record(self) -> RuleRecord:
        """As it is kept."""
        return RuleRecord(order_by=self.order_by, limits=self.limits.record())


class RouteModelIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """A model, and how good it is at what the route is for."""

    model: str
    quality: Annotated[float, Meta(description="0 to 1")] | None = None


class RouteIn(RuleIn, kw_only=True, forbid_unknown_fields=True):
    """Models and the rule that picks one for each request; another rule for a tier, or for keys of a workload."""

    models: Annotated[list[RouteModelIn], Meta(min_length=1, max_length=ROUTE_MODELS)]
    by_tier: dict[str, RuleIn] = {}
    by_workload: dict[str, RuleIn] = {}


class RouteAdmin:
    """Turns HTTP into commands of `Routes`, as `Admin` does for `Control`."""

    def __init__(self, control: Control) -> None:
        self._routes = Routes(control)

    def operations(self) -> list[Operation]:
        """What the control plane can do with routes."""
        one, result = "/routes/{route}", RouteRecord
        listed = partial(Operation, query=types.Page, many=True)
        return [
            listed("GET", "/routes", self.list_routes, "List routes", result),
            Operation("GET", one, self.get_route, "Show a route", result),
            Operation("PUT", one, self.put_route, "Make or replace a route", result, RouteIn),
            Operation("DELETE", one, self.delete_route, "Delete a route", result),
        ]

    async def list_routes(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        found = await asyncio.to_thread(self._routes.page, after=part.after, limit=part.limit + 1)
        return page(found, part.limit, "name")

    async def get_route(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._routes.get, path_part(request, "route")))

    async def put_route(self, request: Request) -> Response:
        body = await read_body(request, RouteIn)
        return answer(
            await asyncio.to_thread(
                self._routes.put,
                ACTOR,
                path_part(request, "route"),
                models=[RouteModelRecord(model=each.model, quality=each.quality) for each in body.models],
                rule=body.record(),
                by_tier={tier: rule.record() for tier, rule in body.by_tier.items()},
                by_workload={use: rule.record() for use, rule in body.by_workload.items()},
            )
        )

    async def delete_route(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._routes.delete, ACTOR, path_part(request, "route")))
