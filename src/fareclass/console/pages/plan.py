"""The planner: what to reserve, what it would cost, and what callers would meet, level by level (R44)."""

from collections.abc import Sequence
from typing import Any

from nicegui import ui

from fareclass.console.charts import band, curves
from fareclass.console.floors import hours_in_words
from fareclass.console.frame import Desk, heading
from fareclass.console.pages.reservation_form import Choices, open_form
from fareclass.console.parts import Action, Column, Table, card, chart, facts, markup, show_chart
from fareclass.console.words import back, count, count_short, ms, percent, usd_short, when

_SPANS = {
    1: "the last hour", 24: "the last 24 hours", 168: "the last 7 days", 720: "the last 30 days", 2160: "the last 90 days",
    8784: "the last year",
}  # fmt: skip
_DEFAULT_SPAN = 720
"""The planner's own: it then begins with the first request, and plans no idle time before it."""
_ALTERNATIVES = (
    Column("name", "Way to buy"),
    Column("input", "Input TPM", number=True),
    Column("output", "Output TPM", number=True),
    Column("hours", "Hours"),
    Column("month", "A month", number=True),
    Column("year", "A year", number=True),
    Column("saving", "Saves", number=True),
    Column("spill", "Overflows", number=True),
    Column("used", "Floor used", number=True),
    Column("ttft", "TTFT p99", number=True),
    Column("queue", "Queue p99", number=True),
    Column("refused", "Refused", number=True),
)
_PERCENTILES = (
    Column("side", "Tokens a minute"),
    *(
        Column(name, name.upper() if name != "max" else "most", number=True)
        for name in ("p25", "p50", "p90", "p99", "max")
    ),
)
_WORKLOADS = (
    Column("workload", "Workload"),
    Column("share", "Of its tokens", number=True),
    Column("shape", "Shape"),
    Column("tier", "Tier", cell="tier"),
    Column("reason", "Why", wrap=True),
)


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Plan", "What to reserve, out of what was asked for: expected cost, overflow and waits of each way to buy.")
    planner = _Planner(desk)
    async with desk.looking():
        await planner.open()


class _Planner:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._choices = Choices({}, {})
        with card():
            with ui.element("div").classes("filters"):
                self._span = ui.select(_SPANS, label="Out of", value=_DEFAULT_SPAN)
                self._project = ui.select({"": "all"}, label="Project", value="")
                self._model = ui.select({"": "all"}, label="Model", value="")
                for one in (self._span, self._project, self._model):
                    one.props("outlined dense")
                self._button = ui.button("Make a plan", icon="insights", on_click=self._plan).props("unelevated")
            self._note = ui.label("The ledger's own traffic is planned for, and replayed through the scheduler.")
            self._note.classes("soft")
        self._place = ui.element("div").style("display:contents")

    async def open(self) -> None:
        projects = {one["id"]: one["name"] for one in await self._desk.control.pages("projects")}
        views = {view["model"]: view for view in await self._desk.control.rows("capacity")}
        self._choices = Choices(projects, views)
        self._project.set_options({"": "all"} | projects)
        self._model.set_options({"": "all"} | {model: model for model in views})

    async def _plan(self) -> None:
        self._button.disable()
        self._note.set_text("Planning…")
        body = {
            "project": self._project.value or None,
            "model": self._model.value or None,
            "from": None if self._span.value == _DEFAULT_SPAN else back(self._span.value),
        }
        try:
            async with self._desk.looking():
                asked = {name: value for name, value in body.items() if value is not None}
                rows = (await self._desk.control.send("POST", "plan", body=asked))["data"]
                self._note.set_text("" if rows else "There was no traffic to plan for in this span.")
                self._place.clear()
                with self._place:
                    for row in rows:
                        _Plan(self._desk, self._choices, row)
        finally:
            if self._note.text == "Planning…":
                self._note.set_text("No plan could be made.")
            self._button.enable()


