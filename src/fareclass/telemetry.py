"""Turns what happened into metrics (R42) and JSON log lines.

A finished request adds to plain numbers in one `_Series` of its labels; Prometheus text is
only made when somebody scrapes. Labels are bounded: models are the configured ones,
projects the first `METRIC_PROJECTS` seen, tiers five. No text of a caller becomes a label.
"""

import json
import logging
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from fareclass.core.events import Finished
from fareclass.core.limits import METRIC_PROJECTS
from fareclass.core.outcomes import Outcome
from fareclass.core.tiers import TIERS, Tier
from fareclass.core.usage import KINDS

_LABELS = ("model", "service_tier", "resolved_service_tier", "project")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RATES = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0)
_OUTCOMES = tuple(Outcome)
_PLACE = {outcome: place for place, outcome in enumerate(_OUTCOMES)}
_CLIENT_ERRORS = (Outcome.INVALID, Outcome.UNAUTHENTICATED, Outcome.FORBIDDEN, Outcome.NOT_FOUND)
_SERVER_ERRORS = (Outcome.UPSTREAM_FAILED, Outcome.INTERNAL)

_SECRET = re.compile(r"(fc_\w+?_)[a-z2-7]{16,}")
"""A bearer token, as `core.tokens` makes them: what proves it is cut out of every log line."""

_Labels = tuple[str, Tier, Tier, str]


class PoolState(Struct, frozen=True, kw_only=True):
    """One model's pool at the moment of a scrape. `slots` and `up` are by replica, `queued` and `running` by tier.

    `floor_starts` and `guard_starts` count the exceptions to the strict order (R7). `kept_share` is what of the
    floors in force the replicas that are up can keep (R23).
    """

    model: str
    queued: Mapping[Tier, int]
    running: Mapping[Tier, int]
    slots: Mapping[str, int]
    up: Mapping[str, bool]
    floor_starts: int
    guard_starts: int
    kept_share: float = 1.0
    headroom_slots: int = 0


class LedgerState(Struct, frozen=True, kw_only=True):
    """The ledger at the moment of a scrape: entries that wait for the disk, and those given up since the start."""

    pending: int
    dropped: int


class _Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield bound, seen


