"""The control plane over HTTP: `/admin/v1/…`, each command behind the admin key, or the read-only key.

One table, `all_operations`, says what there is; the routes and the OpenAPI document are both
made of it.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec import structs
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fareclass.config import Price
from fareclass.flow.batch_roots import BatchRoots
from fareclass.flow.batches import Batches
from fareclass.flow.control import Control
from fareclass.flow.key_terms import KeyTerms
from fareclass.flow.operator_rules import ControlError, tier_of
from fareclass.flow.planning import Planning
from fareclass.flow.pools import Pools
from fareclass.flow.spending import Spending
from fareclass.flow.webhooks import Webhooks
from fareclass.store.records import AuditRecord, BookRecord, KeyRecord, ProjectRecord, QuotaRecord
from fareclass.wire import admin_types as types
from fareclass.wire.admin_batch_roots import BatchRootAdmin
from fareclass.wire.admin_batches import BatchAdmin
from fareclass.wire.admin_budgets import BudgetAdmin
from fareclass.wire.admin_guard import Guard
from fareclass.wire.admin_http import (
    ACTOR,
    Operation,
    answer,
    page,
    path_part,
    read_body,
    read_query,
    refuse,
)
from fareclass.wire.admin_openapi import document
from fareclass.wire.admin_plan import PlanAdmin
from fareclass.wire.admin_reports import ReportAdmin
from fareclass.wire.admin_reservations import ReservationAdmin
from fareclass.wire.admin_routes import RouteAdmin
from fareclass.wire.admin_webhooks import WebhookAdmin
from fareclass.wire.admin_workloads import WorkloadAdmin

PREFIX = "/admin/v1"


def admin_app(
    control: Control,
    spending: Spending,
    webhooks: Webhooks,
    roots: BatchRoots,
    pools: Pools,
    batches: Batches,
    planning: Planning,
    admin_key: str,
    read_only_key: str | None = None,
    also: Sequence[BaseRoute] = (),
) -> Starlette:
    """The control plane's ASGI application; `also` are routes that stand beside it (`/metrics`)."""
    guard = Guard(admin_key, read_only_key)
    operations = all_operations(guard, control, spending, webhooks, roots, pools, batches, planning)
    described = document(operations, PREFIX)

    async def openapi(_request: Request) -> Response:
        return answer(described)

    routes = [
        Route(PREFIX + operation.path, guard.behind(operation), methods=[operation.method]) for operation in operations
    ]
    app = Starlette(
        routes=[*routes, Route("/admin/openapi.json", openapi), *also],
        exception_handlers={
            ControlError: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            SQLAlchemyError: _store_error,
        },
    )
    app.router.redirect_slashes = False  # it would send callers to whatever host they have named
    return app


def all_operations(
    guard: Guard,
    control: Control,
    spending: Spending,
    webhooks: Webhooks,
    roots: BatchRoots,
    pools: Pools,
    batches: Batches,
    planning: Planning,
) -> list[Operation]:
    """Everything that the control plane can do."""
    parts = (
        guard,
        Admin(control, pools),
        ReportAdmin(control),
        PlanAdmin(planning),
        BudgetAdmin(spending),
        WorkloadAdmin(control),
        RouteAdmin(control),
        ReservationAdmin(control, pools),
        WebhookAdmin(webhooks),
        BatchRootAdmin(roots),
        BatchAdmin(control, batches),
    )
    return [operation for part in parts for operation in part.operations()]


