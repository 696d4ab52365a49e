"""The metrics of R42."""

import pytest
from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fareclass.core.limits import METRIC_PROJECTS
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from tests.unit.telemetry_page import POOL, Telemetry, finished


@pytest.fixture
def telemetry():
    return Telemetry()


def samples(page: Telemetry | list[Metric], name: str, **labels: str) -> list[float]:
    """The values of a metric under these labels."""
    return [
        sample.value
        for family in (parsed(page) if isinstance(page, Telemetry) else page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def parsed(telemetry: Telemetry) -> list[Metric]:
    return list(text_string_to_metric_families(telemetry.render().decode()))


def test_requests_beyond_their_floor_and_floors_that_shrink_are_seen(telemetry):
    """R21, R23."""
    telemetry.observe(finished(requested_tier=Tier.RESERVED, served_tier=Tier.FLEX))
    telemetry.observe(finished(requested_tier=Tier.RESERVED, served_tier=Tier.RESERVED))
    telemetry.observe(finished(requested_tier=Tier.DEFAULT, served_tier=Tier.PRIORITY))
    assert samples(telemetry, "fareclass_spilled_total") == [1]
    assert samples(telemetry, "fareclass_spilled_total", resolved_service_tier="flex", project="p") == [1]
    assert samples(telemetry, "fareclass_floor_kept_share", model="m") == [0.5]
    assert samples(telemetry, "fareclass_headroom_slots", model="m") == [6]


def test_a_request_is_counted_under_its_model_tiers_and_project(telemetry):
    telemetry.observe(finished(requested_tier=Tier.PRIORITY, served_tier=Tier.DEFAULT, pauses=2, restarts=1))
    labels = {"model": "m", "service_tier": "priority", "resolved_service_tier": "default", "project": "p"}
    assert samples(telemetry, "fareclass_invocations_total", **labels) == [1]
    assert samples(telemetry, "fareclass_tokens_total", kind="output", **labels) == [51]
    assert samples(telemetry, "fareclass_tokens_total", kind="cache_read", **labels) == [20]
    assert samples(telemetry, "fareclass_quota_tokens_total", **labels) == [100 + 3 * 51], "cache reads are free (R25)"
    assert samples(telemetry, "fareclass_pauses_total", **labels) == [2]
    assert samples(telemetry, "fareclass_restarts_total", **labels) == [1]
    sums = {"request_duration_seconds": 2.0, "time_to_first_token_seconds": 1.0, "queue_wait_seconds": 0.2}
    for name, total in (
        sums | {"stream_gap_seconds": 0.04, "output_tokens_per_second": 50.0, "time_per_output_token_seconds": 0.02}
    ).items():
        assert samples(telemetry, f"fareclass_{name}_sum", **labels) == [total]
        assert samples(telemetry, f"fareclass_{name}_count", **labels) == [1]


def test_a_floors_use_is_counted_apart_and_takes_no_quota(telemetry):
    """R24: burn-down tokens of each side; R25, R37: what has a floor or a window of its own is in no quota."""
    usage = Usage(input=100, cache_write_5m=40, cache_write_1h=10, cache_read=200, output=50)
    for _ in range(3):
        telemetry.observe(finished(requested_tier=Tier.RESERVED, served_tier=Tier.RESERVED, usage=usage))
    telemetry.observe(finished(requested_tier=Tier.BATCH, served_tier=Tier.BATCH))
    telemetry.observe(finished(requested_tier=Tier.RESERVED, served_tier=Tier.DEFAULT, usage=usage))
    floor = {"model": "m", "project": "p"}
    assert samples(telemetry, "fareclass_floor_used_tokens_total", side="input", **floor) == [3 * (100 + 50 + 20 + 20)]
    assert samples(telemetry, "fareclass_floor_used_tokens_total", side="output", **floor) == [3 * 3 * 50]
    assert samples(telemetry, "fareclass_floor_tokens_per_minute", side="input", **floor) == [6_000]
    assert samples(telemetry, "fareclass_floor_tokens_per_minute", side="output", project="q") == [60]
    charged = {
        tier: samples(telemetry, "fareclass_quota_tokens_total", resolved_service_tier=tier)
        for tier in ("reserved", "batch", "default")
    }
    assert charged == {"reserved": [0], "batch": [0], "default": [100 + 40 + 10 + 3 * 50]}


def test_buckets_are_cumulative(telemetry):
    for ttft_us in (4_000, 40_000, 400_000_000):
        telemetry.observe(finished(first_token_us=ttft_us, ended_us=ttft_us + 1))
    name = "fareclass_time_to_first_token_seconds_bucket"
    counts = [samples(telemetry, name, le=bound)[0] for bound in ("0.005", "0.025", "0.05", "300.0", "+Inf")]
    assert counts == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("outcome", "metric"),
    [
        (Outcome.THROTTLED, "throttled"),
        (Outcome.SHED, "shed"),
        (Outcome.EXPIRED, "shed"),
        (Outcome.INVALID, "client_errors"),
        (Outcome.FORBIDDEN, "client_errors"),
        (Outcome.UPSTREAM_FAILED, "server_errors"),
        (Outcome.INTERNAL, "server_errors"),
    ],
)
def test_refusals_are_counted_apart(telemetry, outcome, metric):
    """R42: throttled and shed apart, client and server errors; an estimate of what never ran is no usage (R35)."""
    telemetry.observe(finished(outcome=outcome, started_us=None, first_token_us=None))
    counted = {
        name: samples(telemetry, f"fareclass_{name}_total")
        for name in ("invocations", "throttled", "shed", "client_errors", "server_errors")
    }
    assert counted.pop(metric) == [1]
    assert all(values == [0] for values in counted.values())
    assert samples(telemetry, "fareclass_requests_total", outcome=outcome.value) == [1]
    assert set(samples(telemetry, "fareclass_tokens_total")) == {0}
    assert samples(telemetry, "fareclass_time_to_first_token_seconds_count") == []


STRANGE = ("", "é\u2028", 'a"b\\', "evil\n# TYPE x counter", "\x00", "{}", "𝔘" * 1_000)


def test_labels_are_bounded(telemetry):
    """R51: a model that does not exist is a caller's text and no label; projects beyond the bound share one."""
    many = [f"p{number}" for number in range(3_000)] + list(STRANGE)
    for name in many:
        telemetry.observe(finished(project=name))
        telemetry.observe(finished(model=name, project="p0", outcome=Outcome.NOT_FOUND))
    telemetry.pool = replace(POOL, floors=dict.fromkeys(many, (2, 1)))
    page, over = parsed(telemetry), len(many) - METRIC_PROJECTS
    assert len(samples(page, "fareclass_invocations_total", model="m")) == METRIC_PROJECTS + 1
    assert samples(page, "fareclass_invocations_total", model="m", project="other") == [over]
    assert samples(page, "fareclass_client_errors_total", model="unknown") == [len(many)]
    assert len(samples(page, "fareclass_floor_tokens_per_minute", side="input")) == METRIC_PROJECTS + 1
    assert samples(page, "fareclass_floor_tokens_per_minute", side="input", project="other") == [2 * over]
    assert "evil" not in telemetry.render().decode()


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_is_shown_as_it_is_whatever_it_is(telemetry, name):
    """A strange name spoils no line of the page."""
    telemetry.observe(finished(project=name))
    assert samples(telemetry, "fareclass_invocations_total", project=name) == [1]


def test_pools_are_read_when_somebody_scrapes(telemetry):
    assert samples(telemetry, "fareclass_queue_depth", service_tier="flex") == [3]
    assert samples(telemetry, "fareclass_queue_depth", service_tier="priority") == [0]
    assert samples(telemetry, "fareclass_paused_requests", service_tier="flex") == [1]
    assert samples(telemetry, "fareclass_expected_wait_seconds", service_tier="flex") == [12.5]
    assert samples(telemetry, "fareclass_running_slots", service_tier="default") == [5]
    assert samples(telemetry, "fareclass_replica_up", model="m", replica="replica-1") == [1]
    assert samples(telemetry, "fareclass_out_of_order_starts_total", model="m", reason="floor") == [7]
    assert samples(telemetry, "fareclass_out_of_order_starts_total", model="m", reason="gap_guard") == [2]


def test_batches_webhooks_and_traces_are_read_when_somebody_scrapes(telemetry):
    assert samples(telemetry, "fareclass_batches", state="running") == [3]
    assert samples(telemetry, "fareclass_batches_at_risk") == [2]
    assert samples(telemetry, "fareclass_batch_raised_lines") == [17]
    assert samples(telemetry, "fareclass_batch_window_left_seconds") == [90]
    assert samples(telemetry, "fareclass_webhooks_waiting") == [9]
    assert samples(telemetry, "fareclass_trace_spans_total", state="made") == [5]
    assert samples(telemetry, "fareclass_trace_spans_total", state="failed") == [1]


def test_the_ledger_is_read_when_somebody_scrapes(telemetry):
    assert samples(telemetry, "fareclass_ledger_pending") == [11]
    assert samples(telemetry, "fareclass_ledger_lag_seconds") == [2.5]
    assert samples(telemetry, "fareclass_ledger_dropped_total") == [4]
    assert samples(telemetry, "fareclass_rollup_lag_seconds") == [1.5]