class _Series:
    """Everything counted under one set of labels."""

    __slots__ = ("gap", "latency", "outcomes", "pauses", "queue", "quota", "rate", "restarts", "tokens", "ttft")

    def __init__(self) -> None:
        self.outcomes = [0] * len(_OUTCOMES)
        self.tokens = [0] * len(KINDS)
        self.quota = 0
        self.pauses = 0
        self.restarts = 0
        self.latency = _Histogram(_SECONDS)
        self.ttft = _Histogram(_SECONDS)
        self.queue = _Histogram(_SECONDS)
        self.gap = _Histogram(_SECONDS)
        self.rate = _Histogram(_RATES)

    def add(self, finished: Finished, output_burndown: int) -> None:
        self.outcomes[_PLACE[finished.outcome]] += 1
        self.pauses += finished.pauses
        self.restarts += finished.restarts
        if finished.started_us is not None:
            self.queue.add(finished.queue_ms / 1e3)
        if finished.first_token_us is not None:
            self._add_answer(finished, finished.first_token_us, output_burndown)

    def _add_answer(self, finished: Finished, first_token_us: int, output_burndown: int) -> None:
        usage, ended_us = finished.usage, finished.ended_us
        self.latency.add((ended_us - finished.arrived_us) / 1e6)
        self.ttft.add((first_token_us - finished.arrived_us) / 1e6)
        if finished.streamed:
            self.gap.add(finished.longest_gap_ms / 1e3)
        if usage.output > 1 and ended_us > first_token_us:
            self.rate.add((usage.output - 1) * 1e6 / (ended_us - first_token_us))
        tokens = self.tokens
        tokens[0] += usage.input
        tokens[1] += usage.cache_write_5m
        tokens[2] += usage.cache_write_1h
        tokens[3] += usage.cache_read
        tokens[4] += usage.output
        self.quota += usage.input + usage.cache_write_5m + usage.cache_write_1h
        self.quota += -(-usage.output * output_burndown // 100)

    def count(self, outcomes: Iterable[Outcome]) -> int:
        return sum(self.outcomes[_PLACE[outcome]] for outcome in outcomes)


class Telemetry(Collector):
    """The metrics of one gateway. `output_burndown` is by model, in hundredths, and names all of them (R25).

    `observe` and `render` may be called from different threads.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(
        self,
        output_burndown: Mapping[str, int],
        pools: Callable[[], Iterable[PoolState]],
        ledger: Callable[[], LedgerState],
    ) -> None:
        self._output_burndown = output_burndown
        self._pools = pools
        self._ledger = ledger
        self._projects: set[str] = set()
        self._series: dict[_Labels, _Series] = {}
        self._known: dict[_Labels, _Series] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, finished: Finished) -> None:
        """Count one request. Called on the hot path: some two microseconds."""
        key = (finished.model, finished.requested_tier, finished.served_tier, finished.project)
        series = self._known.get(key) or self._find(key)
        series.add(finished, self._output_burndown.get(finished.model, 100))

    def render(self) -> bytes:
        """All metrics in Prometheus' text form. Takes milliseconds: call it in a thread."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        series = [(_words(labels), one) for labels, one in list(self._series.items())]
        yield from _counters(series)
        yield from _histograms(series)
        yield from _of_pools(list(self._pools()))
        yield from _of_ledger(self._ledger())

    def _find(self, key: _Labels) -> _Series:
        """The series of these labels. A name of a model that we don't have is a caller's text: not kept."""
        model, requested, served, project = key
        if len(self._projects) < METRIC_PROJECTS:
            self._projects.add(project)
        label = project if project in self._projects else "other"
        known = model in self._output_burndown
        series = self._series.setdefault((model if known else "unknown", requested, served, label), _Series())
        if known:
            self._known[key] = series
        return series


_Rows = list[tuple[tuple[str, ...], _Series]]


def _words(labels: _Labels) -> tuple[str, ...]:
    return labels[0], labels[1].word, labels[2].word, labels[3]


def _counters(rows: _Rows) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "fareclass_requests", "Requests by how they ended (R6)", labels=(*_LABELS, "outcome")
    )
    tokens = CounterMetricFamily("fareclass_tokens", "Tokens used, by kind", labels=(*_LABELS, "kind"))
    spilled = CounterMetricFamily("fareclass_spilled", "Reserved requests beyond their floor (R21)", labels=_LABELS)
    for labels, series in rows:
        for outcome, count in zip(_OUTCOMES, series.outcomes, strict=True):
            if count:
                requests.add_metric((*labels, outcome.value), count)
        for kind, count in zip(KINDS, series.tokens, strict=True):
            tokens.add_metric((*labels, kind), count)
        if labels[1] == Tier.RESERVED.word != labels[2]:
            spilled.add_metric(labels, sum(series.outcomes))
    yield requests
    yield tokens
    yield spilled
    plain: tuple[tuple[str, str, Callable[[_Series], int]], ...] = (
        ("invocations", "Requests whose answer came whole", lambda one: one.count((Outcome.COMPLETED,))),
        ("throttled", "Refused for a quota or budget of their own (429)", lambda one: one.count((Outcome.THROTTLED,))),
        ("shed", "Refused or given up for lack of capacity", lambda one: one.count((Outcome.SHED, Outcome.EXPIRED))),
        ("client_errors", "Refused as the caller's mistake", lambda one: one.count(_CLIENT_ERRORS)),
        ("server_errors", "Failed on our side or the engine's", lambda one: one.count(_SERVER_ERRORS)),
        ("quota_tokens", "What on-demand quotas were charged, estimated (R25)", lambda one: one.quota),
        ("pauses", "Times that an answer was paused (R11)", lambda one: one.pauses),
        ("restarts", "Times that a request was started over (R11)", lambda one: one.restarts),
    )
    for name, help_text, read in plain:
        family = CounterMetricFamily(f"fareclass_{name}", help_text, labels=_LABELS)
        for labels, series in rows:
            family.add_metric(labels, read(series))
        yield family