class _Plan:
    """The advice for one project and model."""

    def __init__(self, desk: Desk, choices: Choices, row: dict[str, Any]) -> None:
        self._desk, self._choices, self._row = desk, choices, row
        with card(f"{row['project_name']} on {row['model']}"):
            ui.label(row["advice"]).style("font-weight:500")
            if row["failed"]:
                return
            span = f"{when(row['start'])} to {when(row['end'])} UTC, {count(row['minutes'])} minutes"
            ui.label(f"{span}. A reservation pays above {_break_even(row)}.").classes("soft")
            actions = [Action("Reserve", self._reserve, "buys")] if desk.admin else []
            table = Table(_ALTERNATIVES, empty="No alternative.", actions=actions, label="Ways to buy")
            table.show([_alternative(one) for one in row["alternatives"]])
            self._what_if()
            sides = Table(_PERCENTILES, empty="", label="Percentiles of tokens a minute")
            sides.show([_percentiles(side, row[side]) for side in ("input", "output")])
            self._workloads()
            self._season()

    def _what_if(self) -> None:
        """The slider: a level of the curve that came with the plan, shown without another call."""
        curve = self._row["curve"]
        if not curve:
            return
        start = next((place for place, one in enumerate(curve) if one["name"].lower() == "p50"), len(curve) // 2)
        ui.html("<h2>What if we reserved at…</h2>", sanitize=False)
        self._curve = chart(self._curves(start), height_px=260, label="Cost, overflow and waits by level")
        slider = ui.slider(
            min=0, max=len(curve) - 1, step=1, value=start, on_change=lambda event: self._at(event.value)
        )
        slider.props('markers snap aria-label="Level to reserve at"').classes("what-if")
        with ui.element("div").classes("row-head"):
            self._figures = markup().classes("grow")
            if self._desk.admin:
                self._make = ui.button(
                    "Make this reservation", on_click=lambda: self._reserve(_alternative(curve[slider.value]))
                ).props("unelevated")
        self._at(start)

    def _at(self, place: int) -> None:
        one = self._row["curve"][place]
        reserve = one["reserve"] or {"input_tpm": 0, "output_tpm": 0}
        waits = one["waits"] or {}
        self._figures.content = facts(
            {
                "level": one["name"],
                "input / output TPM": f"{count_short(reserve['input_tpm'])} / {count_short(reserve['output_tpm'])}",
                "a month": usd_short(one["month_usd"]),
                "of all-default saved": percent(one["saving_share"]),
                "overflows": percent(_spill(one)),
                "of the floor used": percent(one["used_share"]) if one["reserve"] else "–",
                "TTFT p99": ms(waits.get("ttft_p99_ms")),
                "queue p99": ms(waits.get("queue_p99_ms")),
            }
        )
        if self._desk.admin:
            self._make.set_enabled(bool(reserve["input_tpm"] or reserve["output_tpm"]))
        show_chart(self._curve, self._curves(place))

    def _curves(self, chosen: int) -> dict[str, Any]:
        curve = self._row["curve"]
        return curves(
            [one["name"] for one in curve],
            [float(one["month_usd"]) for one in curve],
            [100 * _spill(one) for one in curve],
            [(one["waits"] or {}).get("queue_p99_ms") for one in curve],
            chosen,
        )

    def _reserve(self, row: dict[str, Any]) -> None:
        given = {"project": self._row["project"], "model": self._row["model"]} | row["reserve"]
        open_form(self._desk, self._choices, _nothing, None, given)

    def _workloads(self) -> None:
        table = Table(_WORKLOADS, empty="No key of it names a workload.", label="Tiers for workloads")
        table.show([_workload(one) for one in self._row["workloads"]])

    def _season(self) -> None:
        season = self._row["season"]
        if season is None:
            return
        ui.html("<h2>The coming year</h2>", sanitize=False)
        ui.label(season["reason"]).classes("soft")
        weeks = season["weeks"]
        low, level, high = ([(week["start"], week[name]) for week in weeks] for name in ("low", "level", "high"))
        chart(band(low, level, high, "of a mean week"), label="Expected level by week")


async def _nothing() -> None:
    """What a plan shows does not change by a reservation."""


def _alternative(one: dict[str, Any]) -> dict[str, Any]:
    reserve, waits = one["reserve"], one["waits"] or {}
    return {
        "id": one["name"],
        "name": one["name"],
        "input": count(reserve["input_tpm"]) if reserve else "–",
        "output": count(reserve["output_tpm"]) if reserve else "–",
        "hours": hours_in_words(reserve["hours"]) if reserve else "–",
        "month": usd_short(one["month_usd"]),
        "year": usd_short(one["year_usd"]),
        "saving": percent(one["saving_share"]),
        "spill": percent(one["spill_share"]) if reserve else "–",
        "used": percent(one["used_share"]) if reserve else "–",
        "ttft": ms(waits.get("ttft_p99_ms")),
        "queue": ms(waits.get("queue_p99_ms")),
        "refused": percent(waits.get("refused_share")),
        "reserve": reserve or {},
        "buys": bool(reserve and (reserve["input_tpm"] or reserve["output_tpm"])),
    }


def _spill(one: dict[str, Any]) -> float:
    """Which share of the tokens no floor carries: all of them, where none is reserved."""
    share: float = one["spill_share"] if one["reserve"] else 1.0
    return share


def _percentiles(side: str, found: dict[str, int]) -> dict[str, Any]:
    return {"id": side, "side": side} | {name: count(found[name]) for name in ("p25", "p50", "p90", "p99", "max")}


def _workload(one: dict[str, Any]) -> dict[str, Any]:
    proposal = one["proposal"]
    return {
        "id": one["workload"],
        "workload": one["workload"] or "without a workload",
        "share": percent(one["share"]),
        "shape": proposal["shape"],
        "tier": proposal["tier"],
        "reason": proposal["reason"],
    }


def _break_even(row: dict[str, Any]) -> str:
    sides: Sequence[str] = [
        f"{percent(row[f'break_even_{side}'])} use of its {side}"
        for side in ("input", "output")
        if row[f"break_even_{side}"] is not None
    ]
    return " and ".join(sides) or "no use: no price of reservations is set"
