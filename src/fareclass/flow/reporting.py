"""Reports for operators: usage, tier board, percentiles, invoices (R36, R42, R43)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import MODEL_CHARS
from fareclass.core.money import usd
from fareclass.core.snapshot import Burndown
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.flow.clock import now_us
from fareclass.flow.compile import price_book
from fareclass.flow.control import Control
from fareclass.flow.invoicing import fees
from fareclass.flow.lookups import find_key_ids, find_project
from fareclass.flow.operator_rules import ControlError
from fareclass.metering.board import TierRow, tier_board
from fareclass.metering.invoice import Bill, Books, Invoice, bills
from fareclass.metering.percentiles import PercentileRow, percentiles
from fareclass.metering.report import Names, ReportError, UsageRow, usage_report
from fareclass.store import catalog
from fareclass.store.entries import Filters
from fareclass.store.records import moment

_MONTH = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")
_PERCENTILE_DAYS = 30
"""What percentiles are of where nobody says from when."""


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is of. Projects and keys by id or name; times in microseconds since the epoch."""

    project: str | None = None
    key: str | None = None
    model: str | None = None
    tag: tuple[str, str] | None = None
    from_us: int | None = None
    to_us: int | None = None
    step_s: int | None = None
    by: Sequence[str] = ()


class Reports:
    """Each report is of one snapshot of the database; they are synchronous and run in threads."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def usage(self, query: UsageQuery) -> list[UsageRow]:
        """What was used and what it cost (R36)."""
        with self._reading() as connection:
            names = Names(
                _project_names(connection), {record.id: record.name for record in catalog.list_keys(connection)}
            )
            filters = _filters(connection, query)
            return usage_report(connection, filters, by=query.by, step_s=query.step_s, names=names)

    def tiers(self, query: UsageQuery) -> list[TierRow]:
        """What each tier got (R42), of one project and model or all."""
        with self._reading() as connection:
            return tier_board(connection, _filters(connection, query), query.step_s)

    def percentiles(self, query: UsageQuery) -> list[PercentileRow]:
        """Of one project and model or all, over whole minutes that are past (R43); the last 30 days unless it says when."""
        now = now_us() // MINUTE_US * MINUTE_US
        to_us = min(now, now if query.to_us is None else query.to_us // MINUTE_US * MINUTE_US)
        from_us = to_us - _PERCENTILE_DAYS * DAY_US if query.from_us is None else query.from_us
        from_us = from_us // MINUTE_US * MINUTE_US
        if from_us >= to_us:
            raise ControlError("invalid", "must be at least a minute before the end, and past", "from")
        with self._reading() as connection:
            project = None if query.project is None else find_project(connection, query.project).id
            return percentiles(
                connection,
                self._burndowns(),
                project=project,
                model=query.model,
                from_us=from_us,
                to_us=to_us,
                names=_project_names(connection),
            )

    def invoices(self, project: str | None, month: str) -> list[Invoice]:
        """Of one project, or of each that owes anything, for a month of UTC (R36); until now where it is not over."""
        from_us, end_us = _month(month)
        to_us = max(from_us, min(end_us, now_us()))
        with self._reading() as connection:
            wanted = None if project is None else find_project(connection, project)
            names = _project_names(connection)
            filters = Filters(projects=None if wanted is None else [wanted.id], from_us=from_us, to_us=end_us)
            made = bills(
                connection,
                filters,
                fees(connection, None if wanted is None else wanted.id, from_us, to_us),
                self._books(connection),
                self._burndowns(),
            )
        if wanted is not None:
            made.setdefault(wanted.id, Bill([], 0))
        return [
            Invoice(
                project=owner,
                project_name=names.get(owner, owner),
                month=month,
                until=moment(to_us),
                lines=bill.lines,
                total=usd(bill.pico),
            )
            for owner, bill in sorted(made.items(), key=lambda item: names.get(item[0], item[0]))
        ]

    def _burndowns(self) -> Mapping[str, Burndown]:
        return {name: model.burndown for name, model in self._control.models.items()}

    def _books(self, connection: Connection) -> Books:
        """Every version of every price book."""
        return {
            (record.model, record.version): price_book(record.model, record)
            for record in catalog.list_books(connection, None)
        }

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._control.store.read() as connection:
                yield connection
        except ReportError as error:
            raise ControlError("invalid", str(error), error.field) from None


def _filters(connection: Connection, query: UsageQuery) -> Filters:
    project = None if query.project is None else find_project(connection, query.project).id
    return Filters(
        projects=None if project is None else [project],
        keys=None if query.key is None else find_key_ids(connection, query.key, project),
        model=query.model,
        tag=query.tag,
        from_us=query.from_us,
        to_us=query.to_us,
    )


def _project_names(connection: Connection) -> dict[str, str]:
    return {record.id: record.name for record in catalog.list_projects(connection)}


def _month(text: str) -> tuple[int, int]:
    match = _MONTH.fullmatch(text)
    if match is None:
        raise ControlError("invalid", f"must be a month such as 2026-11, not {text[:MODEL_CHARS]!r}", "month")
    year, month = int(match[1]), int(match[2])
    edges = [datetime(year, month, 1, tzinfo=UTC), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)]
    first, last = (int(edge.timestamp()) * 1_000_000 for edge in edges)
    return first, last
