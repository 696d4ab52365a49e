"""`fareclass invoice`: what a project owes for a month."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from fareclass.cli.control_client import DEFAULT_URL, Csv, Json, Url, report
from fareclass.cli.output import show

_COLUMNS = {
    "kind": "LINE",
    "model": "MODEL",
    "what": "WHAT",
    "quantity": "QUANTITY",
    "price": "PRICE",
    "amount": "USD",
}


def register(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(invoice)


def invoice(
    project: Annotated[str | None, typer.Option(help="Only this project, by name or id.")] = None,
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="A month of UTC; this one, until now, if left out.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """What each project owes for a month: fees of reservations, tokens by model and tier, and what overflow cost.

    A reservation's line has its minutes in force, its fee for an hour, and the share of its floor that was used; the
    others tokens and the price of a million. Lines of overflow are requests beyond a floor.

    Example: fareclass invoice --month 2026-11
    """
    wanted = {"project": project, "month": month or f"{datetime.now(UTC):%Y-%m}"}
    found = report(url, ["invoices"], as_csv=as_csv, **wanted)
    if as_json or not found:
        show(found, {}, as_json=as_json)
        return
    for number, one in enumerate(found):
        typer.echo(f"{chr(10) if number else ''}{one['project_name']}, {one['month']}, until {one['until'][:16]}Z")
        show([_row(line) for line in one["lines"]], _COLUMNS, as_json=False)
        typer.echo(f"total {one['total']} USD")


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    if line["kind"] == "reservation":
        used = (line.get("input_utilisation"), line.get("output_utilisation"))
        shares = " / ".join("-" if share is None else f"{float(share):.1%}" for share in used)
        what, price = f"{line['reservation']}, {shares} used", f"{line['hourly_usd']} an hour"
        return {**line, "what": what, "quantity": f"{line['minutes']} min", "price": price}
    if line["kind"] == "credit":
        return {**line, "what": "answers that were not delivered"}
    return {**line, "what": f"{line['served_tier']} {line['token_kind']}", "price": line.get("unit_price")}
