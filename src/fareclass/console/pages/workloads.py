"""Workloads: named uses, and the tier that each of them gets."""

from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS
from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Action, Column, Form, Table, card, refuse_taken
from fareclass.console.words import parse_whole

_COLUMNS = (
    Column("name", "Workload"),
    Column("shape", "Shape"),
    Column("tier", "Default tier", cell="tier"),
    Column("overflow", "Beyond its reservation"),
    Column("escalates", "Escalates"),
    Column("keys", "Keys", number=True),
)
_SHAPES = ("steady", "seasonal", "spiky-critical", "spiky-tolerant", "experiment", "offline")
_OVERFLOWS = {
    "": "as the reservation says",
    "priority": "priority",
    "default": "default",
    "flex": "flex",
    "reject": "reject",
}


async def build(desk: Desk) -> None:
    """Draw the page."""
    head = heading("Workloads", "What a use is like, and the tier, overflow and escalation that keys of it get.")
    with card():
        actions = [Action("Change", lambda row: ask(row["workload"]))] if desk.admin else []
        table = Table(_COLUMNS, empty="No workload is named yet.", actions=actions, label="Workloads")

    async def refresh() -> None:
        found = await desk.control.pages("workloads")
        keys = [key["workload"] for key in await desk.control.pages("keys") if key["revoked_at"] is None]
        table.show([_row(one, keys.count(one["name"])) for one in found])

    def ask(held: dict[str, Any] | None = None) -> None:
        async def put(form: Form) -> None:
            if held is None:
                await refuse_taken(form, desk.control, "workloads")
            await desk.control.send("PUT", "workloads", form.value("name"), body=_body(form))
            await refresh()

        form = Form(f"Change {held['name']}" if held else "New workload", "Set workload", put)
        with form.body:
            _fields(form, held or {})
        form.open()

    if desk.admin:
        with head:
            ui.button("New workload", icon="add", on_click=ask).props("unelevated")
    async with desk.looking():
        await refresh()


def _fields(form: Form, held: dict[str, Any]) -> None:
    name = form.add("name", ui.input("Name", value=held.get("name", "")).props("autofocus"))
    if held:
        name.props("readonly")
    with ui.element("div").classes("two"):
        form.add("shape", ui.select(list(_SHAPES), label="Shape", value=held.get("shape", "steady")))
        form.add(
            "default_tier", ui.select(list(TIER_WORDS), label="Default tier", value=held.get("default_tier", "default"))
        )
    form.add("overflow", ui.select(_OVERFLOWS, label="Beyond its reservation", value=held.get("overflow") or ""))
    rule = held.get("escalation") or {}
    ui.label("Escalation: send the next requests as a better tier").classes("soft small")
    with ui.element("div").classes("two"):
        form.add(
            "to",
            ui.select(
                {"": "never", "priority": "priority", "default": "default"}, label="As", value=rule.get("to") or ""
            ),
        )
        form.add("for_s", ui.input("For seconds", value=_typed(rule.get("for_s"))).props("inputmode=numeric"))
    with ui.element("div").classes("two"):
        form.add("after_throttles", ui.input("After throttles in a row", value=_typed(rule.get("after_throttles"))))
        form.add("slower_than_ms", ui.input("Or p95 above ms", value=_typed(rule.get("slower_than_ms"))))
    with ui.element("div").classes("two"):
        form.add("window_s", ui.input("Over seconds", value=_typed(rule.get("window_s", 300))))
        form.add("usd_per_day", ui.input("At most USD a day", value=rule.get("usd_per_day") or ""))


def _body(form: Form) -> dict[str, Any]:
    rule = None
    if form.value("to"):
        rule = {
            "to": form.value("to"),
            "for_s": parse_whole(form.value("for_s"), "the seconds"),
            "after_throttles": parse_whole(form.value("after_throttles"), "the throttles"),
            "slower_than_ms": parse_whole(form.value("slower_than_ms"), "the milliseconds"),
            "window_s": parse_whole(form.value("window_s"), "the window"),
            "usd_per_day": form.value("usd_per_day") or None,
        }
        rule = {name: value for name, value in rule.items() if value is not None}
    return {
        "shape": form.value("shape"),
        "default_tier": form.value("default_tier"),
        "overflow": form.value("overflow") or None,
        "escalation": rule,
    }


def _row(one: dict[str, Any], keys: int) -> dict[str, Any]:
    rule = one["escalation"]
    return {
        "id": one["name"],
        "name": one["name"],
        "shape": one["shape"],
        "tier": one["default_tier"],
        "overflow": _OVERFLOWS.get(one["overflow"] or "", one["overflow"]),
        "escalates": f"to {rule['to']} for {rule['for_s']} s" if rule else "–",
        "keys": keys,
        "workload": one,
    }


def _typed(value: object) -> str:
    return "" if value is None else str(value)
