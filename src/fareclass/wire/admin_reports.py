"""Reports over HTTP, as JSON or CSV: usage, tier board, percentiles, invoices (R36, R42, R43)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field
from starlette.requests import Request
from starlette.responses import Response

from fareclass.core.limits import REPORTS_RUNNING
from fareclass.flow.clock import now_us
from fareclass.flow.control import Control
from fareclass.flow.operator_rules import ControlError
from fareclass.flow.reporting import Reports, UsageQuery
from fareclass.metering.board import TierRow
from fareclass.metering.invoice import Invoice, Line
from fareclass.metering.percentiles import PercentileRow
from fareclass.metering.report import UsageRow
from fareclass.wire.admin_http import Operation, micros, page, read_query, while_there
from fareclass.wire.admin_types import Moment
from fareclass.wire.csv_table import columns_of, csv_answer

Step = Annotated[int, Meta(ge=1, le=366 * 86_400)]
_LIVE_US = 600 * 1_000_000
"""A report of no more than so long until now is quick."""
_OF_INVOICE = ("project", "project_name", "month")


class ReportParams(Struct, kw_only=True, forbid_unknown_fields=True):
    """As JSON or CSV."""

    format: Literal["json", "csv"] = "json"


class PercentileParams(ReportParams):
    """Of one project and model or all. Times are cut to whole minutes; without any the last 30 days."""

    project: str | None = None
    model: str | None = None
    from_: Moment | None = field(default=None, name="from")
    to: Moment | None = None


class TierParams(ReportParams):
    """Of one project and model or all. `step` is in seconds.

    `from` is the first moment, `to` the first one after it; they count by the end of each request.
    """

    project: str | None = None
    model: str | None = None
    from_: Moment | None = field(default=None, name="from")
    to: Moment | None = None
    step: Step | None = None


class UsageParams(TierParams):
    """What to sum. `by` is a comma-separated list of project, key, model, route, workload, outcome, tag:NAME; `step` is in seconds.

    `from` is the first moment, `to` the first one after it; they count by the end of each request.
    """

    key: str | None = None
    tag: Annotated[str, Meta(description="NAME:VALUE")] | None = None
    by: str = ""


class InvoiceParams(ReportParams):
    """A month of UTC, of one project or of each that owes anything."""

    month: Annotated[str, Meta(description="YYYY-MM")]
    project: str | None = None


class ReportAdmin:
    """Turns HTTP into reports, which are read and written out in threads, `REPORTS_RUNNING` at once; the others wait.

    Those of the last minutes, which live pictures ask for again and again, wait for nobody's long ones.
    """

    def __init__(self, control: Control) -> None:
        self._reports = Reports(control)
        self._room, self._live = (asyncio.Semaphore(REPORTS_RUNNING) for _ in range(2))

    def operations(self) -> list[Operation]:
        """What the control plane can report."""
        return [
            Operation("GET", "/usage", self.usage, "Usage and cost", UsageRow, query=UsageParams, many=True),
            Operation("GET", "/tiers", self.tiers, "What each tier got", TierRow, query=TierParams, many=True),
            Operation(
                "GET",
                "/percentiles",
                self.percentiles,
                "Tokens a minute, in burn-down units",
                PercentileRow,
                query=PercentileParams,
                many=True,
            ),
            Operation(
                "GET",
                "/invoices",
                self.invoices,
                "What projects owe for a month",
                Invoice,
                query=InvoiceParams,
                many=True,
            ),
        ]

    async def usage(self, request: Request) -> Response:
        params = read_query(request, UsageParams)
        name, colon, value = (params.tag or "").partition(":")
        if params.tag is not None and not (name and colon):
            raise ControlError("invalid", "must be NAME:VALUE", "tag")
        by = [word.strip() for word in params.by.split(",") if word.strip()]
        query = msgspec.structs.replace(
            _query(params), key=params.key, tag=(name, value) if name else None, step_s=params.step, by=by
        )
        return await self._made(request, query, lambda: _answer(self._reports.usage(query), UsageRow, params.format))

    async def tiers(self, request: Request) -> Response:
        params = read_query(request, TierParams)
        query = msgspec.structs.replace(_query(params), step_s=params.step)
        return await self._made(request, query, lambda: _answer(self._reports.tiers(query), TierRow, params.format))

    async def percentiles(self, request: Request) -> Response:
        params = read_query(request, PercentileParams)
        query = _query(params)
        return await self._made(
            request, query, lambda: _answer(self._reports.percentiles(query), PercentileRow, params.format)
        )

    async def invoices(self, request: Request) -> Response:
        params = read_query(request, InvoiceParams)
        return await self._made(
            request, None, lambda: _bills(self._reports.invoices(params.project, params.month), params.format)
        )

    async def _made(self, request: Request, query: UsageQuery | None, make: Callable[[], Response]) -> Response:
        """Whose caller has hung up is not made any more, or no longer waited for if it is being made."""
        live = query is not None and query.from_us is not None and query.from_us >= now_us() - _LIVE_US
        await request.body()
        return await while_there(request, _in_turn(self._live if live else self._room, make))


async def _in_turn(room: asyncio.Semaphore, make: Callable[[], Response]) -> Response:
    """One place for one thread: a thread can't be ended, so its place is taken until it is through."""
    await room.acquire()
    thread = asyncio.create_task(asyncio.to_thread(make))
    thread.add_done_callback(lambda _: room.release())
    return await asyncio.shield(thread)


def _query(params: TierParams | PercentileParams) -> UsageQuery:
    return UsageQuery(project=params.project, model=params.model, from_us=micros(params.from_), to_us=micros(params.to))


def _answer(rows: Sequence[Struct], kind: type[Struct], form: str) -> Response:
    if form == "json":
        return page(rows, len(rows), "start")
    return csv_answer(map(msgspec.to_builtins, rows), columns_of(kind))


def _bills(invoices: Sequence[Invoice], form: str) -> Response:
    if form == "json":
        return page(invoices, len(invoices), "project")
    rows = (
        {name: getattr(invoice, name) for name in _OF_INVOICE} | msgspec.to_builtins(line)
        for invoice in invoices
        for line in invoice.lines
    )
    return csv_answer(rows, [*_OF_INVOICE, *columns_of(Line)])