class Admin:
    """Turns HTTP into commands of `Control`, which run in threads since the store is synchronous."""

    def __init__(self, control: Control, pools: Pools) -> None:
        self._control = control
        self._pools = pools

    def operations(self) -> list[Operation]:
        """What stands in this file."""
        op = Operation
        project, key, quota, book = ProjectRecord, KeyRecord, QuotaRecord, BookRecord
        listed = partial(Operation, query=types.Page, many=True)
        owned = partial(Operation, query=types.ProjectPage, many=True)
        at_quota, at_replica = "/quotas/{project}/{model:path}", "/pools/{model:path}/replicas/{replica}"
        return [
            listed("GET", "/projects", self.list_projects, "List projects", project),
            op("POST", "/projects", self.create_project, "Make a project", project, types.ProjectIn, status=201),
            op("GET", "/projects/{project}", self.get_project, "Show a project", project),
            op("PATCH", "/projects/{project}", self.update_project, "Change a project", project, types.ProjectPatch),
            owned("GET", "/keys", self.list_keys, "List keys, revoked ones too", key),
            op("POST", "/keys", self.create_key, "Make a key", types.KeyMade, types.KeyIn, status=201),
            op("GET", "/keys/{key}", self.get_key, "Show a key", key),
            op("PATCH", "/keys/{key}", self.update_key, "Change a key", key, types.KeyPatch),
            op("DELETE", "/keys/{key}", self.revoke_key, "Revoke a key", key),
            owned("GET", "/quotas", self.list_quotas, "List quotas", quota),
            op("PUT", at_quota, self.set_quota, "Set a project's quota on a model", quota, types.QuotaIn),
            op("GET", "/prices", self.list_prices, "Prices in force", book, many=True),
            listed("GET", "/prices/{model:path}", self.list_versions, "A model's prices, newest first", book),
            op("PUT", "/prices/{model:path}", self.set_prices, "Set a model's prices", book, types.PricesIn),
            op("GET", "/pools", self.list_pools, "Replicas and queues", types.Pool, query=types.PoolsQuery, many=True),
            op("PATCH", at_replica, self.change_replica, "Change a replica", types.Replica, types.ReplicaPatch),
            listed("GET", "/audit", self.list_audit, "Every change, newest first", AuditRecord),
        ]

    async def list_projects(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        found = await asyncio.to_thread(self._control.projects, after=part.after, limit=part.limit + 1)
        return page(found, part.limit, "id")

    async def create_project(self, request: Request) -> Response:
        body = await read_body(request, types.ProjectIn)
        return answer(await asyncio.to_thread(self._control.create_project, ACTOR, body.name, body.weight), 201)

    async def get_project(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._control.project, path_part(request, "project")))

    async def update_project(self, request: Request) -> Response:
        body = await read_body(request, types.ProjectPatch)
        ref = path_part(request, "project")
        return answer(await asyncio.to_thread(self._control.update_project, ACTOR, ref, body.name, body.weight))

    async def list_keys(self, request: Request) -> Response:
        part = read_query(request, types.ProjectPage)
        found = await asyncio.to_thread(
            self._control.keys, project=part.project, after=part.after, limit=part.limit + 1
        )
        return page(found, part.limit, "id")

    async def create_key(self, request: Request) -> Response:
        body = await read_body(request, types.KeyIn)
        terms = _key_terms(body)
        record, secret = await asyncio.to_thread(self._control.create_key, ACTOR, body.project, body.name, terms)
        return answer(types.KeyMade(**structs.asdict(record), secret=secret), 201)

    async def get_key(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._control.key, path_part(request, "key")))

    async def update_key(self, request: Request) -> Response:
        body = await read_body(request, types.KeyPatch)
        ref = path_part(request, "key")
        return answer(await asyncio.to_thread(self._control.update_key, ACTOR, ref, _key_terms(body), body.name))

    async def revoke_key(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._control.revoke_key, ACTOR, path_part(request, "key")))

    async def list_quotas(self, request: Request) -> Response:
        part = read_query(request, types.ProjectPage)
        project, _, model = part.after.partition("/")
        found = await asyncio.to_thread(
            self._control.quotas, project=part.project, after=(project, model), limit=part.limit + 1
        )
        return page(found, part.limit, "place")

    async def set_quota(self, request: Request) -> Response:
        body = await read_body(request, types.QuotaIn)
        project, model = path_part(request, "project"), path_part(request, "model")
        limits = structs.asdict(body)
        share = limits.pop("priority_share")
        return answer(await asyncio.to_thread(self._control.set_quota, ACTOR, project, model, limits, share))

    async def list_prices(self, request: Request) -> Response:
        read_query(request, types.NoQuery)
        books = await asyncio.to_thread(self._control.prices)
        return page(books, len(books), "version")

    async def list_versions(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        found = await asyncio.to_thread(
            self._control.price_versions, path_part(request, "model"), before=_number(part.after), limit=part.limit + 1
        )
        return page(found, part.limit, "version")

    async def set_prices(self, request: Request) -> Response:
        body = await read_body(request, types.PricesIn)
        given = structs.asdict(body)
        tiers = given.pop("tiers")
        reserved = given.pop("reserved_input"), given.pop("reserved_output")
        model = path_part(request, "model")
        return answer(await asyncio.to_thread(self._control.set_prices, ACTOR, model, Price(**given), tiers, reserved))

    async def list_pools(self, request: Request) -> Response:
        wanted = read_query(request, types.PoolsQuery)
        try:
            pools = self._pools.describe(wanted.model)
        except LookupError:
            raise ControlError("not_found", f"no model {wanted.model!r}", "model") from None
        return page(pools, len(pools), "model")

    async def change_replica(self, request: Request) -> Response:
        """Audited before it is done: a change that is then refused is audited as refused."""
        body = await read_body(request, types.ReplicaPatch)
        model, replica = path_part(request, "model"), path_part(request, "replica")
        words = body.tiers
        if words is not None:
            words = [tier_of(word, f"tiers[{place}]").word for place, word in enumerate(words)]
        wanted = {"drain": body.drain, "tiers": words, "slots": body.slots}
        target = f"{model}/{replica}"
        try:
            before = _replica(self._pools.describe(model), replica)
            await self._note("replica.change", target, before, wanted)
            return answer(await self._pools.change(model, replica, drain=body.drain, tiers=words, slots=body.slots))
        except LookupError:
            raise ControlError("not_found", f"no replica {replica!r} of model {model!r}", "replica") from None
        except ValueError as error:
            await self._note("replica.change_refused", target, wanted, None)
            raise ControlError("invalid", str(error)) from None

    async def _note(self, action: str, target: str, before: object, after: object) -> None:
        await asyncio.to_thread(self._control.note_change, ACTOR, action, target, before, after)

    async def list_audit(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        found = await asyncio.to_thread(self._control.audit, before=_number(part.after), limit=part.limit + 1)
        return page(found, part.limit, "id")


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return refuse(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    response = refuse(ControlError(code, f"{request.method} {request.url.path[:200]}: {error.detail}"))
    response.headers.update(error.headers or {})
    return response


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)


async def _store_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, IntegrityError):
        return refuse(ControlError("already_exists", "another command made the same object at the same time"))
    if isinstance(error, DataError):
        return refuse(ControlError("invalid", "the database can't hold one of these values"))
    return refuse(ControlError("unavailable", "the database can't be used right now; nothing was changed; try again"))


def _key_terms(body: types.KeyIn | types.KeyPatch) -> KeyTerms:
    rule = body.escalation
    return KeyTerms(
        default_tier=body.default_tier,
        allowed_tiers=body.allowed_tiers,
        tags=body.tags,
        workload=body.workload,
        escalation=rule.record() if isinstance(rule, types.EscalationIn) else rule,
    )


def _replica(pools: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    for pool in pools:
        for replica in pool["replicas"]:
            if replica["id"] == name:
                found: dict[str, Any] = replica
                return found
    raise LookupError(name)


def _number(after: str) -> int | None:
    if not after:
        return None
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise ControlError("invalid", "after must be the `next` of another page", "after")
    return int(after)
