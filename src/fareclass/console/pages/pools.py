"""Pools: what every model's replicas do at this moment, and the last minutes of it."""

from collections import deque
from functools import partial
from html import escape
from time import time
from typing import Any

from nicegui import ui

from fareclass.console.charts import TIER_WORDS, tiers_over_time
from fareclass.console.client import Trouble
from fareclass.console.frame import Desk, heading
from fareclass.console.parts import Action, Column, Form, Table, card, chart, facts, markup, meter, show_chart
from fareclass.console.words import count, count_short, ms, parse_whole, percent

_EVERY_S = 2.0
_SAMPLES = 150
"""Five minutes of what runs."""
_TIERS = (
    Column("tier", "Tier", cell="tier"),
    Column("running", "Running", number=True),
    Column("waiting", "Waiting", number=True),
    Column("paused", "Paused", number=True),
    Column("oldest", "Oldest waits", number=True),
    Column("expected", "Expected wait", number=True),
    Column("pauses", "Pauses", number=True),
    Column("restarts", "Restarts", number=True),
)
_REPLICAS = (
    Column("name", "Replica"),
    Column("state", "State", cell="chip"),
    Column("slots", "Slots", number=True),
    Column("tiers", "Tiers"),
    Column("backlog", "Prefill backlog", number=True),
    Column("engine", "Engine"),
    Column("continues", "Continues answers"),
    Column("priority", "Own priority"),
    Column("isolation", "Caches apart by"),
)
_FLOORS = (
    Column("project", "Project"),
    Column("input", "Input floor", number=True),
    Column("input_use", "Input used of its minute", cell="meter"),
    Column("output", "Output floor", number=True),
    Column("output_use", "Output used of its minute", cell="meter"),
)


async def build(desk: Desk) -> None:
    """Draw the page."""
    heading("Pools", "Who has which slots now, who waits for one, and what was taken from whom.")
    shown: dict[str, PoolCard] = {}
    place = ui.element("div").style("display:contents")

    async def refresh() -> None:
        pools = await desk.control.rows("pools")
        names = {one["id"]: one["name"] for one in await desk.control.pages("projects")}
        for pool in pools:
            if pool["model"] not in shown:
                with place:
                    shown[pool["model"]] = PoolCard(desk, pool["model"])
            shown[pool["model"]].show(pool, names)

    await desk.live(refresh, _EVERY_S)


class PoolCard:
    """One model's pool."""

    def __init__(self, desk: Desk, model: str) -> None:
        self._desk = desk
        self._model = model
        self._most = 1
        self._past: deque[tuple[float, dict[str, int]]] = deque(maxlen=_SAMPLES)
        with card(model):
            self._facts = markup()
            with ui.element("div").classes("pair"):
                with ui.element("div"):
                    self._slots = markup().classes("slots").props('aria-label="Slots by tier"')
                self._chart = chart(self._history(), height_px=170, label=f"Running by tier on {model}")
            self._tiers = Table(_TIERS, empty="No tiers.", label=f"Tiers on {model}")
            actions = [Action("Change", self._change)] if desk.admin else []
            self._replicas = Table(_REPLICAS, empty="No replica.", actions=actions, label=f"Replicas of {model}")
            self._floors = Table(_FLOORS, empty="No reservation is in force here.", label=f"Floors on {model}")

    def show(self, pool: dict[str, Any], projects: dict[str, str]) -> None:
        """What the pool is now."""
        running = {word: pool["tiers"][word]["running"] for word in TIER_WORDS}
        self._past.append((time() * 1000, running))
        self._most = max(pool["slots"], sum(running.values()), 1)
        self._facts.content = facts(_facts(pool, running))
        self._slots.content = "".join(_slots_of(replica) for replica in pool["replicas"])
        show_chart(self._chart, self._history())
        self._tiers.show([_tier_row(word, pool["tiers"][word]) for word in TIER_WORDS])
        self._replicas.show([_replica_row(replica) for replica in pool["replicas"]])
        self._floors.show([_floor_row(floor, projects) for floor in pool["floors"]])

    def _history(self) -> dict[str, Any]:
        moments = [at for at, _ in self._past]
        by_tier = {word: [running[word] for _, running in self._past] for word in TIER_WORDS}
        return tiers_over_time(moments, by_tier, _SAMPLES * _EVERY_S * 1000, self._most)

    def _change(self, row: dict[str, Any]) -> None:
        """Ask what shall change of a replica."""
        form = Form(f"Change {row['name']}", "Change", partial(self._send_change, row["name"]))
        with form.body:
            ui.label("In force within a second. Running requests are not ended.").classes("soft small")
            form.add("slots", ui.input("Slots", value=str(row["slot_count"])).props("inputmode=numeric"))
            words = row["tier_words"].split() or list(TIER_WORDS)
            form.add("tiers", ui.select(list(TIER_WORDS), label="Serves these tiers", value=words, multiple=True))
            form.add("drain", ui.select({False: "takes new work", True: "drains"}, label="Work", value=row["drain"]))
        form.open()

    async def _send_change(self, replica: str, form: Form) -> None:
        if not form.value("tiers"):
            raise Trouble("A replica must serve at least one tier.", field="tiers")
        slots = parse_whole(form.value("slots"), "slots")
        body = {"slots": slots, "tiers": form.value("tiers"), "drain": form.value("drain")}
        await self._desk.control.send("PATCH", "pools", self._model, "replicas", replica, body=body)


