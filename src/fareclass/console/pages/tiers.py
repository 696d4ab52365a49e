"""The tier board: what each tier was like, by requested and served tier, side by side."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS, base, side_by_side, stacked_bars
from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Column, Table, card, chart, show_chart
from fareclass.console.words import back, count, count_short, usd

_EVERY_S = 10.0
_SPANS = {0.25: "last 15 minutes", 1: "last hour", 24: "last 24 hours", 168: "last 7 days", 720: "last 30 days"}
_COLUMNS = (
    Column("requested", "Requested", cell="tier"),
    Column("served", "Served as", cell="tier"),
    Column("requests", "Requests", number=True),
    Column("completed", "Completed", number=True),
    Column("throttled", "Throttled", number=True),
    Column("shed", "Shed", number=True),
    Column("expired", "Expired", number=True),
    Column("queue", "Queue ms p50 / 95", number=True),
    Column("ttft", "TTFT ms p50 / 95 / 99", number=True),
    Column("between", "Inter-token ms p50 / 95 / 99", number=True),
    Column("speed", "Tokens / s p50", number=True),
    Column("pauses", "Pauses", number=True),
    Column("restarts", "Restarts", number=True),
    Column("output", "Output tokens", number=True),
    Column("cost", "Cost", number=True),
)
_SHORTEST_MS = 0.1
"""Less is shown as so much."""


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading(
        "Tiers", "What callers got on each tier: first token, pace, refusals, by the tier that they asked for and got."
    )
    with card():
        with ui.element("div").classes("filters"):
            span = ui.select(_SPANS, label="Span", value=1)
            model = ui.select({"": "all"}, label="Model", value="")
            project = ui.select({"": "all"}, label="Project", value="")
            for one in (span, model, project):
                one.props("outlined dense")
        with ui.element("div").classes("pair"):
            ttft = chart(base(), label="Time to first token by tier")
            between = chart(base(), label="Time between tokens by tier")
            speed = chart(base(), label="Tokens a second of one answer by tier")
            refused = chart(base(), label="Refusals by requested tier")
        table = Table(_COLUMNS, empty="No request in this span.", label="Tiers")

    async def refresh() -> None:
        found = await desk.control.rows(
            "tiers", model=model.value or None, project=project.value or None, from_=back(span.value)
        )
        rows = sorted(found, key=lambda row: (_rank(row["requested_tier"]), _rank(row["served_tier"])))
        table.show([_row(row) for row in rows])
        served = [row for row in rows if row["requested_tier"] == row["served_tier"]]
        show_chart(ttft, _times(served))
        show_chart(between, _percentiles(served, "inter_token_ms", "between tokens, ms"))
        show_chart(speed, _speeds(served))
        show_chart(refused, _refusals(rows))

    async def again() -> None:
        async with desk.looking():
            await refresh()

    async with desk.looking():
        models = [pool["model"] for pool in await desk.control.rows("pools")]
        projects = {one["id"]: one["name"] for one in await desk.control.pages("projects")}
        model.set_options({"": "all"} | {name: name for name in models})
        project.set_options({"": "all"} | projects)
    for one in (span, model, project):
        one.on_value_change(again)
    await desk.live(refresh, _EVERY_S)


def _percentiles(rows: Sequence[dict[str, Any]], field: str, name: str, **scale: Any) -> dict[str, Any]:
    measured = [row for row in rows if row.get(field)]
    series = {which: [row[field][which] for row in measured] for which in ("p50", "p95")}
    return side_by_side([row["served_tier"] for row in measured], series, name, **scale)


def _times(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """First tokens, on a scale of powers of ten that begins below the shortest."""
    shortest = min((row["ttft_ms"]["p50"] for row in rows if row.get("ttft_ms")), default=_SHORTEST_MS)
    least = 10.0 ** math.floor(math.log10(max(_SHORTEST_MS, shortest)))
    return _percentiles(rows, "ttft_ms", "first token, ms (log)", type="log", min=least)


def _speeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    measured = [row for row in rows if row.get("output_tokens_per_s")]
    series = {"p50": [row["output_tokens_per_s"]["p50"] for row in measured]}
    return side_by_side([row["served_tier"] for row in measured], series, "tokens / s of one answer")


def _refusals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    words = [word for word in TIER_WORDS if any(row["requested_tier"] == word for row in rows)]
    kinds: dict[str, Callable[[dict[str, Any]], int]] = {
        "throttled": lambda row: row["throttled"],
        "shed": lambda row: row["shed"],
        "expired": lambda row: row["outcomes"].get("expired", 0),
    }
    series = {
        kind: [float(sum(number(row) for row in rows if row["requested_tier"] == word)) for word in words]
        for kind, number in kinds.items()
    }
    return stacked_bars(words, series, "refused requests")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    outcomes = row["outcomes"]
    speed = row.get("output_tokens_per_s")
    return {
        "id": f"{row['requested_tier']} {row['served_tier']}",
        "requested": row["requested_tier"],
        "served": row["served_tier"],
        "requests": count(row["requests"]),
        "completed": count(outcomes.get("completed", 0)),
        "throttled": count(row["throttled"]),
        "shed": count(row["shed"]),
        "expired": count(outcomes.get("expired", 0)),
        "queue": _points(row.get("queue_ms"), "p50", "p95"),
        "ttft": _points(row.get("ttft_ms"), "p50", "p95", "p99"),
        "between": _points(row.get("inter_token_ms"), "p50", "p95", "p99"),
        "speed": "–" if not speed or speed["p50"] is None else f"{speed['p50']:.1f}",
        "pauses": count(row["pauses"]),
        "restarts": count(row["restarts"]),
        "output": count_short(row["output"]),
        "cost": usd(row["cost"]),
    }


def _points(found: dict[str, float | None] | None, *names: str) -> str:
    return " / ".join(count(found[name]) for name in names) if found else "–"


def _rank(word: str) -> int:
    return TIER_WORDS.index(word) if word in TIER_WORDS else len(TIER_WORDS)
