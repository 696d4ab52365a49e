"""Projects: who the tenants are; and of each one its keys, quotas and budgets."""

from functools import partial
from typing import Any
from urllib.parse import quote

from nicegui import ui

from fareclass.console.client import Trouble
from fareclass.console.frame import Desk, heading
from fareclass.console.pages.keys import KeysCard
from fareclass.console.parts import Action, Column, Form, Table, card, confirm
from fareclass.console.words import count, parse_whole, percent, usd, when

_PROJECTS = (
    Column("name", "Project", cell="link"),
    Column("keys", "Keys", number=True),
    Column("weight", "Weight", number=True),
    Column("budget", "Budget", number=True),
    Column("spent", "Spent of it", cell="meter"),
    Column("created", "Made (UTC)"),
    Column("id", "Id"),
)
_QUOTAS = (
    Column("model", "Model"),
    Column("tpm", "Tokens / min", number=True),
    Column("rpm", "Requests / min", number=True),
    Column("concurrency", "At once", number=True),
    Column("share", "Kept for priority", number=True),
)
_BUDGETS = (
    Column("name", "Budget of"),
    Column("usd", "Amount", number=True),
    Column("per", "Per"),
    Column("spent", "Spent", number=True),
    Column("held", "Held", number=True),
    Column("left", "Left", number=True),
    Column("use", "Use", cell="meter"),
    Column("renews", "Renews (UTC)"),
)


async def build(desk: Desk) -> None:
    """Draw the list of projects."""
    head = heading("Projects", "The tenants: each owns keys, quotas, budgets, reservations, files and bills.")
    with card():
        table = Table(_PROJECTS, empty="No project yet: make the first one.", label="Projects")

    async def refresh() -> None:
        projects = await desk.control.pages("projects")
        keys = await desk.control.pages("keys")
        budgets = {one["project"]: one for one in await desk.control.pages("budgets") if one["key"] is None}
        live = [key["project"] for key in keys if key["revoked_at"] is None]
        table.show([_project_row(one, live.count(one["id"]), budgets.get(one["id"])) for one in projects])

    async def make(form: Form) -> None:
        body = {"name": form.value("name"), "weight": parse_whole(form.value("weight"), "weight") or 1}
        made = await desk.control.send("POST", "projects", body=body)
        ui.navigate.to(f"/projects/{made['id']}")

    def ask() -> None:
        form = Form("New project", "Make project", make)
        with form.body:
            form.add("name", ui.input("Name").props("autofocus"))
            form.add("weight", ui.input("Weight", value="1").props("inputmode=numeric"))
            ui.label("Its share of a tier beside other projects: 2 gets twice what 1 gets.").classes("soft small")
        form.open()

    if desk.admin:
        with head:
            ui.button("New project", icon="add", on_click=ask).props("unelevated")
    async with desk.looking():
        await refresh()


async def build_one(desk: Desk) -> None:
    """Draw one project's page."""
    ref = desk.params["ref"]
    async with desk.looking():
        project = await desk.control.get("projects", ref)
        models = [pool["model"] for pool in await desk.control.rows("pools")]
        head = heading(
            project["name"], f"{project['id']}, made {when(project['created'])} UTC, weight {project['weight']}."
        )
        if desk.admin:
            with head:
                ui.button("Change", on_click=partial(_ask_change, desk, project)).props("flat")
        await KeysCard(desk, project["id"]).refresh()
        await _Quotas(desk, project["id"], models).refresh()
        await _Budgets(desk, project["id"]).refresh()


def _ask_change(desk: Desk, project: dict[str, Any]) -> None:
    async def change(form: Form) -> None:
        body = {"name": form.value("name"), "weight": parse_whole(form.value("weight"), "weight")}
        await desk.control.send("PATCH", "projects", project["id"], body=body)
        ui.navigate.reload()

    form = Form("Change project", "Change", change)
    with form.body:
        form.add("name", ui.input("Name", value=project["name"]).props("autofocus"))
        form.add("weight", ui.input("Weight", value=str(project["weight"])).props("inputmode=numeric"))
    form.open()


class _Quotas:
    """On-demand limits of the project by model (R25)."""

    def __init__(self, desk: Desk, project: str, models: list[str]) -> None:
        self._desk, self._project, self._models = desk, project, models
        with card("Quotas") as made:
            if desk.admin:
                with made, ui.element("div").classes("row-head"):
                    ui.label("On demand, by model: reserved work inside its floor does not count.").classes("soft grow")
                    ui.button("Set quota", icon="add", on_click=self._ask).props("flat dense")
            actions = [Action("Change", self._ask)] if desk.admin else []
            self._table = Table(_QUOTAS, empty="No limits on any model.", actions=actions, label="Quotas")

    async def refresh(self) -> None:
        rows = await self._desk.control.pages("quotas", project=self._project)
        self._table.show([_quota_row(row) for row in rows])

    async def _ask(self, row: dict[str, Any] | None = None) -> None:
        try:
            rows = await self._desk.control.pages("quotas", project=self._project)
        except Trouble as trouble:
            ui.notify(trouble.message, type="negative")
            return
        held = {one["model"]: one for one in rows}
        form = Form("Quota", "Set quota", self._set)

        def fill() -> None:
            quota = held.get(form.value("model"), {})
            for name in ("tpm", "rpm", "concurrency"):
                form.fields[name].value = _typed(quota.get(name))
            form.fields["priority_share"].value = str(round(float(quota.get("priority_share", 0)) * 100))

        with form.body:
            model = row["quota"]["model"] if isinstance(row, dict) else self._models[0]
            models = sorted({*self._models, model})
            form.add("model", ui.select(models, label="Model", value=model, on_change=fill))
            for name, label in (("tpm", "Tokens a minute"), ("rpm", "Requests a minute"), ("concurrency", "At once")):
                form.add(name, ui.input(label).props("inputmode=numeric clearable"))
            form.add("priority_share", ui.input("Of the tokens, kept for priority (%)"))
            ui.label("Empty is no limit.").classes("soft small")
        fill()
        form.open()

    async def _set(self, form: Form) -> None:
        body: dict[str, Any] = {name: parse_whole(form.value(name), name) for name in ("tpm", "rpm", "concurrency")}
        share = parse_whole(form.value("priority_share"), "the share") or 0
        body["priority_share"] = f"{share / 100:.2f}"
        await self._desk.control.send("PUT", "quotas", self._project, form.value("model"), body=body)
        await self.refresh()


