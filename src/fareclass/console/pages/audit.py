"""Audit: who changed what, and what it was before."""

import json
from decimal import Decimal
from typing import Any

from nicegui import ui

from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Action, Column, Table, card, panel
from fareclass.console.words import usd, when_exactly
from fareclass.core.money import PICO_PER_USD

_MOST = 500
_COLUMNS = (
    Column("at", "When (UTC)"),
    Column("actor", "Who"),
    Column("action", "What"),
    Column("target", "Of what"),
    Column("change", "Change", wrap=True),
)
_HIDDEN = ("id", "created", "project", "key_version", "status", "in_force", "accrued_usd", "unknown")
"""Of a new object: what its name, or the moment, says."""
_CHARS = 160


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Audit", f"Every change that was made through the control plane: the newest {_MOST}, newest first.")
    found: list[dict[str, Any]] = []
    with card():
        words = ui.input("Find an action, a name or an id").props("outlined dense clearable debounce=200")
        table = Table(
            _COLUMNS,
            empty="Nothing was changed, or nothing fits.",
            actions=[Action("Details", _details)],
            label="Audit",
        )

    def show() -> None:
        wanted = (words.value or "").lower().split()
        table.show([row for row in found if all(word in row["text"] for word in wanted)])

    words.on_value_change(show)
    async with desk.looking():
        found += [_row(event) for event in await desk.control.pages("audit", most=_MOST)]
        show()


def _row(event: dict[str, Any]) -> dict[str, Any]:
    before, after = _in_usd(event["before"]), _in_usd(event["after"])
    change = _change(before, after)
    row = {
        "id": event["id"],
        "at": when_exactly(event["at"]),
        "actor": event["actor"],
        "action": event["action"],
        "target": event["target"],
        "change": change if len(change) <= _CHARS else f"{change[: _CHARS - 1]}…",
        "event": {"before": before, "after": after},
    }
    return row | {
        "text": " ".join(str(row[name]) for name in ("actor", "action", "target")).lower() + f" {change.lower()}"
    }


def _in_usd(value: Any) -> Any:
    """With amounts, which the log keeps in 10⁻¹² USD, in USD."""
    if isinstance(value, list):
        return [_in_usd(one) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("pico"), int):
        value = {"usd": f"{Decimal(value['pico']) / PICO_PER_USD:f}"} | {k: v for k, v in value.items() if k != "pico"}
    return {name: _in_usd(one) for name, one in value.items()}


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What differs, in a line."""
    if before is None and after is None:
        return "–"
    if before is None or after is None:
        one = after or before or {}
        said = [name for name, value in one.items() if name not in _HIDDEN and value not in (None, "", [], {})]
        return ", ".join(f"{name.replace('_', ' ')} {_short(one[name])}" for name in said)
    differing = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name} {_short(before.get(name))} → {_short(after[name])}" for name in differing) or "as it was"


def _short(value: object) -> str:
    if isinstance(value, dict) and value.keys() == {"usd", "per"}:
        return f"{usd(value['usd'])} / {value['per']}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _details(row: dict[str, Any]) -> None:
    with ui.dialog() as dialog, panel(f"{row['action']} {row['target']}", wide=True):
        ui.label(f"{row['at']} UTC, by {row['actor']}").classes("soft")
        for name in ("before", "after"):
            ui.label(name).classes("small soft")
            text = json.dumps(row["event"][name], indent=2, ensure_ascii=False)
            ui.label("nothing" if row["event"][name] is None else text).classes("mono").style("white-space:pre-wrap")
        with ui.element("div").classes("buttons"):
            ui.button("Close", on_click=dialog.close).props("flat autofocus")
    dialog.on("hide", dialog.delete)
    dialog.open()
