"""A project's keys: made, changed, revoked. A new key's secret is shown once, in a dialog, and nowhere again (R51)."""

from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS
from fareclass.console.client import Trouble
from fareclass.console.frame import Desk
from fareclass.console.parts import Action, Column, Form, Table, card, confirm, panel
from fareclass.console.words import when

_KEYS = (
    Column("name", "Key"),
    Column("state", "State", cell="chip"),
    Column("tier", "Default tier", cell="tier"),
    Column("allowed", "Allowed tiers"),
    Column("workload", "Workload"),
    Column("tags", "Tags"),
    Column("escalates", "Escalates"),
    Column("created", "Made (UTC)"),
)
_ALL = "as its workload says"


class KeysCard:
    """The keys of one project."""

    def __init__(self, desk: Desk, project: str) -> None:
        self._desk, self._project = desk, project
        with card("Keys") as made:
            with made, ui.element("div").classes("row-head"):
                ui.label("What callers send with each request.").classes("soft grow")
                self._revoked = ui.checkbox("Revoked too", on_change=self.refresh).props("dense")
                if desk.admin:
                    ui.button("New key", icon="add", on_click=self._ask).props("unelevated dense")
            actions = (
                [Action("Change", self._ask, "live"), Action("Revoke", self._revoke, "live")] if desk.admin else []
            )
            self._table = Table(
                _KEYS, empty="No key yet: nobody can call in this project's name.", actions=actions, label="Keys"
            )

    async def refresh(self) -> None:
        async with self._desk.looking():
            keys = await self._desk.control.pages("keys", project=self._project)
            shown = [key for key in keys if key["revoked_at"] is None or self._revoked.value]
            self._table.show([_row(key) for key in shown])

    async def _ask(self, row: dict[str, Any] | None = None) -> None:
        held = row["key"] if isinstance(row, dict) else None
        try:
            workloads = await self._desk.control.pages("workloads")
        except Trouble as trouble:
            ui.notify(trouble.message, type="negative")
            return
        form = Form(
            f"Change {held['name']}" if held else "New key",
            "Change" if held else "Make key",
            self._change if held else self._make,
        )
        self._held = held or {}
        with form.body:
            _fields(form, self._held, [one["name"] for one in workloads])
        form.open()

    async def _make(self, form: Form) -> None:
        body = _terms(form) | {"project": self._project}
        made = await self._desk.control.send("POST", "keys", body=body)
        _show_once(made["name"], made.pop("secret"))
        await self.refresh()

    async def _change(self, form: Form) -> None:
        await self._desk.control.send("PATCH", "keys", self._held["id"], body=_terms(form))
        await self.refresh()

    def _revoke(self, row: dict[str, Any]) -> None:
        async def revoke() -> None:
            await self._desk.control.send("DELETE", "keys", row["key"]["id"])
            await self.refresh()

        confirm(f"Revoke {row['name']}? Who uses it is refused from then on.", "Revoke", revoke)


def _fields(form: Form, held: dict[str, Any], workloads: list[str]) -> None:
    form.add("name", ui.input("Name", value=held.get("name", "")).props("autofocus"))
    with ui.element("div").classes("two"):
        form.add(
            "workload",
            ui.select(
                {"": "none"} | {name: name for name in workloads}, label="Workload", value=held.get("workload") or ""
            ),
        )
        tiers = {"": _ALL} | {word: word for word in TIER_WORDS}
        form.add("default_tier", ui.select(tiers, label="Default tier", value=held.get("default_tier") or ""))
    allowed = list(held.get("allowed_tiers") or ())
    form.add(
        "allowed_tiers",
        ui.select(list(TIER_WORDS), label="Allowed tiers (none chosen: all)", value=allowed, multiple=True),
    )
    tags = ", ".join(f"{name}={value}" for name, value in held.get("tags", {}).items())
    form.add("tags", ui.input("Tags, such as product=search, team=core", value=tags))


def _terms(form: Form) -> dict[str, Any]:
    tags = [part.strip() for part in form.value("tags").split(",") if part.strip()]
    if any("=" not in tag for tag in tags):
        raise Trouble("must be name=value, with commas between", field="tags")
    return {
        "name": form.value("name"),
        "default_tier": form.value("default_tier") or None,
        "allowed_tiers": form.value("allowed_tiers") or None,
        "tags": dict(tag.split("=", 1) for tag in tags),
        "workload": form.value("workload") or None,
    }


def _show_once(name: str, secret: str) -> None:
    """The one time that it is seen. Closing the dialog takes it out of the page and out of this process."""
    with ui.context.client.content, ui.dialog().props("persistent") as dialog, panel(f"Key {name}", wide=True):
        ui.label("Copy it now: it is shown this once, and nobody can show it again.").classes("warn")
        ui.label(secret).classes("mono").props('data-secret aria-label="The key"')
        with ui.element("div").classes("buttons"):
            ui.button("Copy", icon="content_copy", on_click=lambda: _copy(secret)).props("flat")
            ui.button("I have it", on_click=dialog.close).props("unelevated autofocus")
    dialog.on("hide", dialog.delete)
    dialog.open()


def _copy(secret: str) -> None:
    ui.clipboard.write(secret)
    ui.notify("Copied", type="positive")


def _row(key: dict[str, Any]) -> dict[str, Any]:
    live = key["revoked_at"] is None
    rule = key["escalation"]
    return {
        "id": key["id"],
        "name": key["name"],
        "state": "in force" if live else f"revoked {when(key['revoked_at'])}",
        "state_tone": "good" if live else "",
        "live": live,
        "tier": key["default_tier"] or ("workload's" if key["workload"] else "default"),
        "allowed": ", ".join(key["allowed_tiers"]) if key["allowed_tiers"] else "all",
        "workload": key["workload"] or "–",
        "tags": ", ".join(f"{name}={value}" for name, value in key["tags"].items()) or "–",
        "escalates": f"to {rule['to']} for {rule['for_s']} s" if rule else "–",
        "created": when(key["created"]),
        "key": key,
    }
