"""Batches of all projects: how far they are, and whether they end in time."""

from typing import Any

from nicegui import ui

from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Column, Table, card
from fareclass.console.words import count, when

_EVERY_S = 3.0
_MOST = 200
_COLUMNS = (
    Column("project", "Project"),
    Column("state", "State", cell="chip"),
    Column("done", "Lines done", cell="meter"),
    Column("failed", "Failed", number=True),
    Column("total", "Lines", number=True),
    Column("created", "Made (UTC)"),
    Column("ends_by", "Window ends (UTC)"),
    Column("ended", "Ended (UTC)"),
    Column("api", "API"),
    Column("id", "Batch"),
)
_TONES = {"completed": "good", "failed": "bad", "expired": "bad", "cancelled": "warn", "cancelling": "warn"}


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Batches", f"Of all projects, the newest {_MOST}: how far each one is, and by when it must have ended.")
    with card():
        with ui.element("div").classes("filters"):
            state = ui.select({"": "all", "open": "open", "ended": "ended"}, label="Show", value="").props(
                "outlined dense"
            )
        table = Table(_COLUMNS, empty="No batch.", label="Batches")

    async def refresh() -> None:
        found = await desk.control.pages("batches", most=_MOST, state=state.value or None)
        table.show([_row(batch) for batch in found])

    state.on_value_change(refresh)
    await desk.live(refresh, _EVERY_S)


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    word = batch["outcome"] or ("cancelling" if batch["cancelling"] else batch["state"])
    done, total = batch["succeeded"] + batch["failed"], batch["total"]
    return {
        "id": batch["id"],
        "project": batch["project_name"],
        "api": batch["api"],
        "state": word,
        "state_tone": _TONES.get(word, ""),
        "done": f"{count(done)} of {count(total)}" if total else "not counted yet",
        "done_share": round(100 * done / total, 1) if total else 0,
        "done_colour": "batch",
        "failed": count(batch["failed"]),
        "total": count(total) if total else "–",
        "created": when(batch["created"]),
        "ends_by": when(batch["ends_by"]),
        "ended": when(batch["ended_at"]),
    }