def _facts(pool: dict[str, Any], running: dict[str, int]) -> dict[str, str]:
    headroom = pool["headroom"]
    shown = {
        "slots in use": f"{sum(running.values())} of {pool['slots']}",
        "waiting": count(sum(tier["waiting"] for tier in pool["tiers"].values())),
        "paused": count(sum(tier["paused"] for tier in pool["tiers"].values())),
        "headroom for reservations": f"{headroom['slots']} slots",
    }
    if pool["kept_share"] < 1:
        shown["of the floors can be kept: replicas are missing"] = percent(pool["kept_share"])
    return shown


def _slots_of(replica: dict[str, Any]) -> str:
    running = {word: float(replica["running"].get(word, 0)) for word in TIER_WORDS}
    used = sum(running.values())
    name = escape(replica["id"])
    return (
        f'<div class="line{"" if replica["up"] else " down"}"><span class="name" title="{name}">{name}</span>'
        f'{meter(running, max(replica["slots"], used))}<span class="count">{used:g} of {replica["slots"]}</span></div>'
    )


def _tier_row(word: str, tier: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": word,
        "tier": word,
        "running": tier["running"],
        "waiting": tier["waiting"],
        "paused": tier["paused"],
        "oldest": ms(tier["oldest_wait_ms"]) if tier["waiting"] else "–",
        "expected": ms(tier["expected_wait_ms"]),
        "pauses": count(tier["pauses"]),
        "restarts": count(tier["restarts"]),
    }


def _replica_row(replica: dict[str, Any]) -> dict[str, Any]:
    state, tone = ("up", "good") if replica["up"] else ("down", "bad")
    if replica["up"] and replica["drain"]:
        state, tone = "draining", "warn"
    elif replica["circuit"] == "half_open":
        state, tone = "on trial", "warn"
    words = " ".join(replica["tiers"] or ())
    return {
        "id": replica["id"],
        "name": replica["id"],
        "state": state,
        "state_tone": tone,
        "slots": count(replica["slots"]),
        "slot_count": replica["slots"],
        "tiers": words or "all",
        "tier_words": words,
        "drain": replica["drain"],
        "backlog": f"{count_short(replica['prefill_backlog_tokens'])} tokens",
        "engine": replica["engine"] or "–",
        "continues": "yes" if replica["continuable"] else "no",
        "priority": {True: "honoured", False: "ignored", None: "–"}[replica["honours_priority"]],
        "isolation": str(replica["cache_isolation"]).lower(),
    }


def _floor_row(floor: dict[str, Any], projects: dict[str, str]) -> dict[str, Any]:
    row = {"id": floor["project"], "project": projects.get(floor["project"], floor["project"])}
    for side in ("input", "output"):
        tpm, left = floor[f"{side}_tpm"], floor[f"{side}_left"]
        used = min(1.0, max(0.0, 1 - left / tpm)) if tpm else 0.0
        row |= {
            side: f"{count(tpm)} TPM",
            f"{side}_use": percent(used) if left >= 0 else "in debt",
            f"{side}_use_share": round(100 * used, 1),
            f"{side}_use_colour": "reserved",
        }
    return row