def _histograms(rows: _Rows) -> Iterator[Metric]:
    plain: tuple[tuple[str, str, Callable[[_Series], _Histogram]], ...] = (
        ("request_duration_seconds", "From arrival to the last byte", lambda one: one.latency),
        ("time_to_first_token_seconds", "From arrival to the first token", lambda one: one.ttft),
        ("queue_wait_seconds", "From arrival to the start on a replica", lambda one: one.queue),
        ("stream_gap_seconds", "The longest gap of each stream", lambda one: one.gap),
        ("output_tokens_per_second", "Of one request, after its first token", lambda one: one.rate),
    )
    for name, help_text, read in plain:
        family = HistogramMetricFamily(f"fareclass_{name}", help_text, labels=_LABELS)
        for labels, series in rows:
            histogram = read(series)
            buckets = list(histogram.buckets())
            if buckets[-1][1]:
                family.add_metric(labels, buckets, histogram.total)
        yield family


def _of_pools(pools: list[PoolState]) -> Iterator[Metric]:
    queued = GaugeMetricFamily("fareclass_queue_depth", "Requests that stand in line", labels=("model", "service_tier"))
    running = GaugeMetricFamily("fareclass_running_slots", "Sequences that run", labels=("model", "service_tier"))
    slots = GaugeMetricFamily("fareclass_replica_slots", "Slots of a replica", labels=("model", "replica"))
    up = GaugeMetricFamily("fareclass_replica_up", "1 where a replica can serve", labels=("model", "replica"))
    exceptions = CounterMetricFamily(
        "fareclass_out_of_order_starts", "Starts ahead of a better tier in line (R7)", labels=("model", "reason")
    )
    kept = GaugeMetricFamily(
        "fareclass_floor_kept_share",
        "Share of all floors that the replicas which are up can keep (R23)",
        labels=("model",),
    )
    headroom = GaugeMetricFamily(
        "fareclass_headroom_slots", "Slots kept free of work that can't be moved (R10)", labels=("model",)
    )
    for pool in pools:
        kept.add_metric((pool.model,), pool.kept_share)
        headroom.add_metric((pool.model,), pool.headroom_slots)
        for tier in TIERS:
            queued.add_metric((pool.model, tier.word), pool.queued.get(tier, 0))
            running.add_metric((pool.model, tier.word), pool.running.get(tier, 0))
        for replica, count in pool.slots.items():
            slots.add_metric((pool.model, replica), count)
            up.add_metric((pool.model, replica), int(pool.up.get(replica, False)))
        exceptions.add_metric((pool.model, "floor"), pool.floor_starts)
        exceptions.add_metric((pool.model, "gap_guard"), pool.guard_starts)
    yield from (queued, running, slots, up, exceptions, kept, headroom)


def _of_ledger(ledger: LedgerState) -> Iterator[Metric]:
    yield GaugeMetricFamily("fareclass_ledger_pending", "Entries that wait for the disk", value=ledger.pending)
    yield CounterMetricFamily(
        "fareclass_ledger_dropped", "Entries of refused requests given up while too many waited", value=ledger.dropped
    )


class JsonFormatter(logging.Formatter):
    """One log record as one line of JSON: time, level, logger, message, what was given as `extra`, the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in self._own}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _SECRET.sub(r"\1…", json.dumps(line, default=str))


def log_as_json(level: int = logging.INFO, stream: TextIO = sys.stderr) -> None:
    """Make every logger of this process write JSON lines (R51). Libraries speak from `WARNING` on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fareclass").setLevel(level)
