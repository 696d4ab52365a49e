"""Reservations: what is promised to whom and when, what is left to promise, and how much of it is used."""

from time import time_ns
from typing import Any

from nicegui import ui

from fareclass.console.charts import base, steps
from fareclass.console.floors import WEEK_US, calendar, hours_in_words, pool_of, stood, utilisation
from fareclass.console.frame import Desk, heading
from fareclass.console.pages.reservation_form import Choices, open_form
from fareclass.console.parts import Action, Column, Table, card, chart, confirm, facts, markup, meter, show_chart
from fareclass.console.words import back, count, count_short, percent, usd, when

_EVERY_S = 10.0
_WEEKS = 5
_DAY_US = WEEK_US // 7
_COLUMNS = (
    Column("project", "Project", fold=True),
    Column("model", "Model"),
    Column("state", "State", cell="chip"),
    Column("input", "Input TPM", number=True),
    Column("output", "Output TPM", number=True),
    Column("input_use", "Input used, 24 h", cell="meter"),
    Column("output_use", "Output used, 24 h", cell="meter"),
    Column("overflow", "Beyond it"),
    Column("starts", "From (UTC)", fold=True),
    Column("ends", "Until (UTC)", fold=True),
    Column("hours", "Hours", fold=True),
    Column("hourly", "USD / hour", number=True),
    Column("accrued", "Fee so far", number=True),
    Column("id", "Id"),
)
_TONES = {"in force": "good", "scheduled": "warn", "outside its hours": "warn"}


async def build(desk: Desk) -> None:
    """Draw the page."""
    head = heading(
        "Reservations", "Floors that are kept for their owners: the calendar, what is left of it, and its use."
    )
    shown = _Reservations(desk)
    if desk.admin:
        with head:
            ui.button("New reservation", icon="add", on_click=shown.ask).props("unelevated")
    await desk.live(shown.refresh, _EVERY_S)


class _Reservations:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._choices = Choices({}, {})
        self._pools: dict[str, _PoolCard] = {}
        self._place = ui.element("div").classes("pair")
        with card("All reservations"):
            with ui.element("div").classes("row-head"):
                ui.label("Use counts input by the default burn-down weights.").classes("soft grow")
                self._past = ui.checkbox("Past ones too", on_change=self._again).props("dense")
            actions = [
                Action("Change", lambda row: open_form(self._desk, self._choices, self._again, row["record"]), "open"),
                Action("Cancel", self._cancel, "open"),
            ]
            empty = "No reservation: every request takes its turn on demand."
            self._table = Table(_COLUMNS, empty=empty, actions=actions if desk.admin else [], label="Reservations")

    async def refresh(self) -> None:
        control = self._desk.control
        records = await control.pages("reservations")
        views = await control.rows("capacity")
        projects = {one["id"]: one["name"] for one in await control.pages("projects")}
        self._choices = Choices(projects, {view["model"]: view for view in views})
        usage = await control.rows("usage", from_=back(24), by="project,model")
        now = time_ns() // 1000
        use = utilisation(records, usage, now - _DAY_US, now)
        standing = [record for record in records if record["status"] in {"active", "scheduled"}]
        for view in views:
            if view["model"] not in self._pools:
                with self._place:
                    self._pools[view["model"]] = _PoolCard(view["model"])
            self._pools[view["model"]].show(view, [one for one in standing if one["model"] == view["model"]], now)
        rows = records if self._past.value else standing
        of_day = [use[one["project"], one["model"]] if stood(one, now - _DAY_US, now) else None for one in rows]
        self._table.show(list(map(_row, rows, of_day)))

    async def _again(self) -> None:
        async with self._desk.looking():
            await self.refresh()

    def ask(self) -> None:
        open_form(self._desk, self._choices, self._again, None)

    def _cancel(self, row: dict[str, Any]) -> None:
        async def cancel() -> None:
            await self._desk.control.send("DELETE", "reservations", row["id"])
            await self._again()

        question = f"Cancel the reservation of {row['project']} on {row['model']}? Its floor and its fee end now."
        confirm(question, "Cancel it", cancel)


class _PoolCard:
    """One pool: what is promised of it now, and over the next weeks."""

    def __init__(self, model: str) -> None:
        with card(model):
            self._facts = markup()
            self._meter = markup()
            self._chart = chart(base(), height_px=210, label=f"Calendar of {model}")
            self._none = ui.label("Its capacity is not known, so nothing can be reserved: set `capacity` of the model.")
            self._none.classes("empty")

    def show(self, view: dict[str, Any], records: list[dict[str, Any]], now_us: int) -> None:
        """The capacity, and the reservations that stand or will."""
        pool, now = pool_of(view), view["now"]
        for part in (self._facts, self._meter, self._chart):
            part.set_visibility(pool is not None)
        self._none.set_visibility(pool is None)
        if pool is None or now is None:
            return
        sold = pool.load(now["sold_input_tpm"], now["sold_output_tpm"])
        self._facts.content = facts(
            {
                "input TPM sold now": f"{count_short(now['sold_input_tpm'])} of {count_short(view['input_tpm'])}",
                "output TPM sold now": f"{count_short(now['sold_output_tpm'])} of {count_short(view['output_tpm'])}",
                "free, input or output alone": f"{count_short(now['free_input_tpm'])} or {count_short(now['free_output_tpm'])}",
            }
        )
        words = f'<span class="small soft">{sold:.0f} % of the pool sold, of at most {pool.most:.0f} %</span>'
        self._meter.content = meter({"reserved": sold}, pool.most, thin=True) + words
        series = calendar(records, pool, now_us, now_us + _WEEKS * WEEK_US)
        limit = f"most that can be promised ({pool.most:.0f} %)"
        if not series:
            series = {"nothing promised": [(now_us // 1000, 0.0), ((now_us + _WEEKS * WEEK_US) // 1000, 0.0)]}
        show_chart(self._chart, steps(series, pool.most, limit, "% of the pool"))


def _row(record: dict[str, Any], use: tuple[float, float] | None) -> dict[str, Any]:
    standing = record["status"] in {"active", "scheduled"}
    state = record["status"]
    if state == "active":
        state = "in force" if record["in_force"] else "outside its hours"
    row = {
        "id": record["id"],
        "name": record["id"],
        "project": record["project_name"],
        "model": record["model"],
        "state": state,
        "state_tone": _TONES.get(state, ""),
        "open": standing,
        "input": count(record["input_tpm"]),
        "output": count(record["output_tpm"]),
        "overflow": record["overflow"],
        "starts": when(record["starts_at"]),
        "ends": when(record["cancelled_at"] or record["ends_at"])
        if record["ends_at"] or record["cancelled_at"]
        else "open",
        "hours": hours_in_words(record["hours"]),
        "hourly": usd(record["hourly_usd"]),
        "accrued": usd(record["accrued_usd"]),
        "record": record,
    }
    for side, share in zip(("input", "output"), use or (None, None), strict=True):
        row |= {
            f"{side}_use": percent(share),
            f"{side}_use_share": None if share is None else min(100, round(100 * share)),
            f"{side}_use_colour": "reserved",
        }
    return row
