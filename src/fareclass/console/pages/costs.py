"""Costs: what was spent, by whom, on what, at which tier; and the invoices."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS, base, stacked_bars
from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Column, Table, card, chart, facts, markup, show_chart
from fareclass.console.words import count, count_short, hours, percent, total, usd

_SPANS = {1: "last 24 hours", 7: "last 7 days", 30: "last 30 days", 90: "last 90 days"}
_GROUPS = {
    "project": "project",
    "key": "key",
    "model": "model",
    "route": "route",
    "workload": "workload",
    "": "tier alone",
}
_COLUMNS = (
    Column("group", "Of"),
    Column("requested", "Requested", cell="tier"),
    Column("served", "Served as", cell="tier"),
    Column("requests", "Requests", number=True),
    Column("input", "Input", number=True),
    Column("written", "Cache written", number=True),
    Column("read", "Cache read", number=True),
    Column("output", "Output", number=True),
    Column("cost", "Cost", number=True),
)


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Costs", "What was spent, by whom and at which tier. Amounts are exact, and those of the ledger.")
    explorer = _Explorer(desk)
    async with desk.looking():
        await explorer.open()
    await _Invoices(desk).open()


class _Explorer:
    """The cost explorer: a chart over time, and a table of the same."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        with card("Cost explorer"):
            with ui.element("div").classes("filters"):
                self._span = ui.select(_SPANS, label="Span", value=7)
                self._group = ui.select(_GROUPS, label="By", value="project")
                self._tag = ui.input("Or by tag: its name")
                self._project = ui.select({"": "all"}, label="Project", value="")
                self._model = ui.select({"": "all"}, label="Model", value="")
                for one in (self._span, self._group, self._tag, self._project, self._model):
                    one.props("outlined dense")
            with ui.element("div").classes("row-head"):
                self._facts = markup().classes("grow")
                ui.button("CSV", icon="download", on_click=self._download).props("flat dense")
            self._chart = chart(base(), height_px=240, label="Cost over time by tier")
            self._table = Table(_COLUMNS, empty="Nothing was used in this span.", label="Costs")
        for choice in (self._span, self._group, self._project, self._model):
            choice.on_value_change(self._again)
        self._tag.on("change", self._again)

    async def open(self) -> None:
        projects = {one["id"]: one["name"] for one in await self._desk.control.pages("projects")}
        self._project.set_options({"": "all"} | projects)
        self._model.set_options(
            {"": "all"} | {pool["model"]: pool["model"] for pool in await self._desk.control.rows("pools")}
        )
        await self._refresh()

    async def _again(self) -> None:
        async with self._desk.looking():
            await self._refresh()

    async def _refresh(self) -> None:
        begin, step_s = _span(self._span.value)
        group, asked = self._by(), self._asked()
        rows, over_time = await asyncio.gather(
            self._desk.control.rows("usage", **asked, by=group or None),
            self._desk.control.rows("usage", **asked, step=step_s),
        )
        rows.sort(key=lambda row: total([row["cost"]]), reverse=True)
        self._table.show([_row(row, group) for row in rows])
        self._facts.content = facts(_sums(rows))
        show_chart(self._chart, _over_time(over_time, begin, step_s))

    async def _download(self) -> None:
        async with self._desk.looking():
            raw = await self._desk.control.csv("usage", **self._asked(), by=self._by() or None)
            ui.download.content(raw, "usage.csv", "text/csv")

    def _asked(self) -> dict[str, str | None]:
        begin, _ = _span(self._span.value)
        return {"project": self._project.value or None, "model": self._model.value or None, "from_": begin.isoformat()}

    def _by(self) -> str:
        tag = (self._tag.value or "").strip()
        return f"tag:{tag}" if tag else str(self._group.value)


