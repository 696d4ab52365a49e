"""Budgets over HTTP (R26)."""

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.spending import BudgetView, Spending
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, page, path_part, read_body, read_query


class BudgetAdmin:
    """Turns HTTP into commands of `Spending`, as `Admin` does for `Control`."""

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    def operations(self) -> list[Operation]:
        """What the control plane can do with budgets."""
        of_project, of_key = "/budgets/{project}", "/budgets/{project}/{key}"
        listed = partial(Operation, query=types.ProjectPage, many=True)
        put, clear = self.set_budget, self.clear_budget
        return [
            listed("GET", "/budgets", self.list_budgets, "List budgets, and what is left of them", BudgetView),
            Operation("PUT", of_project, put, "Set a project's budget", BudgetView, types.BudgetIn),
            Operation("PUT", of_key, put, "Set a key's budget", BudgetView, types.BudgetIn),
            Operation("DELETE", of_project, clear, "Lift a project's budget", BudgetView),
            Operation("DELETE", of_key, clear, "Lift a key's budget", BudgetView),
        ]

    async def list_budgets(self, request: Request) -> Response:
        part = read_query(request, types.ProjectPage)
        project, _, key = part.after.partition("/")
        found = await asyncio.to_thread(
            self._spending.page, project=part.project, after=(project, key), limit=part.limit + 1
        )
        return page(found, part.limit, "place")

    async def set_budget(self, request: Request) -> Response:
        body = await read_body(request, types.BudgetIn)
        project, key = _whose(request)
        return answer(await asyncio.to_thread(self._spending.set, ACTOR, project, key, body.usd, body.per))

    async def clear_budget(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._spending.clear, ACTOR, *_whose(request)))


def _whose(request: Request) -> tuple[str, str | None]:
    return path_part(request, "project"), path_part(request, "key") if "key" in request.path_params else None
