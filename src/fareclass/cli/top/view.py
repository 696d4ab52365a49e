"""The picture that `fareclass top` shows, out of what the control plane says: pure.

A letter stands for each sequence of a tier, so that the bars can be read without colours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from fareclass.cli.top.source import WINDOW_S
from fareclass.core.tiers import TIERS

TIER_WORDS = tuple(tier.word for tier in TIERS)
_STYLES = {
    "reserved": "bold white on blue",
    "priority": "bold white on magenta",
    "default": "bold black on green",
    "flex": "bold black on yellow",
    "batch": "bold white on grey37",
}
_LETTERS = {word: word[0].upper() for word in TIER_WORDS}
_FREE, _KEPT = "·", "░"
_NAME_CELLS = 12
_COUNT_CELLS = 10
_SPARKS = "▁▂▃▄▅▆▇█"
_NOTHING = "–"
LINE_HEADINGS = ("tier", "running", "waiting", "oldest wait", "next would wait", "paused")
BOARD_HEADINGS = ("tier", "req/s", "TTFT p50", "p95", "tok/s", "429", "503", "pauses", "restarts")
FLOOR_HEADINGS = ("floor of", "input a minute", "used", "output a minute", "used")
HELP = """\
A cell of a bar is a slot: R reserved, P priority, D default, F flex,
B batch, · free, ░ free and kept for work that can't be moved away
(headroom). Long bars are drawn to scale.

oldest wait       how long the first in line has stood there
next would wait   what a request that came now would have to wait
paused            answers that gave way, and will go on where they stood
tier              a › b: asked for as a, served as b
tok/s             output tokens a second, over all answers that ended
429, 503          refused for a limit of their own; for want of room
floor of          what is used of the minute that a reservation keeps

q quit   m next model   p pause and go on   ? this help   arrows scroll"""


def heading(pool: Mapping[str, Any]) -> str:
    """The pool in one line."""
    replicas = pool["replicas"]
    up = sum(bool(replica["up"]) for replica in replicas)
    running = sum(tier["running"] for tier in pool["tiers"].values())
    parts = [f"{running} of {pool['slots']} slots run", f"{up} of {len(replicas)} replicas up"]
    if headroom := pool["headroom"]["slots"]:
        parts.append(f"headroom {headroom}")
    if pool["kept_share"] < 1:
        parts.append(f"FLOORS SHRUNK TO {pool['kept_share']:.0%}")
    return "  ".join(parts)


def replica_bars(pool: Mapping[str, Any], width: int) -> list[Text]:
    """A bar for each replica, and one for the pool where there are several; in it are the slots kept free."""
    replicas = pool["replicas"]
    bars = [_line(_named(one), one["running"], one["slots"] if one["up"] else 0, 0, width) for one in replicas]
    if len(replicas) == 1:
        only = replicas[0]
        return [_line(_named(only), only["running"], only["slots"], pool["headroom"]["slots"], width)]
    running = {word: pool["tiers"][word]["running"] for word in TIER_WORDS}
    return [_line("pool", running, pool["slots"], pool["headroom"]["slots"], width), *bars]


def _named(replica: Mapping[str, Any]) -> str:
    state = "" if replica["up"] else " down"
    return f"{replica['id']}{' drain' if replica['drain'] else state}"


def _line(name: str, running: Mapping[str, int], slots: int, headroom: int, width: int) -> Text:
    count = f"{sum(running.values())}/{slots}"
    room = max(8, width - _NAME_CELLS - _COUNT_CELLS)
    line = Text(_cut(name, _NAME_CELLS - 1).ljust(_NAME_CELLS))
    line.append_text(bar(running, slots, headroom, room))
    return line.append(f" {count}")


def bar(running: Mapping[str, int], slots: int, headroom: int, room: int) -> Text:
    """Slots as cells, one each where there is room, else to scale; what runs is never less than a cell."""
    scale = min(1.0, room / max(1, slots, sum(running.values())))
    drawn = Text()
    for word in TIER_WORDS:
        if count := running.get(word, 0):
            drawn.append(_LETTERS[word] * max(1, math.floor(count * scale)), _STYLES[word])
    free = max(0, math.floor(slots * scale) - len(drawn))
    kept = min(free, math.ceil(headroom * scale))
    drawn.append(_FREE * (free - kept)).append(_KEPT * kept, "blue")
    drawn.truncate(room)
    return drawn


def tier_lines(pool: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The queues, as `LINE_HEADINGS`."""
    rows: list[tuple[str, ...]] = []
    for word in TIER_WORDS:
        tier = pool["tiers"][word]
        waits = tier["waiting"] > 0
        rows.append(
            (
                word,
                f"{tier['running']:,}",
                f"{tier['waiting']:,}",
                duration(tier["oldest_wait_ms"]) if waits else _NOTHING,
                duration(tier["expected_wait_ms"]),
                f"{tier['paused']:,}",
            )
        )
    return rows


def board_rows(board: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The last minute by requested and served tier, as `BOARD_HEADINGS`, better tiers first."""
    ordered = sorted(board, key=lambda row: (_rank(row["requested_tier"]), _rank(row["served_tier"])))
    return [_board_row(row) for row in ordered]


def _board_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    asked, served = row["requested_tier"], row["served_tier"]
    ttft_ms = row["ttft_ms"] or {}
    return (
        asked if asked == served else f"{asked} › {served}",
        f"{row['requests'] / WINDOW_S:.1f}",
        duration(ttft_ms.get("p50")),
        duration(ttft_ms.get("p95")),
        f"{row['output'] / WINDOW_S:,.0f}",
        f"{row['throttled']:,}",
        f"{row['shed']:,}",
        f"{row['pauses']:,}",
        f"{row['restarts']:,}",
    )


def _rank(word: str) -> int:
    return TIER_WORDS.index(word) if word in TIER_WORDS else len(TIER_WORDS)


def tokens_per_s(board: Sequence[Mapping[str, Any]]) -> float:
    """Output tokens a second over the last minute, of all tiers."""
    return float(sum(row["output"] for row in board)) / WINDOW_S


def floor_rows(pool: Mapping[str, Any], owners: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Floors in force, as `FLOOR_HEADINGS`, with their owners' names; more than all is debt (R20)."""
    return [
        (
            owners.get(floor["project"], floor["project"]),
            f"{floor['input_tpm']:,}",
            _used(floor["input_left"], floor["input_tpm"]),
            f"{floor['output_tpm']:,}",
            _used(floor["output_left"], floor["output_tpm"]),
        )
        for floor in pool["floors"]
    ]


def _used(left: float, tpm: int) -> str:
    return f"{1 - left / tpm:.0%}" if tpm else _NOTHING


def sparkline(values: Sequence[float], room: int) -> str:
    """The last of the values as a line of blocks, from nothing to the largest of them."""
    shown = values[-max(0, room) :] if room > 0 else []
    most = max(shown, default=0.0)
    if not most:
        return _SPARKS[0] * len(shown)
    return "".join(_SPARKS[min(len(_SPARKS) - 1, int(value / most * len(_SPARKS)))] for value in shown)


def duration(ms: float | None) -> str:
    """Milliseconds as people read them, in at most six cells."""
    if ms is None:
        return _NOTHING
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 100_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms / 60_000:.0f} min"


def _cut(text: str, cells: int) -> str:
    return text if len(text) <= cells else text[: cells - 1] + "…"
