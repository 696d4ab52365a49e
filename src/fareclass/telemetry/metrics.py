"""The metrics of one gateway in Prometheus' text form (R42)."""

from collections.abc import Callable, Iterable

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fareclass.core.outcomes import CALLER_ERRORS, Outcome
from fareclass.core.tiers import Tier
from fareclass.core.usage import KINDS
from fareclass.telemetry.counts import OUTCOMES, Counts, Histogram, Series
from fareclass.telemetry.parts import add_batches, add_floors, add_pools, add_traces, add_waiting
from fareclass.telemetry.states import BatchState, LedgerState, PoolState, TraceState
from fareclass.telemetry.text import Page

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SERVER_ERRORS = (Outcome.UPSTREAM_FAILED, Outcome.INTERNAL)
_COUNTERS: tuple[tuple[str, str, Callable[[Series], int]], ...] = (
    ("invocations", "Requests whose answer came whole", lambda one: one.count((Outcome.COMPLETED,))),
    ("throttled", "Refused for a quota or budget of their own (429)", lambda one: one.count((Outcome.THROTTLED,))),
    ("shed", "Refused or given up for lack of capacity", lambda one: one.count((Outcome.SHED, Outcome.EXPIRED))),
    ("client_errors", "Refused as the caller's mistake", lambda one: one.count(CALLER_ERRORS)),
    ("server_errors", "Failed on our side or the engine's", lambda one: one.count(_SERVER_ERRORS)),
    ("pauses", "Times that an answer was paused (R11)", lambda one: one.pauses),
    ("restarts", "Times that a request was started over (R11)", lambda one: one.restarts),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Series], Histogram]], ...] = (
    ("request_duration_seconds", "From arrival to the last byte", lambda one: one.latency),
    ("time_to_first_token_seconds", "From arrival to the first token", lambda one: one.ttft),
    ("queue_wait_seconds", "From arrival to the start on a replica", lambda one: one.queue),
    ("stream_gap_seconds", "The longest gap of each stream", lambda one: one.gap),
    ("time_per_output_token_seconds", "Of one request, after its first token", lambda one: one.token_s),
    ("output_tokens_per_second", "Of one request, after its first token", lambda one: one.rate),
)


class Seen(Struct, frozen=True, kw_only=True):
    """What moves in the event loop, as it was at one moment of it."""

    pools: list[PoolState]
    ledger: LedgerState
    batches: BatchState
    webhooks_waiting: int
    traces: TraceState


class Metrics:
    """Reads all parts of a gateway when somebody scrapes."""

    def __init__(
        self,
        counts: Counts,
        *,
        pools: Callable[[], Iterable[PoolState]],
        ledger: Callable[[], LedgerState],
        batches: Callable[[], BatchState],
        webhooks_waiting: Callable[[], int],
        traces: Callable[[], TraceState],
    ) -> None:
        self._counts = counts
        self._pools = pools
        self._ledger = ledger
        self._batches = batches
        self._webhooks_waiting = webhooks_waiting
        self._traces = traces
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def look(self) -> Seen:
        """What moves in the event loop: call it there."""
        return Seen(
            pools=list(self._pools()),
            ledger=self._ledger(),
            batches=self._batches(),
            webhooks_waiting=self._webhooks_waiting(),
            traces=self._traces(),
        )

    def render(self, seen: Seen) -> bytes:
        """All metrics. Takes some 0.2 ms for each set of labels: call it in a thread."""
        page = Page()
        _add_requests(page, self._counts)
        add_pools(page, seen.pools)
        add_floors(page, seen.pools, self._counts)
        add_batches(page, seen.batches)
        add_waiting(page, seen.ledger, seen.webhooks_waiting)
        add_traces(page, seen.traces)
        return page.render() + generate_latest(self._process)


def _add_requests(page: Page, counts: Counts) -> None:
    rows = [(row.labels, row) for row in counts.rows()]
    outcomes = (
        (f'{words},outcome="{outcome.value}"', count)
        for words, row in rows
        for outcome, count in zip(OUTCOMES, row.series.outcomes, strict=True)
        if count
    )
    tokens = (
        (f'{words},kind="{kind}"', count)
        for words, row in rows
        for kind, count in zip(KINDS, row.series.tokens, strict=True)
    )
    spilled = (
        (words, sum(row.series.outcomes)) for words, row in rows if row.requested is Tier.RESERVED is not row.served
    )
    quota = ((words, counts.quota_tokens(row)) for words, row in rows)
    page.counter("requests", "Requests by how they ended (R6)", outcomes)
    page.counter("tokens", "Tokens used, by kind", tokens)
    page.counter("spilled", "Reserved requests beyond their floor (R21)", spilled)
    page.counter("quota_tokens", "What on-demand quotas were charged, estimated (R25)", quota)
    for name, help_text, count_of in _COUNTERS:
        page.counter(name, help_text, [(words, count_of(row.series)) for words, row in rows])
    for name, help_text, histogram_of in _HISTOGRAMS:
        histograms = [(words, histogram_of(row.series)) for words, row in rows]
        page.histogram(name, help_text, [(words, one.buckets(), one.total) for words, one in histograms if one.used])
