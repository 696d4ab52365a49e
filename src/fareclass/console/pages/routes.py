"""Routes: public names that stand for several models, and the rule that picks one (R45)."""

from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS
from fareclass.console.client import Trouble
from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Action, Column, Form, Table, card, confirm, refuse_taken
from fareclass.console.words import parse_whole

_COLUMNS = (
    Column("name", "Route"),
    Column("models", "Models (quality)", wrap=True),
    Column("rule", "Picks", wrap=True),
    Column("others", "Otherwise for", wrap=True),
)
_ORDERS = {"cost": "cheapest first", "latency": "fastest first", "quality": "best first"}


async def build(desk: Desk) -> None:
    """Draw the page."""
    head = heading(
        "Routes", "One public name over several models: each request goes to the one that fits its rule best."
    )
    with card():
        actions = [Action("Change", lambda row: ask(row["route"])), Action("Delete", lambda row: forget(row["name"]))]
        empty = "No route: callers name the model itself."
        table = Table(_COLUMNS, empty=empty, actions=actions if desk.admin else [], label="Routes")
    models: list[str] = []

    async def refresh() -> None:
        models[:] = [pool["model"] for pool in await desk.control.rows("pools")]
        table.show([_row(route) for route in await desk.control.pages("routes")])

    def ask(held: dict[str, Any] | None = None) -> None:
        async def put(form: Form) -> None:
            if held is None:
                await refuse_taken(form, desk.control, "routes")
            await desk.control.send("PUT", "routes", form.value("name"), body=_body(form, held or {}))
            await refresh()

        form = Form(f"Change {held['name']}" if held else "New route", "Set route", put, wide=True)
        with form.body:
            _fields(form, held or {}, models)
        form.open()

    def forget(name: str) -> None:
        async def delete() -> None:
            await desk.control.send("DELETE", "routes", name)
            await refresh()

        confirm(f"Delete the route {name}? Who asks for it gets 404 from then on.", "Delete", delete)

    if desk.admin:
        with head:
            ui.button("New route", icon="add", on_click=ask).props("unelevated")
    async with desk.looking():
        await refresh()


def _fields(form: Form, held: dict[str, Any], models: list[str]) -> None:
    name = form.add("name", ui.input("Name", value=held.get("name", "")).props("autofocus"))
    if held:
        name.props("readonly")
    taken = ", ".join(_model_words(each) for each in held.get("models", ()))
    form.add("models", ui.input("Models, each with its quality from 0 to 1", value=taken))
    ui.label(f"Such as small=0.6, large=0.9. There are: {', '.join(models)}.").classes("soft small")
    _rule_fields(form, held)
    ui.label("Another order for a tier").classes("soft small")
    with ui.element("div").classes("two"):
        for word in TIER_WORDS:
            rule = held.get("by_tier", {}).get(word)
            choice = {"": "as above"} | _ORDERS
            form.add(f"by_tier_{word}", ui.select(choice, label=f"On {word}", value=rule["order_by"] if rule else ""))


def _rule_fields(form: Form, held: dict[str, Any]) -> None:
    limits = held.get("limits", {})
    form.add("order_by", ui.select(_ORDERS, label="Picks", value=held.get("order_by", "cost")))
    with ui.element("div").classes("two"):
        form.add("quality_min", ui.input("Quality at least", value=_typed(limits.get("quality_min"))))
        form.add("usd_per_1m_max", ui.input("USD per 1M tokens at most", value=_typed(limits.get("usd_per_1m_max"))))
    with ui.element("div").classes("two"):
        form.add(
            "ttft_p95_ms_max", ui.input("p95 first token, ms at most", value=_typed(limits.get("ttft_p95_ms_max")))
        )
        form.add("tokens_per_s_min", ui.input("Tokens / s at least", value=_typed(limits.get("tokens_per_s_min"))))


def _body(form: Form, held: dict[str, Any]) -> dict[str, Any]:
    """The whole route. What the form does not show of the one before stays: limits by tier, rules by workload."""
    by_tier = {}
    for word in TIER_WORDS:
        order = form.value(f"by_tier_{word}")
        if order:
            by_tier[word] = dict(held.get("by_tier", {}).get(word, {})) | {"order_by": order}
    limits = {
        "quality_min": _number(form.value("quality_min"), "quality_min"),
        "usd_per_1m_max": form.value("usd_per_1m_max") or None,
        "ttft_p95_ms_max": parse_whole(form.value("ttft_p95_ms_max"), "the first token's limit"),
        "tokens_per_s_min": _number(form.value("tokens_per_s_min"), "tokens_per_s_min"),
    }
    return {
        "models": _models(form.value("models")),
        "order_by": form.value("order_by"),
        "limits": {name: value for name, value in limits.items() if value is not None},
        "by_tier": by_tier,
        "by_workload": held.get("by_workload", {}),
    }


def _models(text: str) -> list[dict[str, Any]]:
    """`small=0.6, large`."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, quality = part.rpartition("=")
        found.append({"model": name.strip(), "quality": _number(quality, "models")} if equals else {"model": part})
    return found


def _number(text: str, field: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise Trouble("must be a number", field=field) from None


def _row(route: dict[str, Any]) -> dict[str, Any]:
    unknown = set(route["unknown"])
    models = ", ".join(
        f"{_model_words(each)}{' (not configured)' if each['model'] in unknown else ''}" for each in route["models"]
    )
    others = [f"{tier}: {_rule_words(rule)}" for tier, rule in (route["by_tier"] | route["by_workload"]).items()]
    return {
        "id": route["name"],
        "name": route["name"],
        "models": models,
        "rule": _rule_words(route),
        "others": "; ".join(others) or "–",
        "route": route,
    }


def _model_words(model: dict[str, Any]) -> str:
    return model["model"] if model.get("quality") is None else f"{model['model']}={model['quality']:g}"


def _rule_words(rule: dict[str, Any]) -> str:
    limits = rule["limits"]
    words = [_ORDERS.get(rule["order_by"], rule["order_by"])]
    if limits.get("quality_min") is not None:
        words.append(f"quality ≥ {limits['quality_min']:g}")
    if limits.get("usd_per_1m_max") is not None:
        words.append(f"≤ {limits['usd_per_1m_max']} USD per 1M")
    if limits.get("ttft_p95_ms_max") is not None:
        words.append(f"p95 first token ≤ {limits['ttft_p95_ms_max']} ms")
    if limits.get("tokens_per_s_min") is not None:
        words.append(f"≥ {limits['tokens_per_s_min']:g} tokens/s")
    return ", ".join(words)


def _typed(value: object) -> str:
    return "" if value is None else str(value)
