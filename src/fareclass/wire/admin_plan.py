"""Plans over HTTP (R44): `POST /admin/v1/plan`. It changes nothing, so the read-only key may ask for one, too."""

import math
from typing import Annotated

from msgspec import Meta, Struct, field
from starlette.requests import Request
from starlette.responses import Response

from fareclass.core.limits import MODEL_CHARS, PLAN_BODY_BYTES, PLAN_TRACE_ROWS, TRACE_TOKENS
from fareclass.core.tiers import Tier
from fareclass.flow.operator_rules import ControlError, tier_of
from fareclass.flow.planning import Planning, PlanQuery
from fareclass.planner.advice import PlanRow
from fareclass.planner.trace import Arrival
from fareclass.wire.admin_http import Operation, micros, page, read_body, while_there
from fareclass.wire.admin_types import Moment

Tokens = Annotated[int, Meta(ge=0, le=TRACE_TOKENS)]
Name = Annotated[str, Meta(max_length=MODEL_CHARS)]
_LATEST_S = 253_402_300_799
"""The end of the year 9999."""


class TraceRow(Struct, kw_only=True, forbid_unknown_fields=True):
    """One request of a trace; `timestamp` in seconds, none before the row before."""

    timestamp: Annotated[float, Meta(ge=0, le=_LATEST_S)]
    input_tokens: Tokens
    output_tokens: Tokens
    cache_read_tokens: Tokens = 0
    project: Name = "trace"
    model: Name = ""
    tier: str | None = None


class PlanIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """Of one project and model or all, by id or name, out of the ledger.

    Without `from` it begins with the first request of the last 30 days.
    `trace` replaces the ledger: these requests are planned for, at the prices of `model` or of each one's own.
    """

    project: str | None = None
    model: str | None = None
    from_: Moment | None = field(default=None, name="from")
    to: Moment | None = None
    trace: Annotated[list[TraceRow], Meta(min_length=1, max_length=PLAN_TRACE_ROWS)] | None = None


class PlanAdmin:
    """Turns HTTP into a plan."""

    def __init__(self, planning: Planning) -> None:
        self._planning = planning

    def operations(self) -> list[Operation]:
        """What stands in this file."""
        summary = "Advise what to reserve, and which tier for which workload"
        return [Operation("POST", "/plan", self.plan, summary, PlanRow, PlanIn, many=True)]

    async def plan(self, request: Request) -> Response:
        body = await read_body(request, PlanIn, PLAN_BODY_BYTES)
        query = PlanQuery(
            project=body.project,
            model=body.model,
            from_us=micros(body.from_),
            to_us=micros(body.to),
            trace=None if body.trace is None else _arrivals(body.trace),
        )
        rows = await while_there(request, self._planning.plan(query))
        return page(rows, len(rows), "model")


def _arrivals(rows: list[TraceRow]) -> list[Arrival]:
    found, last_s = [], 0.0
    for number, row in enumerate(rows):
        place = f"trace[{number}]"
        if not math.isfinite(row.timestamp) or row.timestamp < last_s:
            raise ControlError("invalid", f"{place}.timestamp: must not be before the row before", f"{place}.timestamp")
        last_s = row.timestamp
        tier: Tier | None = None if row.tier is None else tier_of(row.tier, f"{place}.tier")
        found.append(
            Arrival(
                at_us=round(row.timestamp * 1_000_000),
                input=row.input_tokens,
                output=row.output_tokens,
                cache_read=row.cache_read_tokens,
                project=row.project,
                model=row.model,
                tier=tier,
            )
        )
    return found
