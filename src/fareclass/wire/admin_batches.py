"""All projects' batches over HTTP, with how far they are (R37)."""

import asyncio
from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.batches import Batches
from fareclass.flow.control import Control
from fareclass.flow.operator_rules import ControlError
from fareclass.store.objects import ENDED, BatchRow
from fareclass.store.records import moment
from fareclass.wire.admin_http import Operation, page, read_query
from fareclass.wire.admin_types import ProjectPage

WAITING, OPEN = "waiting", "open"
_ASKED = (OPEN, ENDED)


class BatchesQuery(ProjectPage):
    """Part of a list, of one project or all; only those that are open, only those that have ended, or both."""

    state: Annotated[str, Meta(extra_json_schema={"enum": list(_ASKED)})] | None = None


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """One batch and how far it is, in lines. `state` is waiting (its turn has not come), checking, running, finalizing
    or ended; `outcome` is null until then.

    `total` is 0 until its lines were counted. `ends_by` is the end of its window.
    """

    id: str
    project: str
    project_name: str
    api: str
    state: str
    outcome: str | None
    total: int
    succeeded: int
    failed: int
    cancelling: bool
    created: datetime
    started_at: datetime | None
    ended_at: datetime | None
    ends_by: datetime

    @property
    def place(self) -> str:
        """Where it stands in the list of batches."""
        return f"{round(self.created.timestamp() * 1_000_000)}/{self.id}"


class BatchAdmin:
    """Shows `Batches` to operators. Nothing of what is in them."""

    def __init__(self, control: Control, batches: Batches) -> None:
        self._control = control
        self._batches = batches

    def operations(self) -> list[Operation]:
        """What the control plane shows of batches."""
        listed = partial(Operation, query=BatchesQuery, many=True)
        return [listed("GET", "/batches", self.list_batches, "List all projects' batches, newest first", BatchView)]

    async def list_batches(self, request: Request) -> Response:
        part = read_query(request, BatchesQuery)
        if part.state is not None and part.state not in _ASKED:
            raise ControlError("invalid", f"must be {' or '.join(_ASKED)}", "state")
        project = None
        if part.project is not None:
            project = (await asyncio.to_thread(self._control.project, part.project)).id
        found = await self._batches.of_all(
            project, ended=None if part.state is None else part.state == ENDED, after=_after(part.after),
            limit=part.limit + 1,
        )  # fmt: skip
        projects = self._control.snapshot.projects
        views = [self._view(row, projects[row.project].name) for row in found]
        return page(views, part.limit, "place")

    def _view(self, row: BatchRow, name: str) -> BatchView:
        state = WAITING if self._batches.waits(row) else row.state
        return BatchView(
            id=row.id,
            project=row.project,
            project_name=name,
            api=row.api,
            state=state,
            outcome=row.result["outcome"] if row.state == ENDED and row.result else None,
            total=row.total,
            succeeded=row.succeeded,
            failed=row.failed,
            cancelling=row.cancelling_us is not None and row.state != ENDED,
            created=moment(row.created_us),
            started_at=None if row.started_us is None else moment(row.started_us),
            ended_at=None if row.ended_us is None else moment(row.ended_us),
            ends_by=moment(row.deadline_us),
        )


def _after(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    created, slash, batch = text.partition("/")
    if not (slash and created.isascii() and created.isdigit() and len(created) <= 18):
        raise ControlError("invalid", "after must be the `next` of another page", "after")
    return int(created), batch
