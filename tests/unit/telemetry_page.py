"""A page of metrics without a gateway behind it."""

from fareclass.core.events import Finished
from fareclass.core.outcomes import Outcome
from fareclass.core.snapshot import Burndown
from fareclass.core.tiers import Tier
from fareclass.core.usage import Usage
from fareclass.telemetry.counts import Counts
from fareclass.telemetry.metrics import Metrics
from fareclass.telemetry.states import BatchState, LedgerState, PoolState, TraceState

POOL = PoolState(
    model="m", queued={Tier.FLEX: 3}, running={Tier.DEFAULT: 5}, slots={"replica-1": 8}, up={"replica-1": True},
    paused={Tier.FLEX: 1}, wait_s={Tier.FLEX: 12.5}, floor_starts=7, guard_starts=2, kept_share=0.5, headroom_slots=6,
    floors={"p": (6_000, 1_200), "q": (600, 60)},
)  # fmt: skip


def finished(**fields) -> Finished:
    plain = {
        "id": "r", "project": "p", "model": "m", "endpoint": "chat", "outcome": Outcome.COMPLETED, "streamed": True,
        "usage": Usage(input=100, cache_read=20, output=51), "arrived_us": 0, "started_us": 200_000,
        "first_token_us": 1_000_000, "ended_us": 2_000_000, "queue_ms": 200, "longest_gap_ms": 40,
    }  # fmt: skip
    return Finished(**{**plain, **fields})


class Telemetry:
    """Counts and the page that shows them, beside parts that are always the same."""

    def __init__(self) -> None:
        counts = Counts({"m": Burndown(output=300)})
        self.pool = POOL
        self.observe = counts.observe
        self._metrics = Metrics(
            counts,
            pools=lambda: [self.pool],
            ledger=lambda: LedgerState(pending=11, dropped=4, lag_s=2.5, rollup_lag_s=1.5),
            batches=lambda: BatchState(count={"running": 3, "waiting": 1}, at_risk=2, raised=17, window_s=90.0),
            webhooks_waiting=lambda: 9,
            traces=lambda: TraceState(made=5, delivered=3, failed=1),
        )

    def render(self) -> bytes:
        return self._metrics.render(self._metrics.look())