class _Budgets:
    """What the project and its keys may spend on demand (R26)."""

    def __init__(self, desk: Desk, project: str) -> None:
        self._desk, self._project = desk, project
        with card("Budgets") as made:
            if desk.admin:
                with made, ui.element("div").classes("row-head"):
                    ui.label("On demand, across models: over it, requests get 429 budget_exceeded.").classes(
                        "soft grow"
                    )
                    ui.button("Set budget", icon="add", on_click=self._ask).props("flat dense")
            actions = [Action("Change", self._ask), Action("Lift", self._lift)] if desk.admin else []
            self._table = Table(
                _BUDGETS, empty="No budget: nothing is refused for its cost.", actions=actions, label="Budgets"
            )

    async def refresh(self) -> None:
        rows = await self._desk.control.pages("budgets", project=self._project)
        self._table.show([_budget_row(row) for row in rows])

    async def _ask(self, row: dict[str, Any] | None = None) -> None:
        try:
            keys = await self._desk.control.pages("keys", project=self._project)
            rows = await self._desk.control.pages("budgets", project=self._project)
        except Trouble as trouble:
            ui.notify(trouble.message, type="negative")
            return
        held = {one["key"] or "": one for one in rows}
        whose = {"": "the whole project"} | {key["id"]: key["name"] for key in keys if key["revoked_at"] is None}
        owner = ""
        if isinstance(row, dict) and row["budget"]["key"]:
            owner = row["budget"]["key"]
            whose |= {owner: row["budget"]["key_name"]}
        form = Form("Budget", "Set budget", self._set)

        def fill() -> None:
            budget = held.get(form.value("key"), {})
            form.fields["usd"].value = budget.get("usd", "")
            form.fields["per"].value = budget.get("per", "month")

        with form.body:
            form.add("key", ui.select(whose, label="Of", value=owner, on_change=fill))
            form.add("usd", ui.input("USD").props("inputmode=decimal autofocus"))
            form.add("per", ui.select(["day", "month"], label="Per"))
        fill()
        form.open()

    async def _set(self, form: Form) -> None:
        body = {"usd": form.value("usd"), "per": form.value("per")}
        path = [part for part in ("budgets", self._project, form.value("key")) if part]
        await self._desk.control.send("PUT", *path, body=body)
        await self.refresh()

    def _lift(self, row: dict[str, Any]) -> None:
        async def lift() -> None:
            path = [part for part in ("budgets", self._project, row["budget"]["key"]) if part]
            await self._desk.control.send("DELETE", *path)
            await self.refresh()

        confirm(f"Lift the budget of {row['name']}?", "Lift", lift)


def _project_row(project: dict[str, Any], keys: int, budget: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": project["id"],
        "name": project["name"],
        "name_href": f"/projects/{quote(project['id'])}",
        "keys": keys,
        "weight": project["weight"],
        "budget": f"{usd(budget['usd'])} / {budget['per']}" if budget else "–",
        "created": when(project["created"]),
    } | _spent(budget, "spent")


def _spent(budget: dict[str, Any] | None, name: str) -> dict[str, Any]:
    limit = float(budget["usd"]) if budget else 0.0
    share = min(1.0, (float(budget["spent"]) + float(budget["held"])) / limit) if budget and limit else 0.0
    colour = "bad" if share >= 1 else "warn" if share >= 0.8 else "default"
    return {
        name: percent(share) if budget else "–",
        f"{name}_share": round(share * 100) if budget else None,
        f"{name}_colour": colour,
    }


def _quota_row(quota: dict[str, Any]) -> dict[str, Any]:
    share = float(quota["priority_share"])
    limits = {name: "no limit" if quota[name] is None else count(quota[name]) for name in ("tpm", "rpm", "concurrency")}
    return limits | {"id": quota["model"], "model": quota["model"], "share": percent(share), "quota": quota}


def _budget_row(budget: dict[str, Any]) -> dict[str, Any]:
    name = f"key {budget['key_name']}" if budget["key"] else "the whole project"
    return {
        "id": f"{budget['project']}/{budget['key'] or ''}",
        "name": name,
        "usd": usd(budget["usd"]),
        "per": budget["per"],
        "spent": usd(budget["spent"]),
        "held": usd(budget["held"]),
        "left": usd(budget["left"]),
        "renews": when(budget["renews_at"]),
        "budget": budget,
    } | _spent(budget, "use")


def _typed(number: int | None) -> str:
    return "" if number is None else str(number)
