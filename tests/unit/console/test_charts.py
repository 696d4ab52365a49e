"""Charts: the right numbers at the right places, and one colour per tier everywhere."""

from typing import Any

from fareclass.console.charts import (
    TIER_COLOURS,
    TIER_WORDS,
    band,
    curves,
    side_by_side,
    stacked_bars,
    steps,
    tiers_over_time,
)


def by_name(options: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in options["series"]}


def test_what_runs_over_time_is_stacked_in_the_colours_of_the_tiers():
    options = tiers_over_time([1_000, 3_000], {word: [1, 2] for word in TIER_WORDS}, 10_000, 8)
    assert [one["name"] for one in options["series"]] == list(TIER_WORDS)
    assert {one["name"]: one["color"] for one in options["series"]} == dict(TIER_COLOURS)
    assert by_name(options)["flex"]["data"] == [[1_000, 1], [3_000, 2]]
    assert (options["xAxis"]["min"], options["xAxis"]["max"]) == (-7_000, 3_000)
    assert (options["yAxis"]["max"], options["yAxis"]["interval"]) == (8, 2)


def test_a_pool_that_nothing_is_known_of_yet():
    assert tiers_over_time([], {word: [] for word in TIER_WORDS}, 10_000, 1)["series"][0]["data"] == []


def test_columns_of_tiers_have_their_colours():
    shown = by_name(stacked_bars(["mon", "tue"], {"priority": [1, 2], "shed": [0, 3]}))
    assert shown["priority"]["color"] == TIER_COLOURS["priority"]
    assert shown["shed"]["color"] not in TIER_COLOURS.values()
    beside = by_name(side_by_side(["reserved", "flex"], {"p50": [1, None], "p95": [2, 4]}, "ms", type="log"))
    assert [one["value"] for one in beside["p50"]["data"]] == [1, None]
    assert beside["p95"]["data"][1]["itemStyle"]["color"] == TIER_COLOURS["flex"]


def test_a_calendar_stands_below_its_limit():
    options = steps({"a": [(0, 10.0), (5, 20.0)]}, 47.0, "most")
    assert by_name(options)["most"]["data"] == [[0, 47.0], [5, 47.0]]
    assert by_name(options)["a"]["step"] == "end"


def test_the_curves_mark_the_chosen_level():
    options = curves(["p10", "p50"], [1.0, 2.0], [40.0, 3.0], [None, 12.0], 1)
    shown = by_name(options)
    assert shown["cost"]["markLine"]["data"] == [{"xAxis": 1}]
    assert (shown["spill"]["yAxisIndex"], shown["wait"]["yAxisIndex"]) == (1, 2)
    assert shown["wait"]["data"] == [None, 12.0]


def test_a_band_lies_between_low_and_high():
    shown = by_name(band([("t", 1.0)], [("t", 2.0)], [("t", 4.0)], "level"))
    assert shown["low"]["data"] == [["t", 1.0]]
    assert shown["eight of ten"]["data"] == [["t", 3.0]]
    assert shown["expected"]["data"] == [["t", 2.0]]
