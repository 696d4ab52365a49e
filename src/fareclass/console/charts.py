"""Charts in one look. Each function returns ECharts options; colours work on light and dark ground alike."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fareclass.core.tiers import TIERS

Options = dict[str, Any]
TIER_COLOURS = MappingProxyType(
    {"reserved": "#8b5cf6", "priority": "#e8590c", "default": "#2f7fed", "flex": "#12a37f", "batch": "#8b93a1"}
)
"""One colour per tier, everywhere."""
TIER_WORDS = tuple(tier.word for tier in TIERS)
SHADES = ("#8b5cf6", "#c4a7fb", "#6d3fd1", "#e0a3e8", "#5b6ee1", "#b07cc6", "#a3b1ff", "#7a4fa3")
"""Of reservations, near to the colour of their tier."""
REFUSAL_COLOURS = MappingProxyType({"throttled": "#d6a100", "shed": "#d6336c", "expired": "#8a919e"})
PALETTE = ("#2f7fed", "#12a37f", "#e8590c", "#8b5cf6", "#c2a000", "#d6336c", "#0c8599", "#8b93a1")
_GREY = "#8a919e"
_LINE = "rgba(138,145,158,0.22)"
_FONT = 11


def base(*, left: int = 56, legend: bool = True, bottom: int = 28) -> Options:
    """What all charts share: no animation of what is live, quiet axes, a dark tooltip."""
    return {
        "animation": False,
        "color": list(PALETTE),
        "textStyle": {"color": _GREY, "fontSize": _FONT, "fontFamily": "inherit"},
        "grid": {"left": left, "right": 16, "top": 34 if legend else 14, "bottom": bottom},
        "legend": {
            "show": legend, "top": 0, "left": 0, "itemWidth": 10, "itemHeight": 10, "icon": "roundRect", "type": "scroll",
            "textStyle": {"color": _GREY, "fontSize": _FONT}, "inactiveColor": _LINE,
            "pageTextStyle": {"color": _GREY}, "pageIconColor": _GREY,
        },
        "tooltip": {
            "trigger": "axis", "confine": True, "backgroundColor": "rgba(22,24,29,0.94)", "borderWidth": 0,
            "textStyle": {"color": "#f2f3f5", "fontSize": 12}, "axisPointer": {"lineStyle": {"color": _GREY}},
        },
    }  # fmt: skip


def value_axis(name: str = "", **more: Any) -> Options:
    """An axis of numbers; its name stands beside it."""
    return {
        "type": "value",
        "name": name,
        "nameLocation": "middle",
        "nameGap": 42,
        "nameTextStyle": {"color": _GREY, "fontSize": _FONT},
        "axisLabel": {"color": _GREY, "fontSize": _FONT},
        "splitLine": {"lineStyle": {"color": _LINE}},
        "splitNumber": 3,
        **more,
    }


def named_axis(kind: str, **more: Any) -> Options:
    """An axis of names (`category`) or moments (`time`)."""
    return {
        "type": kind,
        "axisLabel": {"color": _GREY, "fontSize": _FONT, "hideOverlap": True},
        "axisLine": {"lineStyle": {"color": _LINE}},
        "axisTick": {"show": False},
        "splitLine": {"show": False},
        **more,
    }


def tiers_over_time(
    moments_ms: Sequence[float], by_tier: Mapping[str, Sequence[float]], span_ms: float, most: int
) -> Options:
    """Stacked areas, worst tier on top, over the last `span_ms`; `by_tier` has one number for each moment."""
    end = moments_ms[-1] if moments_ms else 0
    series = [
        {
            "name": word, "type": "line", "stack": "all", "symbol": "none", "areaStyle": {"opacity": 0.75},
            "lineStyle": {"width": 0}, "color": TIER_COLOURS[word],
            "data": [[at, value] for at, value in zip(moments_ms, by_tier[word], strict=True)],
        }
        for word in TIER_WORDS
        if word in by_tier
    ]  # fmt: skip
    times = named_axis("time", min=end - span_ms, max=end)
    return base(left=40) | {"xAxis": times, "yAxis": value_axis(interval=-(-most // 4), max=most), "series": series}


def stacked_bars(names: Sequence[str], series: Mapping[str, Sequence[float]], axis: str = "") -> Options:
    """Columns that add up; a series named as a tier or a refusal has its colour."""
    found = [
        {"name": name, "type": "bar", "stack": "all", "barMaxWidth": 36, "data": list(values), **_tier_colour(name)}
        for name, values in series.items()
    ]
    return base() | {"xAxis": named_axis("category", data=list(names)), "yAxis": value_axis(axis), "series": found}


def side_by_side(
    names: Sequence[str], series: Mapping[str, Sequence[float | None]], axis: str = "", **scale: Any
) -> Options:
    """Columns beside each other in each group; `scale` is what is special about the axis. Where the groups are tiers, each has its tier's colour, later series
    fainter.
    """
    found = []
    for place, (name, values) in enumerate(series.items()):
        opacity = 1 - 0.3 * place
        data = [
            {"value": value, "itemStyle": {**_tier_colour(group), "opacity": opacity}}
            for group, value in zip(names, values, strict=True)
        ]
        style = {"color": _GREY, "opacity": opacity}
        found.append({"name": name, "type": "bar", "barMaxWidth": 28, "data": data, "itemStyle": style})
    upright = value_axis(axis, **scale)
    return base() | {"xAxis": named_axis("category", data=list(names)), "yAxis": upright, "series": found}


def steps(
    series: Mapping[str, Sequence[tuple[int, float]]], limit: float | None, limit_name: str, axis: str = ""
) -> Options:
    """Stacked steps over time, each point lasting to the next, below a limit."""
    found: list[Options] = [
        {
            "name": name, "type": "line", "step": "end", "stack": "all", "symbol": "none",
            "areaStyle": {"opacity": 0.6}, "lineStyle": {"width": 1}, "data": [list(point) for point in points],
        }
        for name, points in series.items()
    ]  # fmt: skip
    if limit is not None and found:
        ends = [found[0]["data"][0][0], found[0]["data"][-1][0]]
        found.append(
            {
                "name": limit_name, "type": "line", "symbol": "none", "color": "#e03131",
                "lineStyle": {"type": "dashed", "width": 1.5}, "data": [[at, limit] for at in ends],
            }
        )  # fmt: skip
    axes = {"xAxis": named_axis("time"), "yAxis": value_axis(axis, nameGap=34), "series": found}
    return base(left=52) | {"color": list(SHADES)} | axes


def curves(
    names: Sequence[str], cost: Sequence[float], spill: Sequence[float], wait_ms: Sequence[float | None], chosen: int
) -> Options:
    """Cost, spill share (percent) and waits over levels of reserving, with a mark at the chosen one."""
    mark = {
        "silent": True, "symbol": "none", "lineStyle": {"color": _GREY, "type": "dashed"},
        "label": {"show": False}, "data": [{"xAxis": chosen}],
    }  # fmt: skip
    right = {"splitLine": {"show": False}, "position": "right"}
    return base(left=64) | {
        "grid": {"left": 64, "right": 96, "top": 46, "bottom": 28},
        "xAxis": named_axis("category", data=list(names), boundaryGap=False),
        "yAxis": [
            value_axis("USD / month", scale=True),
            value_axis("spill %", **right, min=0),
            value_axis("wait ms", **right, min=0, offset=48),
        ],
        "series": [
            {"name": "cost", "type": "line", "symbol": "none", "data": list(cost), "markLine": mark, "color": PALETTE[0]},
            {"name": "spill", "type": "line", "symbol": "none", "data": list(spill), "yAxisIndex": 1, "color": PALETTE[2]},
            {"name": "wait", "type": "line", "symbol": "none", "data": list(wait_ms), "yAxisIndex": 2, "color": PALETTE[1]},
        ],
    }  # fmt: skip


def band(
    low: Sequence[tuple[str, float]], middle: Sequence[tuple[str, float]], high: Sequence[tuple[str, float]], axis: str
) -> Options:
    """A line over time, between two others."""
    hidden = {"type": "line", "symbol": "none", "lineStyle": {"width": 0}, "silent": True, "tooltip": {"show": False}}
    width = [[at, top - bottom] for (at, bottom), (_, top) in zip(low, high, strict=True)]
    series = [
        {**hidden, "name": "low", "stack": "band", "data": [list(point) for point in low]},
        {**hidden, "name": "eight of ten", "stack": "band", "areaStyle": {"opacity": 0.25}, "data": width, "color": PALETTE[0]},
        {"name": "expected", "type": "line", "symbol": "none", "data": [list(point) for point in middle], "color": PALETTE[0]},
    ]  # fmt: skip
    return base(legend=False) | {"xAxis": named_axis("time"), "yAxis": value_axis(axis), "series": series}


def _tier_colour(name: str) -> Options:
    colour = TIER_COLOURS.get(name) or REFUSAL_COLOURS.get(name)
    return {} if colour is None else {"color": colour}
