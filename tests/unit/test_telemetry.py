"""The metrics of R42 and the logs of R51."""

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fareclass.core.events import Finished
from fareclass.core.limits import METRIC_PROJECTS
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import Tier
from fareclass.core.tokens import token
from fareclass.core.usage import Usage
from fareclass.telemetry import JsonFormatter, LedgerState, PoolState, Telemetry

POOL = PoolState(
    model="m", queued={Tier.FLEX: 3}, running={Tier.DEFAULT: 5}, slots={"replica-1": 8}, up={"replica-1": True},
    floor_starts=7, guard_starts=2, kept_share=0.5, headroom_slots=6,
)  # fmt: skip


def finished(**fields) -> Finished:
    plain = {
        "id": "r", "project": "p", "model": "m", "endpoint": "chat", "outcome": Outcome.COMPLETED, "streamed": True,
        "usage": Usage(input=100, cache_read=20, output=51), "arrived_us": 0, "started_us": 200_000,
        "first_token_us": 1_000_000, "ended_us": 2_000_000, "queue_ms": 200, "longest_gap_ms": 40,
    }  # fmt: skip
    return Finished(**{**plain, **fields})


@pytest.fixture
def telemetry():
    return Telemetry({"m": 300}, lambda: [POOL], lambda: LedgerState(pending=11, dropped=4))


def samples(telemetry: Telemetry, name: str, **labels: str) -> list[float]:
    """The values of a metric under these labels."""
    return [
        sample.value
        for family in text_string_to_metric_families(telemetry.render().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


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
    assert samples(telemetry, "fareclass_quota_tokens_total", **labels) == [100 + 3 * 51]
    assert samples(telemetry, "fareclass_pauses_total", **labels) == [2]
    assert samples(telemetry, "fareclass_restarts_total", **labels) == [1]
    sums = {"request_duration_seconds": 2.0, "time_to_first_token_seconds": 1.0, "queue_wait_seconds": 0.2}
    for name, total in (sums | {"stream_gap_seconds": 0.04, "output_tokens_per_second": 50.0}).items():
        assert samples(telemetry, f"fareclass_{name}_sum", **labels) == [total]
        assert samples(telemetry, f"fareclass_{name}_count", **labels) == [1]


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


def test_labels_are_bounded(telemetry):
    """R51: a model that does not exist is a caller's text and no label; projects beyond the bound share one."""
    for number in range(METRIC_PROJECTS + 50):
        telemetry.observe(finished(project=f"p{number}"))
        telemetry.observe(finished(model=f"evil\n{number}", project="p0", outcome=Outcome.NOT_FOUND))
    assert len(samples(telemetry, "fareclass_invocations_total", model="m")) == METRIC_PROJECTS + 1
    assert samples(telemetry, "fareclass_invocations_total", project="other") == [50]
    assert samples(telemetry, "fareclass_client_errors_total", model="unknown") == [METRIC_PROJECTS + 50]
    assert b"evil" not in telemetry.render()


def test_pools_are_read_when_somebody_scrapes(telemetry):
    assert samples(telemetry, "fareclass_queue_depth", service_tier="flex") == [3]
    assert samples(telemetry, "fareclass_queue_depth", service_tier="priority") == [0]
    assert samples(telemetry, "fareclass_running_slots", service_tier="default") == [5]
    assert samples(telemetry, "fareclass_replica_up", model="m", replica="replica-1") == [1]
    assert samples(telemetry, "fareclass_out_of_order_starts_total", model="m", reason="floor") == [7]
    assert samples(telemetry, "fareclass_out_of_order_starts_total", model="m", reason="gap_guard") == [2]


def test_the_ledger_is_read_when_somebody_scrapes(telemetry):
    assert samples(telemetry, "fareclass_ledger_pending") == [11]
    assert samples(telemetry, "fareclass_ledger_dropped_total") == [4]


@pytest.fixture
def log():
    """A logger of its own, and what it wrote, as objects."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("fareclass.test")  # noqa: LOG001  # no other test shall see it
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_log_line_is_one_json_object_whatever_a_caller_sent(log):
    logger, lines = log
    logger.warning("refused %s", 'a\n{"forged": 1}', extra={"request": "é\u2028", "status": 400})
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    first, second = lines()
    assert (first["message"], first["request"], first["status"]) == ('refused a\n{"forged": 1}', "é\u2028", 400)
    assert first["level"] == "warning" and first["time"].endswith("Z")
    assert "ValueError: broken" in second["traceback"]


def test_a_secret_does_not_reach_the_log(log):
    """R51: the id of a key stays, what proves it goes."""
    logger, lines = log
    secret = token("key_7", "abcdefghijklmnopqrstuvwxyz234567")
    logger.error("told %s", secret, extra={"header": f"Bearer {secret}"})
    [line] = lines()
    assert line["message"] == "told fc_key_7_…"
    assert line["header"] == "Bearer fc_key_7_…"
