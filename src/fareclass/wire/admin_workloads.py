"""Workloads over HTTP: named uses that keys take their terms from (R41)."""

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.control import Control
from fareclass.flow.workloads import Workloads
from fareclass.store.records import WorkloadRecord
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, page, path_part, read_body, read_query


class WorkloadAdmin:
    """Turns HTTP into commands of `Workloads`, as `Admin` does for `Control`."""

    def __init__(self, control: Control) -> None:
        self._workloads = Workloads(control)

    def operations(self) -> list[Operation]:
        """What the control plane can do with workloads."""
        one, result = "/workloads/{workload}", WorkloadRecord
        listed = partial(Operation, query=types.Page, many=True)
        return [
            listed("GET", "/workloads", self.list_workloads, "List workloads", result),
            Operation("GET", one, self.get_workload, "Show a workload", result),
            Operation("PUT", one, self.put_workload, "Make or replace a workload", result, types.WorkloadIn),
            Operation("DELETE", one, self.delete_workload, "Delete a workload that no key uses", result),
        ]

    async def list_workloads(self, request: Request) -> Response:
        part = read_query(request, types.Page)
        found = await asyncio.to_thread(self._workloads.page, after=part.after, limit=part.limit + 1)
        return page(found, part.limit, "name")

    async def get_workload(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._workloads.get, path_part(request, "workload")))

    async def put_workload(self, request: Request) -> Response:
        body = await read_body(request, types.WorkloadIn)
        return answer(
            await asyncio.to_thread(
                self._workloads.put,
                ACTOR,
                path_part(request, "workload"),
                shape=body.shape,
                default_tier=body.default_tier,
                overflow=body.overflow,
                escalation=None if body.escalation is None else body.escalation.record(),
            )
        )

    async def delete_workload(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._workloads.delete, ACTOR, path_part(request, "workload")))
