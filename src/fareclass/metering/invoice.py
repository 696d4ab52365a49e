"""What a project owes for a month: lines whose sum is the invoice, to the last digit (R34, R36)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import msgspec
from sqlalchemy import Connection

from fareclass.core.limits import USAGE_ROWS
from fareclass.core.money import usd
from fareclass.core.snapshot import Burndown, PriceBook
from fareclass.core.tiers import BY_WORD, Tier
from fareclass.core.usage import KINDS, Usage
from fareclass.metering.report import ReportError
from fareclass.store.entries import Filters, totals

_GROUP = ("project", "model", "served_tier", "spilled", "book_version")
_GROUPS = 20 * USAGE_ROWS
"""Sums that are read for the lines of all invoices."""
Books = Mapping[tuple[str, int], PriceBook]
"""By model and version."""


class Fee(msgspec.Struct, frozen=True, kw_only=True):
    """What a reservation came to in the month. `minutes` are whole ones in force, `floor_…` all tokens of its floor."""

    reservation: str
    project: str
    model: str
    input_tpm: int
    output_tpm: int
    minute_pico: int
    minutes: int
    floor_input: int
    floor_output: int
    pico: int


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `amount` is an exact number of USD.

    `kind` is `reservation`: its fixed fee, `hourly_usd` for each hour of its `minutes` in force, and the share of its
    floor that was used (of several on a model, of all together); `usage`: tokens of a kind at a served tier, with the
    price of 1 M where only one was in force; `overflow`: the same of requests beyond a floor; or `credit`: tokens
    above that were not charged, since their answers could not be delivered.
    """

    kind: str
    model: str
    reservation: str | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    minutes: int | None = None
    hourly_usd: str | None = None
    input_utilisation: str | None = None
    output_utilisation: str | None = None
    served_tier: str | None = None
    token_kind: str | None = None
    quantity: int | None = None
    unit_price: str | None = None
    amount: str


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a project owes for a month of UTC, `until` now where it is not over. `total` is the sum of the amounts."""

    project: str
    project_name: str
    month: str
    until: datetime
    lines: list[Line]
    total: str


class Bill(msgspec.Struct, frozen=True):
    """Lines of one project, and their sum in 10⁻¹² USD."""

    lines: list[Line]
    pico: int


def bills(
    connection: Connection,
    filters: Filters,
    fees: Iterable[Fee],
    books: Books,
    burndowns: Mapping[str, Burndown],
) -> dict[str, Bill]:
    """What each project owes for its reservations (`fees`) and its usage in a time.

    Raises:
        ReportError: more lines than a report may have.
    """
    used: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rows = totals(connection, filters, _GROUP, limit=_GROUPS)
    if len(rows) > _GROUPS:
        raise ReportError("project", "the invoices are of too much at once: ask for one project")
    for row in rows:
        used.setdefault((row["project"], row["model"]), []).append(row)
    of_fees: dict[tuple[str, str], list[Fee]] = {}
    for fee in fees:
        of_fees.setdefault((fee.project, fee.model), []).append(fee)
    found: dict[str, Bill] = {}
    for place in sorted(used.keys() | of_fees.keys()):
        project, model = place
        rows, its_fees = used.get(place, []), of_fees.get(place, [])
        lines, pico = _usage_lines(model, rows, books)
        fee_lines = _fee_lines(its_fees, rows, burndowns.get(model, Burndown()))
        before = found.get(project, Bill([], 0))
        pico += before.pico + sum(fee.pico for fee in its_fees)
        found[project] = Bill([*before.lines, *fee_lines, *lines], pico)
    if sum(len(bill.lines) for bill in found.values()) > USAGE_ROWS:
        raise ReportError("project", f"the invoices have more than {USAGE_ROWS} lines: ask for one project")
    return {project: bill for project, bill in found.items() if bill.lines}


def _fee_lines(fees: Sequence[Fee], rows: Sequence[Mapping[str, Any]], weights: Burndown) -> list[Line]:
    """Several reservations on a model are one floor, of which the same share was used."""
    inside = [row for row in rows if row["served_tier"] == Tier.RESERVED.word]
    usage = Usage(**{kind: sum(row[kind] for row in inside) for kind in KINDS})
    shares = [
        _share(weights.floor_input(usage), sum(fee.floor_input for fee in fees)),
        _share(usage.output * weights.output, sum(fee.floor_output for fee in fees)),
    ]
    return [
        Line(
            kind="reservation",
            model=fee.model,
            reservation=fee.reservation,
            input_tpm=fee.input_tpm,
            output_tpm=fee.output_tpm,
            minutes=fee.minutes,
            hourly_usd=usd(fee.minute_pico * 60),
            input_utilisation=shares[0],
            output_utilisation=shares[1],
            amount=usd(fee.pico),
        )
        for fee in fees
    ]


def _share(hundredths: int, tokens: int) -> str | None:
    if not tokens:
        return None
    return str((Decimal(hundredths) / (100 * tokens)).quantize(Decimal("0.0001"), ROUND_HALF_EVEN))


def _usage_lines(model: str, rows: Sequence[Mapping[str, Any]], books: Books) -> tuple[list[Line], int]:
    """Lines of one project's usage of a model, and the sum of what its requests cost."""
    groups: dict[tuple[bool, Tier], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((bool(row["spilled"]), BY_WORD[row["served_tier"]]), []).append(row)
    lines, listed = [], 0
    for (spilled, tier), group in sorted(groups.items()):
        for place, kind in enumerate(KINDS):
            sold = [(row[kind], _rate(books, model, row, tier, place)) for row in group if row[kind]]
            if sold:
                rates = {rate for _, rate in sold}
                pico = sum(tokens * rate for tokens, rate in sold)
                listed += pico
                lines.append(
                    Line(
                        kind="overflow" if spilled else "usage",
                        model=model,
                        served_tier=tier.word,
                        token_kind=kind,
                        quantity=sum(tokens for tokens, _ in sold),
                        unit_price=usd(rates.pop() * 10**6) if len(rates) == 1 else None,
                        amount=usd(pico),
                    )
                )
    cost = sum(row["cost"] for row in rows)
    if cost != listed:
        lines.append(Line(kind="credit", model=model, amount=usd(cost - listed)))
    return lines, cost


def _rate(books: Books, model: str, row: Mapping[str, Any], tier: Tier, place: int) -> int:
    """10⁻¹² USD a token by the book that its requests were priced by; 0 where that is not there any more."""
    book = books.get((model, row["book_version"]))
    return 0 if book is None else book.rates[tier][place]
