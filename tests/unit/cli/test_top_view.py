"""What `fareclass top` shows of what the control plane says."""

import copy

import pytest

from fareclass.cli.top import view

TIERS = {
    word: {"running": 0, "waiting": 0, "paused": 0, "expected_wait_ms": 0, "oldest_wait_ms": 0}
    for word in view.TIER_WORDS
}
REPLICA = {"id": "gpu-0", "up": True, "drain": False, "slots": 16, "running": {"reserved": 3, "flex": 5}}
POOL = {
    "model": "m",
    "slots": 32,
    "headroom": {"slots": 6},
    "kept_share": 1.0,
    "floors": [{"project": "p1", "input_tpm": 1_000, "output_tpm": 200, "input_left": 250.0, "output_left": -20.0}],
    "tiers": {
        **TIERS,
        "reserved": {**TIERS["reserved"], "running": 3},
        "flex": {**TIERS["flex"], "running": 5, "waiting": 12, "paused": 2, "oldest_wait_ms": 61_000, "expected_wait_ms": 4_200},
    },
    "replicas": [REPLICA, {**REPLICA, "id": "gpu-1", "running": {}}],
}  # fmt: skip
ROW = {
    "requested_tier": "reserved", "served_tier": "reserved", "requests": 120, "throttled": 0, "shed": 0, "pauses": 0,
    "restarts": 0, "output": 6_000, "ttft_ms": {"p50": 52.0, "p95": 1_240.0, "p99": 9_000.0},
}  # fmt: skip


@pytest.fixture
def pool():
    return copy.deepcopy(POOL)


def test_the_heading_sums_the_pool_up(pool):
    assert view.heading(pool) == "8 of 32 slots run  2 of 2 replicas up  headroom 6"


def test_the_heading_cries_out_when_floors_shrink(pool):
    """R23."""
    pool["kept_share"], pool["replicas"][1]["up"] = 0.5, False
    assert view.heading(pool) == "8 of 32 slots run  1 of 2 replicas up  headroom 6  FLOORS SHRUNK TO 50%"


def test_each_slot_is_a_cell_by_tier_and_the_pools_bar_shows_the_headroom(pool):
    """R10."""
    whole, first, second = (bar.plain for bar in view.replica_bars(pool, 80))
    assert whole == "pool        RRRFFFFF" + "·" * 18 + "░" * 6 + " 8/32"
    assert first == "gpu-0       RRRFFFFF" + "·" * 8 + " 8/16"
    assert second == "gpu-1       " + "·" * 16 + " 0/16"


def test_a_replica_alone_is_the_pool(pool):
    pool["replicas"] = pool["replicas"][:1]
    (only,) = view.replica_bars(pool, 80)
    assert only.plain == "gpu-0       RRRFFFFF··" + "░" * 6 + " 8/16"


def test_what_is_down_or_drained_says_so_and_has_no_free_slots(pool):
    pool["replicas"][0]["drain"] = True
    pool["replicas"][1]["up"] = False
    _, first, second = (bar.plain for bar in view.replica_bars(pool, 80))
    assert first.startswith("gpu-0 drain RRR")
    assert second == "gpu-1 down   0/0"


@pytest.mark.parametrize("width", [20, 30, 80, 200])
def test_bars_fit_whatever_the_width_and_leave_no_tier_out(pool, width):
    pool["slots"] = 512
    pool["tiers"]["batch"]["running"] = 400
    (bar, *_) = view.replica_bars(pool, width)
    assert len(bar.plain) <= max(width, 30) + 4
    assert {"R", "F", "B"} <= set(bar.plain)


def test_a_wait_is_shown_only_where_somebody_waits(pool):
    lines = {line[0]: line[1:] for line in view.tier_lines(pool)}
    assert lines["flex"] == ("5", "12", "61.0 s", "4.2 s", "2")
    assert lines["reserved"] == ("3", "0", "–", "0 ms", "0")
    assert [*lines] == list(view.TIER_WORDS)


def test_the_board_goes_from_better_to_worse_and_shows_both_tiers(pool):
    """R5."""
    spilled = {**ROW, "served_tier": "priority", "ttft_ms": None, "throttled": 4, "shed": 2, "pauses": 1, "restarts": 3}
    flex = {**ROW, "requested_tier": "flex", "served_tier": "flex"}
    rows = view.board_rows([flex, spilled, ROW])
    assert [row[0] for row in rows] == ["reserved", "reserved › priority", "flex"]
    assert rows[0][1:] == ("2.0", "52 ms", "1.2 s", "100", "0", "0", "0", "0")
    assert rows[1][1:] == ("2.0", "–", "–", "100", "4", "2", "1", "3")
    assert view.tokens_per_s([ROW, flex]) == 200


def test_floors_show_what_is_used_of_the_minute_with_debt_beyond_all(pool):
    """R20."""
    assert view.floor_rows(pool, {"p1": "tax"}) == [("tax", "1,000", "75%", "200", "110%")]
    assert view.floor_rows(pool, {})[0][0] == "p1"
    pool["floors"][0]["output_tpm"] = 0
    assert view.floor_rows(pool, {})[0][4] == "–"


def test_the_sparkline_is_the_last_values_to_the_largest():
    assert view.sparkline([0, 50, 100, 200], 80) == "▁▃▅█"
    assert view.sparkline([1, 2, 3, 4], 2) == "▇█"
    assert view.sparkline([0, 0], 80) == "▁▁"
    assert view.sparkline([1.0], 0) == view.sparkline([], 9) == ""


@pytest.mark.parametrize(
    ("ms", "said"), [(None, "–"), (0, "0 ms"), (999, "999 ms"), (4_100, "4.1 s"), (540_000, "9 min")]
)
def test_times_are_short(ms, said):
    assert view.duration(ms) == said
