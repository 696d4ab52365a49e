"""The ledger's entries as the traffic that they were: what was asked, in order of arrival (R35)."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import Connection

from fareclass.core.outcomes import CALLER_ERRORS
from fareclass.store.tables import ledger

_ROWS_AT_ONCE = 10_000


def demand(
    connection: Connection, *, project: str | None, model: str | None, from_us: int, to_us: int
) -> Iterator[sa.Row[int, int, int, int, str, str, str, bool]]:
    """Requests that arrived in `[from_us, to_us)`, the first one first; None is every project, every model.

    Refused, expired and failed requests are demand, too; what could never have run is none.

    Each row: arrived_us, input (cache writes included), output, cache_read, project, model, requested_tier, streamed.
    Of requests without a first token these are the estimates of their admission. The iterator reads as it is asked:
    the connection's transaction must stay open until it ends.
    """
    entry = ledger.c
    written = entry.input + entry.cache_write_5m + entry.cache_write_1h
    query = (
        sa.select(
            entry.arrived_us,
            written.label("input"),
            entry.output,
            entry.cache_read,
            entry.project,
            entry.model,
            entry.requested_tier,
            entry.streamed,
        )
        # No request ends before it arrives, and it is `ended_us` that has an index.
        .where(entry.ended_us >= from_us, entry.arrived_us >= from_us, entry.arrived_us < to_us)
        .where(entry.outcome.not_in(CALLER_ERRORS))
        .order_by(entry.arrived_us, entry.id)
    )
    if project is not None:
        query = query.where(entry.project == project)
    if model is not None:
        query = query.where(entry.model == model)
    yield from connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))