class _Invoices:
    """What each project owes for a month: fees of reservations, and use."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        months = _months()
        with card("Invoices"):
            with ui.element("div").classes("filters"):
                self._month = ui.select(months, label="Month (UTC)", value=months[0])
                self._month.props("outlined dense")
                self._project = ui.select({"": "all"}, label="Project", value="")
                self._project.props("outlined dense")
            self._place = ui.element("div").style("display:contents")
        for choice in (self._month, self._project):
            choice.on_value_change(self._again)

    async def open(self) -> None:
        async with self._desk.looking():
            projects = {one["id"]: one["name"] for one in await self._desk.control.pages("projects")}
            self._project.set_options({"": "all"} | projects)
            await self._refresh()

    async def _again(self) -> None:
        async with self._desk.looking():
            await self._refresh()

    async def _refresh(self) -> None:
        invoices = await self._desk.control.rows(
            "invoices", month=self._month.value, project=self._project.value or None
        )
        self._place.clear()
        with self._place:
            if not any(invoice["lines"] for invoice in invoices):
                ui.label("Nothing is owed for this month.").classes("empty")
            for invoice in invoices:
                if invoice["lines"]:
                    _draw_invoice(invoice)


_LINE_COLUMNS = (
    Column("kind", "Line"),
    Column("model", "Model"),
    Column("tier", "Tier", cell="tier"),
    Column("what", "Of"),
    Column("quantity", "Quantity", number=True),
    Column("price", "Price", number=True),
    Column("use", "Used, in / out", number=True),
    Column("amount", "Amount", number=True),
)


def _draw_invoice(invoice: dict[str, Any]) -> None:
    with ui.element("div").classes("row-head"):
        ui.label(invoice["project_name"]).classes("grow").style("font-weight:600")
        ui.label(usd(invoice["total"])).style("font-weight:600")
    table = Table(_LINE_COLUMNS, empty="No line.", label=f"Invoice of {invoice['project_name']}")
    table.show([_line(place, line) for place, line in enumerate(invoice["lines"])])


def _line(place: int, line: dict[str, Any]) -> dict[str, Any]:
    row = {"id": place, "kind": line["kind"], "model": line["model"], "amount": usd(line["amount"])}
    if line["kind"] == "reservation":
        shares = [line.get("input_utilisation"), line.get("output_utilisation")]
        return row | {
            "tier": "reserved",
            "what": f"{count_short(line['input_tpm'])} / {count_short(line['output_tpm'])} TPM, {line['reservation']}",
            "quantity": hours(line["minutes"]),
            "price": f"{usd(line['hourly_usd'])} / h",
            "use": " / ".join("–" if share is None else percent(float(share)) for share in shares),
        }
    unit = line.get("unit_price")
    return row | {
        "tier": line.get("served_tier") or "–",
        "what": f"{(line.get('token_kind') or '').replace('_', ' ')} tokens",
        "quantity": count(line.get("quantity")),
        "price": "–" if unit is None else f"{usd(unit)} / 1M",
        "use": "–",
    }


def _span(days: int) -> tuple[datetime, int]:
    """Its first moment, and the length of a step of the chart in seconds."""
    now = datetime.now(UTC)
    if days == 1:
        return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=23), 3_600
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1), 86_400


def _over_time(rows: Sequence[dict[str, Any]], begin: datetime, step_s: int) -> dict[str, Any]:
    """Columns of cost by served tier, a place for each step whether anything was spent in it or not."""
    steps = int((datetime.now(UTC) - begin).total_seconds() // step_s) + 1
    sums = {word: [0.0] * steps for word in TIER_WORDS if any(row["served_tier"] == word for row in rows)}
    for row in rows:
        place = int((datetime.fromisoformat(row["start"]) - begin).total_seconds() // step_s)
        if 0 <= place < steps and row["served_tier"] in sums:
            sums[row["served_tier"]][place] += float(row["cost"])
    form = "%H:%M" if step_s < 86_400 else "%b %d"
    names = [f"{begin + timedelta(seconds=step_s * place):{form}}" for place in range(steps)]
    return stacked_bars(names, sums, "USD")


def _sums(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        "cost": usd(total([row["cost"] for row in rows])),
        "requests": count(sum(row["requests"] for row in rows)),
        "input tokens": count_short(sum(row["input"] + row["cache_write_5m"] + row["cache_write_1h"] for row in rows)),
        "read from cache": count_short(sum(row["cache_read"] for row in rows)),
        "output tokens": count_short(sum(row["output"] for row in rows)),
    }


def _row(row: dict[str, Any], group: str) -> dict[str, Any]:
    name = _name(row, group)
    return {
        "id": f"{name} {row['requested_tier']} {row['served_tier']} {row.get('key', '')}{row.get('project', '')}",
        "group": name,
        "requested": row["requested_tier"],
        "served": row["served_tier"],
        "requests": count(row["requests"]),
        "input": count(row["input"]),
        "written": count(row["cache_write_5m"] + row["cache_write_1h"]),
        "read": count(row["cache_read"]),
        "output": count(row["output"]),
        "cost": usd(row["cost"]),
    }


def _name(row: dict[str, Any], group: str) -> str:
    if group.startswith("tag:"):
        return row.get("tag") or "without the tag"
    return str(row.get(f"{group}_name") or row.get(group) or "–") if group else "all"


def _months() -> list[str]:
    """The present month and the eleven before, newest first."""
    now = datetime.now(UTC)
    numbers = [now.year * 12 + now.month - 1 - past for past in range(12)]
    return [f"{number // 12}-{number % 12 + 1:02}" for number in numbers]
